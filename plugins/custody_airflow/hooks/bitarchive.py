"""An archive: its configuration, the ledger, and its nodes by the Airflow connections it names."""

from __future__ import annotations

from custody.bitarchive.archive import Archive, host_by_configuration
from custody.bitarchive.config import Node
from custody.host import SshHost
from custody_airflow.hooks.ledger import open_ledger
from custody_airflow.hooks.ssh import ssh_host_of


def open_archive(name: str) -> Archive:
    """Open an archive by the name of its configuration. Faults: CONFIG, TRANSIENT."""
    return Archive.open(name, open_ledger(), host_of)


def host_of(node: Node) -> SshHost:
    """The machine of a node. Faults: CONFIG where its connection is missing or unfit."""
    return ssh_host_of(node.connection) if node.connection else host_by_configuration(node)
