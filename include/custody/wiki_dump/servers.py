"""At most so many runs at a time on one database server, whichever farms and wikis they belong to.

A slot is a lease in the ledger. A run takes one when it claims its wiki, its heartbeat keeps it, the end of the run
gives it back. Whoever finds none free waits without a worker slot, and asks again.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

import sqlalchemy as sa

from custody import lease
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.ledger.tables import lease as lease_table

_PREFIX = "wiki_dump/server/"
_MAX_NAME = 120
ASK_AGAIN_AFTER = timedelta(seconds=60)


def holder_of(owner: str) -> str:
    """How the leases of a run name their holder."""
    return f"run {owner}"


def hold(ledger: Ledger, server: str, limit: int, *, owner: str, ttl: timedelta) -> None:
    """Take one of the ``limit`` slots of a server for a run, or keep the one it has.

    Faults: THROTTLED where all are taken, with the time at which to ask again.
    """
    names = [_slot(server, number) for number in range(1, limit + 1)]
    mine = _held_by(ledger, owner)
    for taken in mine:
        if taken.name in names:
            try:
                lease.beat(ledger, taken, ttl=ttl)
            except Fault as fault:
                if fault.kind is not FaultKind.CONFLICT:
                    raise
                continue
            return
    for name in names:
        try:
            lease.take(ledger, name, holder=holder_of(owner), ttl=ttl)
        except Fault as fault:
            if fault.kind is not FaultKind.CONFLICT:
                raise
        else:
            return
    raise Fault(
        FaultKind.THROTTLED,
        f"database server {server}",
        f"has {limit} runs already, as many as runs_per_server allows",
        until=now() + ASK_AGAIN_AFTER,
    )


def give_back(ledger: Ledger, owner: str, *, but: str | None = None) -> None:
    """Let others have the slots of a run. :param but: the server whose slot it keeps."""
    for taken in _held_by(ledger, owner):
        if but is None or not taken.name.startswith(_slot(but, "")):
            lease.give_back(ledger, taken)


def _slot(server: str, number: int | str) -> str:
    name = server
    if len(name) > _MAX_NAME:
        name = hashlib.sha256(server.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{_PREFIX}{name}/{number}"


def _held_by(ledger: Ledger, owner: str) -> list[lease.Lease]:
    """The slots that a run holds at the moment."""
    query = sa.select(lease_table).where(
        lease_table.c.name.startswith(_PREFIX, autoescape=True),
        lease_table.c.holder == holder_of(owner),
        lease_table.c.expires_at > now(),
    )
    with ledger.read() as connection:
        return [lease.Lease(row.name, row.token, row.holder, row.expires_at) for row in connection.execute(query)]
