"""Set aside: take one file out of a series by hand, so that the others can go on.

A file that changed after it was packed, or that a target will not have, holds up its whole item. It goes to quarantine,
whole, with the reason beside it; what the series then holds is listed anew. Nothing is deleted.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.digests import FileState
from custody.drain import markers, tables
from custody.drain.actions import in_hand, mark_lost, proven_elsewhere
from custody.drain.pack import QUARANTINE, free_name
from custody.drain.series import ROOM, Series, SeriesFile, SeriesState, set_state
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.ledger import CopyState, Ledger
from custody.ledger.store import disk_place, now
from custody.publish import RenamePlan, fsync_directory, rename_noclobber, write_atomic


def set_aside(
    ledger: Ledger, series_id: int, name: str, *, why: str, who: str, accept_loss: bool = False
) -> Path | None:
    """Move a packed file of a series to quarantine; returns where it lies now, None where it was gone already.

    Where the series is not proven, it begins again with its manifest, without that file. Doing it again after a crash
    ends the same. Faults: CONFIG where there is no such file in a packed series, CONFLICT where a step works on it,
    NEEDS_HUMAN where it is neither here nor proven elsewhere, unless ``accept_loss`` says that this is known.
    """
    with in_hand(ledger, series_id, "set aside") as (series, held):
        member = next((one for one in series.files if one.name == name), None)
        if member is None or series.state.rank < SeriesState.PACKED.rank:
            raise Fault(FaultKind.CONFIG, name, f"is no packed file of series {series_id}, {series.item}")
        path = series.path(member)
        aside = _aside_already(series, path)
        is_stored = name in proven_elsewhere(ledger, series)
        if aside is None and not os.path.lexists(path) and not is_stored and not accept_loss:
            reason = "is neither here nor proven elsewhere: setting it aside would hide a loss"
            command = f"custody drain set-aside {series_id} {name} --because WHY --accept-loss (look for it first)"
            raise Fault(FaultKind.NEEDS_HUMAN, str(path), reason, next_command=command)
        if series.state is not SeriesState.PROVEN:
            _list_without(series, member)
        with ledger.begin() as connection:
            held.check(connection)
            if aside is None and os.path.lexists(path):
                aside = _move(series, path, why, who)
            _put_on_record(ledger, connection, series, member, aside)
            detail = {"item": series.item, "why": why, "to": str(aside) if aside else "it was gone"}
            ledger.record_event(connection, who=who, room=ROOM, what="set aside", subject=name, detail=detail)
    return aside


def _move(series: Series, path: Path, why: str, who: str) -> Path:
    directory = series.config.job_dir / QUARANTINE
    with os_errors_as_faults(str(directory)):
        directory.mkdir(exist_ok=True)
        aside = free_name(directory / path.name)
        report = {"file": str(path), "reason": why, "found_at": now().isoformat(), "found_by": who}
        markers.write_json(aside.with_name(f"{aside.name}.reason.json"), report)
        rename_noclobber(path, aside)
        fsync_directory(directory)
        fsync_directory(path.parent)
    return aside


def _aside_already(series: Series, path: Path) -> Path | None:
    """Where an attempt that was killed has put it: the reason beside it says where it came from."""
    if os.path.lexists(path):
        return None
    for note in sorted((series.config.job_dir / QUARANTINE).glob("*.reason.json")):
        try:
            came_from = json.loads(note.read_bytes())["file"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        aside = note.with_name(note.name.removesuffix(".reason.json"))
        if came_from == str(path) and os.path.lexists(aside):
            return aside
    return None


def _list_without(series: Series, member: SeriesFile) -> None:
    """Rewrite what stands beside the data; a manifest that may have been sent is kept, to be known again there."""
    manifest = series.directory / markers.MANIFEST
    if manifest.exists():
        content = manifest.read_bytes()
        earlier = markers.earlier_manifests(series.directory)
        if content not in earlier:
            write_atomic(series.private / f"{markers.MANIFEST}.{len(earlier) + 1}", content)
    plan = RenamePlan.load(series.private / markers.PLAN_FILE)
    if plan is not None:
        kept = [rename for rename in plan.renames if rename.target.name != member.name]
        RenamePlan(plan.path, kept, plan.facts).record()
    left = [one for one in series.files if one != member]
    size_bytes = sum(one.state.size_bytes for one in left)
    markers.write_packed(series.directory, series.item, len(left), size_bytes)


def _put_on_record(
    ledger: Ledger, connection: Connection, series: Series, member: SeriesFile, aside: Path | None
) -> None:
    if member.file_id is not None:
        mark_lost(connection, series, member)  # what was packed is not there any more
        if aside is not None and FileState.of_path(aside) == member.state:
            ledger.record_copy(connection, member.file_id, disk_place(aside), CopyState.PRESENT)
    if series.state is SeriesState.PROVEN:
        return  # the stored copy stands for it; the step that deletes finds it gone
    connection.execute(sa.delete(tables.series_file).where(tables.series_file.c.id == member.id))
    is_last = len(series.files) == 1
    set_state(connection, series.id, SeriesState.DROPPED if is_last else SeriesState.PACKED)
