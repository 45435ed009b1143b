"""The crawler that fills a disk, made from its configuration and the Airflow connection it names."""

from __future__ import annotations

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from custody.drain.crawler_api import CommandCrawler, Crawler, Heritrix, Login, Zeno
from custody.drain.crawler_settings import CrawlerKind, CrawlerSettings
from custody.faults import Fault, FaultKind

_PORTS = {CrawlerKind.HERITRIX: 8443}


def crawler_of(settings: CrawlerSettings) -> Crawler:
    """Make it. Faults: CONFIG where the connection is missing or unfit.

    Login and password of the connection are those of Heritrix; its extra may hold ``certificate``, the PEM text of the
    crawler's own certificate: then just that one is trusted.
    """
    if settings.kind is CrawlerKind.COMMAND:
        return CommandCrawler(settings.pause or "", settings.resume or "")
    connection = _connection(settings)
    url, certificate = _address(connection, settings), connection.extra_dejson.get("certificate") or None
    login = Login(connection.login, connection.password or "") if connection.login else None
    if login:
        mask_secret(login.password)
    if settings.kind is CrawlerKind.ZENO:
        return Zeno(url, login, certificate)
    if login is None:
        raise Fault(FaultKind.CONFIG, _subject(settings), "needs login and password, those of Heritrix's web interface")
    return Heritrix(url, settings.job or "", login, certificate)


def _connection(settings: CrawlerSettings) -> Connection:
    try:
        return BaseHook.get_connection(settings.connection)
    except AirflowNotFoundException as error:
        arguments = "--conn-type http --conn-schema https --conn-host HOST --conn-port 8443 --conn-login USER"
        command = f"airflow connections add {settings.connection} {arguments} --conn-password PASSWORD"
        raise Fault(FaultKind.CONFIG, _subject(settings), "is not known to Airflow", next_command=command) from error


def _address(connection: Connection, settings: CrawlerSettings) -> str:
    if not connection.host or "@" in connection.host:
        raise Fault(FaultKind.CONFIG, _subject(settings), "needs a host, and no login in it")
    if "://" in connection.host:
        return connection.host
    schema = connection.schema or ("https" if settings.kind is CrawlerKind.HERITRIX else "http")
    port = connection.port or _PORTS.get(settings.kind)
    return f"{schema}://{connection.host}{f':{port}' if port else ''}"


def _subject(settings: CrawlerSettings) -> str:
    return f"connection {settings.connection}"
