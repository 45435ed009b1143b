"""The machines that take copies, made from their destinations and the Airflow connections these name."""

from __future__ import annotations

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from custody.host import Host, LocalHost
from custody.minidvodb.catalogue import OldTables
from custody.minidvodb.destination import Destination
from custody.minidvodb.ssh import SharedSshHost
from custody_airflow.hooks.ledger import url_of
from custody_airflow.hooks.ssh import SSH_ARGUMENTS, connection_of, ssh_target_of

OLD_CONNECTION_ID = "custody_minidvodb_old"


def reach(known: Destination) -> Host:
    """The machine of a destination: over its ssh connection, or this one. Faults: CONFIG."""
    if not known.connection:
        return LocalHost()
    connection = connection_of(known.connection, "ssh", SSH_ARGUMENTS)
    return SharedSshHost(ssh_target_of(connection), ciphers=known.settings.ciphers, name=known.name)


def old_tables() -> OldTables | None:
    """The tables of the old system, by the connection ``custody_minidvodb_old``; None where there is none."""
    try:
        connection = BaseHook.get_connection(OLD_CONNECTION_ID)
    except AirflowNotFoundException:
        return None
    return OldTables(url_of(connection))
