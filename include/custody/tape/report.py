"""Where the tapes stand: what the page and the command line show. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.ledger import Ledger
from custody.ledger.events import EventLine, read_events
from custody.tape import tables
from custody.tape.catalog import (
    ROOM,
    Backup,
    Tape,
    find_tape,
    list_backups,
    list_tapes,
    target_of,
)
from custody.tape.config import DEFAULT_POOL
from custody.tape.states import BackupState


@dataclass(frozen=True)
class Sum:
    """How much stands in one state. ``size_bytes`` leaves out the ``unknown`` targets whose size nobody knows."""

    targets: int = 0
    size_bytes: int = 0
    unknown: int = 0

    def __add__(self, other: Sum) -> Sum:
        """Both together."""
        return Sum(self.targets + other.targets, self.size_bytes + other.size_bytes, self.unknown + other.unknown)


@dataclass(frozen=True)
class Interval:
    """File numbers ``first`` to ``last``, both of them, whose targets are in the same state."""

    first: int
    last: int
    state: BackupState

    def __str__(self) -> str:
        return f"{self.first} - {self.last} : {self.state}"


@dataclass(frozen=True)
class TapeStatus:
    """One tape: how much of what is on it or meant for it, and its layout by file number."""

    tape: Tape
    sums: Mapping[BackupState, Sum]
    layout: tuple[Interval, ...] = ()

    @property
    def total(self) -> Sum:
        """All that counts: what was released does not."""
        return sum((part for state, part in self.sums.items() if state is not BackupState.RELEASED), Sum())

    @property
    def written(self) -> Sum:
        """What the tape holds: recorded and confirmed."""
        return sum((part for state, part in self.sums.items() if state.is_on_tape), Sum())


@dataclass(frozen=True)
class AttemptLine:
    """One go at a tape file."""

    target: str | None
    file_number: int
    kind: str
    result: str
    who: str
    started_at: datetime
    ended_at: datetime | None
    tape_bytes: int | None
    rate_bytes_s: int | None
    underruns: int | None
    fault_text: str | None
    health: Mapping[str, Any] = field(default_factory=dict)


def sums(connection: Connection, *where: sa.ColumnElement[bool]) -> dict[int, dict[BackupState, Sum]]:
    """By tape, then by state. A size is the one on tape where it was written, else the one of the scan."""
    backup, target = tables.backup, tables.target
    size = sa.func.coalesce(backup.c.content_bytes, target.c.size_bytes)
    rows = connection.execute(
        sa.select(
            backup.c.tape_id,
            backup.c.state,
            sa.func.count().label("targets"),
            sa.func.coalesce(sa.func.sum(size), 0).label("size_bytes"),
            sa.func.count(size).label("known"),
        )
        .join(target, target.c.id == backup.c.target_id)
        .where(*where)
        .group_by(backup.c.tape_id, backup.c.state)
    )
    found: dict[int, dict[BackupState, Sum]] = {}
    for row in rows:
        state_sum = Sum(row.targets, int(row.size_bytes), row.targets - row.known)
        found.setdefault(row.tape_id, {})[BackupState(row.state)] = state_sum
    return found


def tapes(ledger: Ledger) -> list[TapeStatus]:
    """Every tape by name, without its layout."""
    with ledger.read() as connection:
        by_tape = sums(connection)
        return [TapeStatus(tape, by_tape.get(tape.id, {})) for tape in list_tapes(connection)]


def status(ledger: Ledger, name: str | None = None) -> TapeStatus:
    """One tape, or the one that is online. Faults: CONFIG where there is none."""
    with ledger.read() as connection:
        tape = find_tape(connection, name)
        backup = tables.backup
        rows = connection.execute(
            sa.select(backup.c.file_number, backup.c.state)
            .where(backup.c.tape_id == tape.id, backup.c.file_number.is_not(None))
            .order_by(backup.c.file_number)
        )
        layout = intervals([(row.file_number, BackupState(row.state)) for row in rows])
        return TapeStatus(tape, sums(connection, backup.c.tape_id == tape.id).get(tape.id, {}), layout)


def intervals(files: Sequence[tuple[int, BackupState]]) -> tuple[Interval, ...]:
    """Runs of file numbers without a gap in the same state; the numbers come sorted."""
    runs = groupby(enumerate(files), key=lambda item: (item[1][0] - item[0], item[1][1]))
    found = []
    for (_, state), run in runs:
        numbers = [number for _, (number, _) in run]
        found.append(Interval(numbers[0], numbers[-1], state))
    return tuple(found)


def unassigned(ledger: Ledger, pools: Collection[str] = (DEFAULT_POOL,)) -> dict[str, Sum]:
    """By pool: scanned targets without a copy, made or planned, on its tapes."""
    target, backup, tape = tables.target, tables.backup, tables.tape
    found = {}
    with ledger.read() as connection:
        for pool in pools:
            has_one = (
                sa.select(backup.c.id)
                .join(tape, tape.c.id == backup.c.tape_id)
                .where(backup.c.target_id == target.c.id, tape.c.pool == pool)
                .where(backup.c.state != BackupState.RELEASED)
                .exists()
            )
            row = connection.execute(
                sa.select(
                    sa.func.count().label("targets"),
                    sa.func.coalesce(sa.func.sum(target.c.size_bytes), 0).label("size_bytes"),
                    sa.func.count(target.c.size_bytes).label("known"),
                ).where(target.c.scanned_at.is_not(None), ~has_one)
            ).one()
            found[pool] = Sum(row.targets, int(row.size_bytes), row.targets - row.known)
    return found


def pools_in_use(ledger: Ledger) -> list[str]:
    """The pools that tapes belong to; the default one where there are no tapes."""
    with ledger.read() as connection:
        found = connection.scalars(sa.select(tables.tape.c.pool).distinct().order_by(tables.tape.c.pool))
        return list(found) or [DEFAULT_POOL]


def tape_detail(
    ledger: Ledger, name: str | None = None, file_number: int | None = None, *, everything: bool = False
) -> tuple[Tape, list[Backup]]:
    """What the catalogue says is on a tape, by file number; with ``everything`` also what failed or was released.

    Faults: CONFIG for an unknown tape.
    """
    with ledger.read() as connection:
        tape = find_tape(connection, name)
        where = [tables.backup.c.tape_id == tape.id, tables.backup.c.file_number.is_not(None)]
        if not everything:
            where.append(tables.backup.c.state.in_([state for state in BackupState if state.is_on_tape]))
        if file_number is not None:
            where.append(tables.backup.c.file_number == file_number)
        return tape, list_backups(connection, *where)


def backup_info(ledger: Ledger, file_number: int, name: str | None = None) -> tuple[Tape, Backup | None]:
    """The backup with this file number on a tape, or on the one that is online; None where there is none."""
    tape, found = tape_detail(ledger, name, file_number, everything=True)
    return tape, found[0] if found else None


def attempts(ledger: Ledger, name: str | None = None, *, limit: int = 100) -> list[AttemptLine]:
    """The latest goes at the files of a tape, the youngest first. Faults: CONFIG for an unknown tape."""
    attempt, backup, target = tables.attempt, tables.backup, tables.target
    with ledger.read() as connection:
        tape = find_tape(connection, name)
        rows = connection.execute(
            sa.select(attempt, target.c.name.label("target"))
            .outerjoin(backup, backup.c.id == attempt.c.backup_id)
            .outerjoin(target, target.c.id == backup.c.target_id)
            .where(attempt.c.tape_id == tape.id)
            .order_by(attempt.c.id.desc())
            .limit(limit)
        )
        return [AttemptLine(**{key: row._mapping[key] for key in AttemptLine.__dataclass_fields__}) for row in rows]


def audit(ledger: Ledger, subject: str, *, limit: int = 100) -> list[EventLine]:
    """Who did what with a tape or a target, the youngest first."""
    with ledger.read() as connection:
        return list(read_events(connection, ROOM, [subject], limit=limit))


def unscanned(ledger: Ledger) -> list[str]:
    """Targets that were imported and never scanned, by name, escaped: nothing assigns them."""
    with ledger.read() as connection:
        rows = connection.execute(
            sa.select(tables.target).where(tables.target.c.scanned_at.is_(None)).order_by(tables.target.c.name)
        )
        return [target_of(row).name for row in rows]
