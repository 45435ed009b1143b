"""The targets of a drain, made from its configuration and the Airflow connections it names."""

from __future__ import annotations

from collections.abc import Callable

from airflow.sdk import Connection
from airflow.sdk.log import mask_secret

from custody.drain.config import Destination, DrainConfig, TargetKind, Transfer
from custody.drain.targets import Target
from custody.faults import Fault, FaultKind
from custody_airflow.hooks.ssh import SSH_ARGUMENTS, connection_of, ssh_target_of


def targets_of(config: DrainConfig) -> list[Target]:
    """Make every target of a configuration, in its order. Faults: CONFIG where a connection is missing or unfit."""
    return [_MAKERS[place.target](config, place) for place in config.destinations]


def _s3(config: DrainConfig, place: Destination) -> Target:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from custody.drain.targets.s3 import S3Target

    _connection(place, "aws", '--conn-login KEY --conn-password SECRET --conn-extra \'{"endpoint_url": "https://…"}\'')
    hook = S3Hook(aws_conn_id=place.connection_id)
    assert place.bucket is not None
    return S3Target(hook.get_conn(), hook.get_credentials(), place.bucket, pacing=config.pacing)


def _ias3(config: DrainConfig, place: Destination) -> Target:
    """The Internet Archive: login and password are the IA-S3 keys.

    The extra may hold ``s3_endpoint``, ``metadata_endpoint``, ``uploader`` (the account's e-mail address),
    ``content_md5`` (base64 or hex) and ``check_limit`` (false for a server that has none).
    """
    from custody.drain.targets.ias3 import METADATA_ENDPOINT, S3_ENDPOINT, IAS3Target
    from custody.drain.targets.ias3_client import Keys, Manners

    connection = _connection(place, "http", "--conn-login ACCESS_KEY --conn-password SECRET_KEY")
    subject = f"connection {place.connection_id}"
    if not connection.login or not connection.password:
        reason = "needs login and password: the access key and the secret key of https://archive.org/account/s3.php"
        raise Fault(FaultKind.CONFIG, subject, reason, next_command=f"airflow connections delete {place.connection_id}")
    mask_secret(connection.login)
    mask_secret(connection.password)
    extra = connection.extra_dejson
    content_md5 = extra.get("content_md5", "base64")
    if content_md5 not in {"base64", "hex"}:
        raise Fault(FaultKind.CONFIG, subject, f"content_md5 {content_md5!r} is neither base64 nor hex")
    return IAS3Target(
        Keys(connection.login, connection.password),
        s3_endpoint=extra.get("s3_endpoint") or _address(connection) or S3_ENDPOINT,
        metadata_endpoint=extra.get("metadata_endpoint") or METADATA_ENDPOINT,
        derive=config.derive,
        uploader=extra.get("uploader"),
        manners=Manners(
            asks_limit=str(extra.get("check_limit", True)).lower() not in {"false", "0", "no"},
            content_md5=content_md5,
            pacing=config.pacing,
        ),
    )


def _address(connection: Connection) -> str | None:
    """Host and port of a connection as an address; https where it does not say."""
    if not connection.host or "://" in connection.host:
        return connection.host
    port = f":{connection.port}" if connection.port else ""
    return f"{connection.schema or 'https'}://{connection.host}{port}"


def _connection(place: Destination, conn_type: str, arguments: str) -> Connection:
    return connection_of(place.connection_id, conn_type, arguments)


def _thumper(config: DrainConfig, place: Destination) -> Target:
    """A second machine, by an ssh connection.

    Its extra holds ``host_key`` (required), ``key_file`` or ``private_key``; for ``transfer: pull`` also ``pull_from``
    (user@host:port of this machine as seen from there) and, over there, ``pull_key_file`` and ``pull_known_hosts``.
    """
    from custody.drain.targets.thumper import PullFrom, ThumperTarget
    from custody.host import SshHost

    connection = _connection(place, "ssh", SSH_ARGUMENTS)
    subject = f"connection {place.connection_id}"
    extra = connection.extra_dejson
    address = ssh_target_of(connection)
    pull_from = None
    if place.transfer is Transfer.PULL:
        if not extra.get("pull_from"):
            reason = "has no pull_from in its extra: user@host:port of this machine as seen from there"
            raise Fault(FaultKind.CONFIG, subject, reason, next_command="add it, or set transfer: push")
        pull_from = PullFrom.parse(
            extra["pull_from"], key_file=extra.get("pull_key_file"), known_hosts=extra.get("pull_known_hosts")
        )
    assert place.remote_dir is not None
    return ThumperTarget(
        SshHost(address),
        place.remote_dir,
        port=address.port,
        pull_from=pull_from,
        pacing=config.pacing,
        connections=config.upload_connections,
    )


def _directory(config: DrainConfig, place: Destination) -> Target:
    """A directory of this machine; it needs no connection."""
    from custody.drain.targets.directory import DirectoryTarget

    assert place.remote_dir is not None
    return DirectoryTarget(place.remote_dir, drained=config.job_dir, pacing=config.pacing)


_MAKERS: dict[TargetKind, Callable[[DrainConfig, Destination], Target]] = {
    TargetKind.S3: _s3,
    TargetKind.IAS3: _ias3,
    TargetKind.THUMPER: _thumper,
    TargetKind.DIRECTORY: _directory,
}
