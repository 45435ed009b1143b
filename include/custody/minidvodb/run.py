"""All steps of a copy, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from custody.host import Host
from custody.ledger import Ledger
from custody.minidvodb.destination import Destination
from custody.minidvodb.preflight import preflight
from custody.minidvodb.publish import publish
from custody.minidvodb.records import Copy, load
from custody.minidvodb.ssh import SharedSshHost
from custody.minidvodb.step import Reach, Step, close_host, reach_locally
from custody.minidvodb.transfer import transfer
from custody.minidvodb.verify import verify

STEPS: dict[str, Step] = {"preflight": preflight, "transfer": transfer, "verify": verify, "publish": publish}
"""By name, in their order."""


def carry_out(ledger: Ledger, copy_id: int, *, who: str, reach: Reach = reach_locally) -> Copy:
    """Do what is left of a copy, over one connection. Faults: those of its steps."""
    with one_connection(reach) as shared:
        for step in STEPS.values():
            step(ledger, copy_id, who=who, reach=shared)
    return load(ledger, copy_id)


@contextmanager
def one_connection(reach: Reach) -> Iterator[Reach]:
    """Let several steps in this process go over the same connection to a host."""
    hosts: dict[int, Host] = {}

    def shared(known: Destination) -> Host:
        if known.id not in hosts:
            hosts[known.id] = reach(known)
            if isinstance(hosts[known.id], SharedSshHost):
                hosts[known.id].stays = True  # type: ignore[attr-defined]
        return hosts[known.id]

    try:
        yield shared
    finally:
        for host in hosts.values():
            if isinstance(host, SharedSshHost):
                host.stays = False
            close_host(host)
