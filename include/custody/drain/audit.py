"""Audit: are the copies that let others go still there? Ledger against target and ledger against disk, both ways.

Nothing is repaired here. A copy that its keeper no longer lists, or lists otherwise, is marked LOST and named; what was
let go on the strength of it is then known by one query. One series can be proven anew, as strictly as the first time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from custody.digests import Match
from custody.drain import tables
from custody.drain.adopt import strange_directories
from custody.drain.config import DrainConfig, ProofKind
from custody.drain.pack import strangers
from custody.drain.series import FINISHED, ROOM, Series, SeriesState, load
from custody.drain.targets import Target
from custody.faults import Fault, FaultKind
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
            for target, destination in zip(targets, config.destinations, strict=True):
                drifts += _remote_drifts(ledger, series, target, destination.proof, who)
    with ledger.begin() as connection:
        detail = {"series": len(series_ids), "files": files, "drifts": len(drifts), "days": days}
        result = "data" if drifts else "done"
        ledger.record_event(
            connection, who=who, room=ROOM, what="audit", subject=config_name, result=result, detail=detail
        )
    return Audit(len(series_ids), files, tuple(drifts))


def audit_series(ledger: Ledger, config_name: str, series_id: int, targets: Sequence[Target], *, who: str) -> Audit:
    """Prove a series that was drained once more: what is equal gets a new proof on record, what is not is LOST.

    Faults: CONFIG where it is not of that configuration or was not proven yet; as the targets raise them.
    """
    series = load(ledger, series_id)
    if series.config_name != config_name:
        reason = f"is of the configuration {series.config_name}, not of {config_name}"
        raise Fault(FaultKind.CONFIG, f"series {series_id}", reason)
    if series.state not in {SeriesState.PROVEN, SeriesState.CLEAN}:
        reason = f"is {series.state}: there is no proof yet to be made again"
        raise Fault(FaultKind.CONFIG, series.item, reason, next_command=series.next_command)
    drifts = _local_drifts(series)
    for target, destination in zip(targets, series.config.destinations, strict=True):
        drifts += _remote_drifts(ledger, series, target, destination.proof, who, anew=True)
    with ledger.begin() as connection:
        detail = {"files": len(series.files), "drifts": len(drifts)}
        result = "data" if drifts else "done"
        ledger.record_event(
            connection, who=who, room=ROOM, what="audit", subject=series.item, result=result, detail=detail
        )
    return Audit(1, len(series.files), tuple(drifts))


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


def _remote_drifts(
    ledger: Ledger, series: Series, target: Target, kind: ProofKind, who: str, *, anew: bool = False
) -> list[Drift]:
    """What a target states otherwise than the ledger; what it states rightly is proven ``anew``, if asked for.

    Where proof is by reading back, that is done for a new proof, and for a keeper that states no digest.
    """
    stated = target.look(series.item, [member.name for member in series.files])
    if kind is ProofKind.READBACK:
        stated = {
            name: target.read_back(series.item, name) if found and (anew or not found.digests) else found
            for name, found in stated.items()
        }
    drifts = []
    for member in series.files:
        found, place = stated[member.name], target.place(series.item, member.name)
        if member.fixity is None or member.file_id is None:
            continue
        match = Match.DIFFERENT if found is None else member.fixity.compare(found)
        if match is Match.EQUAL and anew:
            with ledger.begin() as connection:
                copy_id = ledger.record_copy(connection, member.file_id, place, CopyState.PROVEN)
                assert found is not None
                ledger.record_proof(connection, copy_id, kind, found, who)
        if match is Match.EQUAL:
            continue
        if match is Match.UNVERIFIED:
            drifts.append(Drift(place, "is stored with that size, and no digest is stated to compare"))
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
