"""An archive at work: its configuration, its ledger, its nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from custody.bitarchive.config import ArchiveConfig, Node, Replica, load
from custody.bitarchive.nodes import ArchiveNode, LocalNode
from custody.bitarchive.nodes_ssh import SshNode
from custody.faults import Fault, FaultKind
from custody.host import SshHost, SshTarget
from custody.ledger import Ledger

HostOf = Callable[[Node], SshHost]
"""Makes the host of a remote node."""


def host_by_configuration(node: Node) -> SshHost:
    """The host as the configuration's ``ssh`` says. Faults: CONFIG where only Airflow knows the way."""
    if node.ssh is None:
        reason = f"is reached by the Airflow connection {node.connection}; the command line needs an `ssh:` block"
        raise Fault(FaultKind.CONFIG, f"node {node.name}", reason)
    ssh = node.ssh
    return SshHost(SshTarget(ssh.host, ssh.host_key, ssh.user, ssh.port, ssh.key_file))


@dataclass
class Archive:
    """One archive.

    :param name: of its configuration; its files are on record under it.
    """

    name: str
    config: ArchiveConfig
    ledger: Ledger
    host_of: HostOf = field(default=host_by_configuration)

    @classmethod
    def open(cls, name: str, ledger: Ledger | None = None, host_of: HostOf = host_by_configuration) -> Archive:
        """Read the configuration and open the ledger. Faults: CONFIG, TRANSIENT."""
        return cls(name, load(name), ledger or Ledger.open(), host_of)

    @cached_property
    def _nodes(self) -> dict[tuple[str, str], ArchiveNode]:
        return {}

    def node(self, replica: Replica, name: str) -> ArchiveNode:
        """A node of a replica. Faults: CONFIG where the configuration knows none of this name."""
        key = (replica.id, name)
        if key not in self._nodes:
            for node in replica.nodes:
                if node.name == name:
                    self._nodes[key] = self._make(node)
                    break
            else:
                reason = f"is not in the configuration of replica {replica.id}, and files are on record there"
                raise Fault(FaultKind.CONFIG, f"node {name}", reason, next_command="put it back, or adopt the replica")
        return self._nodes[key]

    def nodes(self, replica: Replica) -> list[ArchiveNode]:
        """Every node of a replica, in the order of the configuration."""
        return [self.node(replica, node.name) for node in replica.nodes]

    def _make(self, node: Node) -> ArchiveNode:
        if node.is_remote:
            return SshNode(node.name, node.directory, self.host_of(node), node.command)
        return LocalNode(node.name, node.directory)
