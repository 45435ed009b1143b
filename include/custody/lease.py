"""One owner at a time for a thing: a series, a wiki, a copy, a drive.

A lease is a row with a token that grows with every new owner. Whoever lost it (expired, taken over after a crash) is
fenced out: the next write that shows the old token is refused. A holder on this host whose process is dead loses
the lease at once; one elsewhere when it expires.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.ledger.tables import lease as table

DEFAULT_TTL = timedelta(seconds=90)


@dataclass(frozen=True)
class Lease:
    """A lease as its holder knows it. ``token`` is the fence: it grows with every owner."""

    name: str
    token: int
    holder: str
    expires_at: datetime


def take(ledger: Ledger, name: str, *, holder: str | None = None, ttl: timedelta = DEFAULT_TTL) -> Lease:
    """Take a lease that is free, expired, or held by a dead process of this host.

    Faults: CONFLICT, naming the holder, where somebody else has it.
    """
    holder = holder or process_identity()
    with ledger.begin() as connection:
        row = connection.execute(sa.select(table).where(table.c.name == name).with_for_update()).one_or_none()
        at = now()
        values = {"holder": holder, "taken_at": at, "expires_at": at + ttl, "progress": {}}
        if row is None:
            connection.execute(sa.insert(table).values(name=name, token=1, **values))
            return Lease(name, 1, holder, at + ttl)
        if row.expires_at > at and not _is_dead_here(row.holder):
            raise Fault(
                FaultKind.CONFLICT,
                name,
                f"is held by {row.holder} until {row.expires_at:%Y-%m-%d %H:%M:%S} UTC",
                next_command="wait for it, or end that process",
            )
        connection.execute(sa.update(table).where(table.c.name == name).values(token=row.token + 1, **values))
        return Lease(name, row.token + 1, holder, at + ttl)


def check(connection: Connection, lease: Lease) -> None:
    """Refuse a write of a holder who lost the lease; call it first in the transaction that writes.

    Faults: CONFLICT.
    """
    token = connection.scalar(sa.select(table.c.token).where(table.c.name == lease.name).with_for_update())
    if token != lease.token:
        raise Fault(FaultKind.CONFLICT, lease.name, f"was taken over from {lease.holder}; nothing more is written")


def beat(
    ledger: Ledger, lease: Lease, progress: dict[str, Any] | None = None, *, ttl: timedelta = DEFAULT_TTL
) -> Lease:
    """Say that the holder lives, and how far it is. Faults: CONFLICT where the lease was lost."""
    with ledger.begin() as connection:
        check(connection, lease)
        expires_at = now() + ttl
        values: dict[str, Any] = {"expires_at": expires_at}
        if progress is not None:
            values["progress"] = progress
        connection.execute(sa.update(table).where(table.c.name == lease.name).values(**values))
    return replace(lease, expires_at=expires_at)


def give_back(ledger: Ledger, lease: Lease) -> None:
    """Let the next one have it; harmless where it was lost already."""
    with ledger.begin() as connection:
        connection.execute(
            sa.update(table)
            .where(table.c.name == lease.name, table.c.token == lease.token)
            .values(expires_at=now() - timedelta(seconds=1))
        )


def holders(ledger: Ledger, names: Collection[str]) -> dict[str, str]:
    """Who holds these leases at the moment; a lease that is free, expired or a dead process's is not in the answer."""
    query = sa.select(table.c.name, table.c.holder).where(table.c.name.in_(list(names)), table.c.expires_at > now())
    with ledger.read() as connection:
        return {row.name: row.holder for row in connection.execute(query) if not _is_dead_here(row.holder)}


class Held:
    """A lease kept alive by a thread. ``progress`` may be filled at any time and is written with each beat."""

    def __init__(self, ledger: Ledger, lease: Lease, ttl: timedelta) -> None:
        self.lease = lease
        self.progress: dict[str, Any] = {}
        self.lost: Fault | None = None
        self._ledger = ledger
        self._ttl = ttl
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name=f"lease {lease.name}", daemon=True)

    def check(self, connection: Connection | None = None) -> None:
        """Raise CONFLICT where the lease was lost; with a connection, ask the ledger inside that transaction."""
        if self.lost:
            raise self.lost
        if connection is not None:
            check(connection, self.lease)

    def _keep_alive(self) -> None:
        while not self._stop.wait(self._ttl.total_seconds() / 3):
            try:
                beat(self._ledger, self.lease, dict(self.progress), ttl=self._ttl)
            except Fault as fault:
                if fault.kind is FaultKind.CONFLICT:
                    self.lost = fault
                    return
                # a ledger that does not answer now may answer at the next beat; the expiry decides

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """End the beating and give the lease back."""
        self._stop.set()
        self._thread.join()
        give_back(self._ledger, self.lease)


@contextmanager
def hold(ledger: Ledger, name: str, *, holder: str | None = None, ttl: timedelta = DEFAULT_TTL) -> Iterator[Held]:
    """Take a lease for the length of a block and keep it alive meanwhile. Faults: CONFLICT."""
    held = Held(ledger, take(ledger, name, holder=holder, ttl=ttl), ttl)
    held.start()
    try:
        yield held
    finally:
        held.stop()


def process_identity() -> str:
    """Name this process so that another one of the same host can tell whether it still lives.

    ``host/boot id/pid namespace/pid/start time``: a reused process number, a reboot or a container is not mistaken.
    """
    pid = os.getpid()
    return f"{_here()}/{pid}/{_start_time(pid)}"


@cache
def _here() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()}/{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"


def _start_time(pid: int) -> str | None:
    try:
        content = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = content.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]


def _is_dead_here(holder: str) -> bool:
    where, _, started = holder.rpartition("/")
    where, _, pid = where.rpartition("/")
    return where == _here() and pid.isdigit() and _start_time(int(pid)) != started
