"""The databases of a farm, by the Airflow connection that its configuration names."""

from __future__ import annotations

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from custody.faults import Fault, FaultKind
from custody.wiki_dump.access import Access, from_files
from custody.wiki_dump.farm_config import FarmConfig
from custody.wiki_dump.settings import Settings


def access_of(farm: FarmConfig, settings: Settings) -> Access:
    """How to reach the databases. Faults: CONFIG where the connection is missing or unfit.

    A mysql connection: host, port, login, password; its extra may hold ``unix_socket``.
    """
    if farm.connection is None:
        return from_files(farm, settings)
    subject = f"connection {farm.connection}"
    try:
        connection = BaseHook.get_connection(farm.connection)
    except AirflowNotFoundException as error:
        arguments = "--conn-type mysql --conn-host HOST --conn-login USER --conn-password PASSWORD"
        command = f"airflow connections add {farm.connection} {arguments}"
        raise Fault(FaultKind.CONFIG, subject, "is not known to Airflow", next_command=command) from error
    if connection.password:
        mask_secret(connection.password)
    socket = connection.extra_dejson.get("unix_socket")
    if not connection.host and not socket:
        raise Fault(FaultKind.CONFIG, subject, "has neither host nor unix_socket")
    return Access(
        host=connection.host or "localhost",
        port=connection.port or 3306,
        user=connection.login or "",
        password=connection.password or "",
        socket=socket,
    )
