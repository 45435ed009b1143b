"""Restore: bring a drained file back, proven to be the one that was packed.

The way back is as guarded as the way out: the bytes are hashed while they arrive, and get their name only when size and
digests are those of the manifest. A place that holds other bytes is named, and the next place is asked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from custody import gate
from custody.digests import Fixity, Match, read_file
from custody.drain import tables
from custody.drain.series import ROOM, SeriesFile, load
from custody.drain.targets import Target
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.ledger import CopyState, Ledger
from custody.ledger.store import disk_place
from custody.publish import fsync_directory, rename_noclobber


def find(ledger: Ledger, name: str) -> int:
    """The series that holds a file of this name, the youngest where several do. Faults: CONFIG where none does."""
    members = tables.series_file
    query = sa.select(members.c.series_id).where(members.c.name == name, members.c.file_id.is_not(None))
    with ledger.read() as connection:
        found = connection.scalar(query.order_by(members.c.series_id.desc()).limit(1))
    if found is None:
        raise Fault(FaultKind.CONFIG, name, "is in no series on record", next_command=f"custody where-is '%{name}%'")
    return int(found)


def restore(ledger: Ledger, series_id: int, name: str, targets: Sequence[Target], directory: Path, *, who: str) -> Path:
    """Bring one file of a series into ``directory``; a file that is there already with the right bytes is left.

    Faults: CONFLICT where other bytes lie there under its name (nothing is overwritten), DATA where no target holds
    the right ones.
    """
    series = load(ledger, series_id)
    member = next((one for one in series.files if one.name == name), None)
    if member is None or member.fixity is None or member.file_id is None:
        raise Fault(FaultKind.CONFIG, name, f"is no packed file of {series.item}")
    path = directory / name
    if os.path.lexists(path):
        found = read_file(path).fixity
        if member.fixity.compare(found) is not Match.EQUAL:
            raise Fault(FaultKind.CONFLICT, str(path), "other bytes lie there", next_command=f"move {path} aside")
    else:
        _fetch(series.item, member, member.fixity, targets, path)
    with ledger.begin() as connection:
        ledger.record_copy(connection, member.file_id, disk_place(path), CopyState.PRESENT)
        detail = {"item": series.item, "to": str(path)}
        ledger.record_event(connection, who=who, room=ROOM, what="restore", subject=name, detail=detail)
    return path


def _fetch(item: str, member: SeriesFile, expected: Fixity, targets: Sequence[Target], path: Path) -> None:
    complaints = []
    partial = path.with_name(f".{path.name}.restoring")
    for target in targets:
        place = target.place(item, member.name)
        try:
            with os_errors_as_faults(str(path)), partial.open("wb") as stream:
                found = target.read_back(item, member.name, into=stream)
                stream.flush()
                os.fsync(stream.fileno())
        except Fault as fault:
            complaints.append(str(fault))
            continue
        if expected.compare(found) is Match.EQUAL:
            rename_noclobber(partial, path)
            fsync_directory(path.parent)
            return
        complaints.append(f"{place}: stored is {gate.describe(found)}, not {gate.describe(expected)}")
    partial.unlink(missing_ok=True)
    raise Fault(FaultKind.DATA, member.name, f"no target gave the right bytes: {'; '.join(complaints)}")
