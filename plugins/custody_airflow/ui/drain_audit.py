"""One series in full: its files with digests, copies and proofs, and what the audit holds about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.drain import tables
from custody.drain.report import SeriesLine
from custody.drain.series import ROOM, SeriesState
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger import tables as shared
from custody.ledger.events import EventLine, read_events

FILES_A_PAGE = 50
MAX_EVENTS = 300


@dataclass(frozen=True)
class CopyLine:
    """One copy of a file, with its youngest proof."""

    place: str
    state: str
    since: datetime
    proof: str | None
    proven_at: datetime | None
    proven_by: str | None


@dataclass(frozen=True)
class FileLine:
    """One file of a series."""

    name: str
    source: str
    size_bytes: int
    md5: str | None
    sha256: str | None
    copies: tuple[CopyLine, ...]


@dataclass(frozen=True)
class Audit:
    """A series with one page of its files; ``events`` are of the series and of these files, newest first."""

    series: SeriesLine
    directory: str
    planned_at: datetime
    files: tuple[FileLine, ...]
    events: tuple[EventLine, ...]
    page: int
    pages: int

    @property
    def more_events(self) -> bool:
        """Whether older events are not shown."""
        return len(self.events) >= MAX_EVENTS

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def read_audit(ledger: Ledger, series_id: int, *, page: int = 1) -> Audit:
    """Read a series. Faults: CONFIG where there is none of that number."""
    series, member = tables.series, tables.series_file
    with ledger.read() as connection:
        row = connection.execute(sa.select(series).where(series.c.id == series_id)).one_or_none()
        if row is None:
            raise Fault(
                FaultKind.CONFIG, f"series {series_id}", "is not in the ledger", next_command="custody drain status"
            )
        of_it = member.c.series_id == series_id
        files, size = connection.execute(
            sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(member.c.size_bytes), 0)).where(of_it)
        ).one()
        members = connection.execute(
            sa.select(member)
            .where(of_it)
            .order_by(member.c.position, member.c.id)
            .limit(FILES_A_PAGE)
            .offset((page - 1) * FILES_A_PAGE)
        ).all()
        copies = _copies(connection, [one.file_id for one in members if one.file_id is not None])
        subjects = {row.item, *(one.name for one in members), *(one.source.rpartition("/")[2] for one in members)}
        # since the series was planned: a name that another series bears too is not told
        events = read_events(connection, ROOM, subjects, since=row.planned_at, limit=MAX_EVENTS)
    line = SeriesLine(
        row.id,
        row.config,
        row.item,
        SeriesState(row.state),
        files,
        int(size),
        row.on_hold,
        row.fault,
        row.fault_text,
        row.changed_at,
    )
    shown = tuple(
        FileLine(one.name, one.source, one.size_bytes, one.md5, one.sha256, tuple(copies.get(one.file_id, ())))
        for one in members
    )
    pages = max(1, -(-files // FILES_A_PAGE))
    return Audit(line, row.directory, row.planned_at, shown, events, page, pages)


def _copies(connection: Connection, file_ids: Sequence[int]) -> dict[int, list[CopyLine]]:
    copy, proof = shared.copy, shared.proof
    youngest = (
        sa.select(proof.c.copy_id, sa.func.max(proof.c.id).label("id"))
        .join(copy, copy.c.id == proof.c.copy_id)
        .where(copy.c.file_id.in_(file_ids))
        .group_by(proof.c.copy_id)
        .subquery()
    )
    query = (
        sa.select(copy, proof.c.kind, proof.c.proven_at, proof.c.run)
        .outerjoin(youngest, youngest.c.copy_id == copy.c.id)
        .outerjoin(proof, proof.c.id == youngest.c.id)
        .where(copy.c.file_id.in_(file_ids))
        .order_by(copy.c.id)
    )
    found: dict[int, list[CopyLine]] = {}
    for row in connection.execute(query):
        line = CopyLine(row.place, row.state, row.since, row.kind, row.proven_at, row.run)
        found.setdefault(row.file_id, []).append(line)
    return found
