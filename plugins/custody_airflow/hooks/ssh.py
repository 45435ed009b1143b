"""Machines reached by an Airflow ssh connection."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from custody.faults import Fault, FaultKind
from custody.host import SshHost, SshTarget

SSH_ARGUMENTS = '--conn-host HOST --conn-login USER --conn-extra \'{"host_key": "ssh-ed25519 AAAA…", "key_file": "…"}\''
"""What ``airflow connections add`` is given to make one."""

DEFAULT_PORT = 22


def connection_of(connection_id: str, conn_type: str, arguments: str) -> Connection:
    """A connection by its id. Faults: CONFIG where Airflow does not know it, with the command that adds it."""
    try:
        return BaseHook.get_connection(connection_id)
    except AirflowNotFoundException as error:
        command = f"airflow connections add {connection_id} --conn-type {conn_type} {arguments}"
        subject = f"connection {connection_id}"
        raise Fault(FaultKind.CONFIG, subject, "is not known to Airflow", next_command=command) from error


def ssh_target_of(connection: Connection) -> SshTarget:
    """How to reach a machine; the extra holds ``host_key`` and ``key_file`` or ``private_key``. Faults: CONFIG."""
    extra = connection.extra_dejson
    if not connection.host:
        raise Fault(FaultKind.CONFIG, f"connection {connection.conn_id}", "has no host")
    if extra.get("private_key"):
        mask_secret(extra["private_key"])
    return SshTarget(
        host=connection.host,
        host_key=extra.get("host_key") or "",
        user=connection.login or None,
        port=connection.port or DEFAULT_PORT,
        key_file=Path(extra["key_file"]) if extra.get("key_file") else None,
        private_key=extra.get("private_key") or None,
    )


def ssh_host_of(connection_id: str) -> SshHost:
    """The machine of a connection. Faults: CONFIG where it is missing or unfit."""
    return SshHost(ssh_target_of(connection_of(connection_id, "ssh", SSH_ARGUMENTS)))
