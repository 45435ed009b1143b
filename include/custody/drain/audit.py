"""Audit: are the copies that let others go still there? Ledger against target and ledger against disk, both ways.

Nothing is repaired here. A copy that its keeper no longer lists, or lists otherwise, is marked LOST and named; what was
let go on the strength of it is then known by one query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from custody.digests import Match
from custody.drain import tables
from custody.drain.adopt import strange_directories
from custody.drain.config import DrainConfig
from custody.drain.pack import strangers
from custody.drain.series import FINISHED, ROOM, Series, SeriesState, load
from custody.drain.targets import Target
from custody.gate import describe
from custody.ledger import CopyState, Ledger
from custody.ledger.store import now


@dataclass(frozen=True)
class Drift:
    """One thing that is not as the ledger says: ``place`` is where, ``what`` is how."""

    place: str
    what: str


@dataclass(frozen=True)
class Audit:
    """What an audit looked at and found."""

    series: int
    files: int
    drifts: tuple[Drift, ...]


def audit(
    ledger: Ledger, config_name: str, config: DrainConfig, targets: Sequence[Target], *, days: int, who: str
) -> Audit:
    """Compare every series of the last ``days`` with its targets, and the transfer directory with the ledger.

    Faults: as the targets raise them; a target that does not answer is no finding.
    """
    drifts = [Drift(str(path), "is on no record") for path in strange_directories(ledger, config)]
    series_ids = _recent(ledger, config_name, days)
    files = 0
    for series_id in series_ids:
        series = load(ledger, series_id)
        files += len(series.files)
        drifts += _local_drifts(series)
        if series.state in {SeriesState.PROVEN, SeriesState.CLEAN}:
            for target in targets:
                drifts += _remote_drifts(ledger, series, target, who)
    with ledger.begin() as connection:
        detail = {"series": len(series_ids), "files": files, "drifts": len(drifts), "days": days}
        result = "data" if drifts else "done"
        ledger.record_event(
            connection, who=who, room=ROOM, what="audit", subject=config_name, result=result, detail=detail
        )
    return Audit(len(series_ids), files, tuple(drifts))


def _recent(ledger: Ledger, config_name: str, days: int) -> list[int]:
    table = tables.series
    query = (
        sa.select(table.c.id)
        .where(
            table.c.config == config_name,
            table.c.state != SeriesState.DROPPED,
            table.c.changed_at >= now() - timedelta(days=days),
        )
        .order_by(table.c.id)
    )
    with ledger.read() as connection:
        return list(connection.scalars(query))


def _local_drifts(series: Series) -> list[Drift]:
    """Files that should lie on the disk and do not, and files in a directory that belong to no series."""
    if not series.directory.is_dir():
        gone = series.state not in {*FINISHED, SeriesState.PLANNED}
        return [Drift(str(series.directory), "is gone with everything in it")] if gone else []
    drifts = [Drift(str(series.directory / name), "does not belong to the series") for name in strangers(series)]
    if SeriesState.PACKED.rank <= series.state.rank <= SeriesState.PROVEN.rank:
        missing = [member for member in series.files if not series.path(member).exists()]
        drifts += [Drift(str(series.path(member)), "is gone from the disk") for member in missing]
    return drifts


def _remote_drifts(ledger: Ledger, series: Series, target: Target, who: str) -> list[Drift]:
    stated = target.look(series.item, [member.name for member in series.files])
    drifts = []
    for member in series.files:
        found, place = stated[member.name], target.place(series.item, member.name)
        if member.fixity is None or member.file_id is None:
            continue
        if found is not None and member.fixity.compare(found) is Match.EQUAL:
            continue
        what = "is not stored any more" if found is None else f"is stored as {describe(found)}"
        drifts.append(Drift(place, what))
        with ledger.begin() as connection:
            ledger.record_copy(connection, member.file_id, place, CopyState.LOST)
            detail = {"place": place, "what": what, "expected": describe(member.fixity)}
            ledger.record_event(
                connection, who=who, room=ROOM, what="lost", subject=member.name, result="data", detail=detail
            )
    return drifts
