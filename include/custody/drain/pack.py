"""Pack: read every file of a series once, then rename them together into the directory of their item.

The one read makes the digests of the manifest and checks that the file is whole. A damaged file goes to quarantine with
the reason beside it; a file that changed since it was seen stays where it is. What is good is moved by a recorded plan:
a crash at any point is taken up again and ends in the same item. PACKED is written last.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from custody.digests import FileState, Fixity, Hasher, Match, blocks, reading
from custody.drain import markers, tables
from custody.drain.integrity import Damaged, check_wacz, checker_for
from custody.drain.names import naming, suffix_of
from custody.drain.series import Series, SeriesFile, SeriesState, free_item, source_key
from custody.drain.step import Work, series_step
from custody.drain.survey import open_for_writing
from custody.faults import Fault, FaultKind
from custody.gate import describe
from custody.ledger import CopyState
from custody.ledger.store import disk_place, now
from custody.publish import PlannedRename, RenamePlan, fsync_directory, rename_noclobber

QUARANTINE = "quarantine"


@dataclass(frozen=True)
class _Read:
    """What the one read of a file told."""

    fixity: Fixity
    records: int


@series_step("pack", needs=SeriesState.PLANNED, makes=SeriesState.PACKED)
def pack(work: Work) -> None:
    """Check, hash and move the files of a planned series; see the module."""
    series = work.series
    plan = RenamePlan.load(series.private / markers.PLAN_FILE)
    if plan is not None:
        plan = _still_ours(work, plan)
        series = work.series
    else:
        good = _read_all(work)
        if not good:
            work.ends_as = SeriesState.DROPPED
            return
        series = _named_after(work, list(good))
        plan = _record_plan(series, good)
    if not plan.renames:
        work.ends_as = SeriesState.DROPPED
        return
    plan.carry_out()
    _put_on_record(work, plan)
    kept = work.reload()
    size = kept.size_bytes
    markers.write_packed(series.directory, series.item, len(kept.files), size)
    work.detail |= {"files": len(kept.files), "size_bytes": size}


def _still_ours(work: Work, plan: RenamePlan) -> RenamePlan:
    """A plan found after a crash, without the files that were written to since and had not moved yet.

    Faults: NEEDS_HUMAN where it is another series' plan.
    """
    series = work.series
    members = {member.source: member for member in series.files}
    if not any(rename.source in members for rename in plan.renames):
        next_command = f"ls -l {series.directory}; move it aside if it is nobody's, then {series.next_command}"
        raise Fault(FaultKind.NEEDS_HUMAN, str(plan.path), "is another series' plan", next_command=next_command)
    changed = [rename for rename in plan.renames if _is_left_behind(rename)]
    if not changed:
        return plan
    for rename in changed:
        if member := members.get(rename.source):
            _leave(work, member, "changed since the plan to move it was made; a later run looks at it again")
    work.reload()
    kept = RenamePlan(plan.path, [rename for rename in plan.renames if rename not in changed], plan.facts)
    kept.record()
    return kept


def _is_left_behind(rename: PlannedRename) -> bool:
    """Whether a file has not moved and is no longer the one that was to move."""
    if os.path.lexists(rename.target):
        return False
    try:
        return FileState.of_path(rename.source) != rename.state
    except FileNotFoundError:
        return True


def _read_all(work: Work) -> dict[SeriesFile, _Read]:
    """Read every file that is still the one that was planned; the others leave the series."""
    series = work.series
    busy = open_for_writing(member.source for member in series.files)
    good: dict[SeriesFile, _Read] = {}
    for member in series.files:
        if not _is_as_planned(member) or member.source in busy:
            _leave(work, member, "changed since it was seen; a later run looks at it again")
            continue
        try:
            good[member] = _read(work, member)
        except Damaged as damage:
            _quarantine(work, member, str(damage))
        except Fault as fault:
            if fault.kind not in {FaultKind.DATA, FaultKind.CONFIG} or member.source.parent == series.directory:
                raise
            _leave(work, member, fault.reason)  # one unreadable file does not keep the others
    return good


def _is_as_planned(member: SeriesFile) -> bool:
    try:
        return FileState.of_path(member.source) == member.state
    except FileNotFoundError:
        return False


def _read(work: Work, member: SeriesFile) -> _Read:
    """Digests and integrity in one read. Raises Damaged."""
    suffix = suffix_of(member.source.name)
    checker, records = checker_for(suffix)
    hasher = Hasher()
    is_zip = suffix == ".wacz"  # its directory is at its end: it cannot be checked as it goes by
    checking = work.series.config.verify_gzip and not is_zip
    with reading(member.source) as descriptor:
        for block in blocks(descriptor):
            hasher.update(block)
            if checking:
                checker.feed(block)
            work.advance(len(block))
            if hasher.size_bytes > member.state.size_bytes:
                raise Fault(FaultKind.DATA, str(member.source), "grew while it was read")
    if checking:
        checker.close()
    elif is_zip and work.series.config.verify_gzip:
        check_wacz(member.source)
    found = hasher.fixity()
    if member.fixity and member.fixity.compare(found) is Match.DIFFERENT:
        reason = f"is not what the MANIFEST beside it says: {describe(member.fixity)}, read {describe(found)}"
        raise Fault(FaultKind.DATA, str(member.source), reason, next_command="find out which of the two is right")
    return _Read(found, records.count)


def _quarantine(work: Work, member: SeriesFile, reason: str) -> None:
    """Set a damaged file aside, whole, with the reason beside it. A crash between the two is repeated by the retry."""
    directory = work.series.config.job_dir / QUARANTINE
    directory.mkdir(exist_ok=True)
    aside = free_name(directory / member.source.name)
    report = {"file": str(member.source), "reason": reason, "found_at": now().isoformat(), "found_by": work.who}
    markers.write_json(aside.with_name(f"{aside.name}.reason.json"), report)
    rename_noclobber(member.source, aside)
    _leave(work, member, reason, what="quarantine")


def free_name(path: Path) -> Path:
    """The path, or with .1, .2 ... where an earlier file of this name was set aside."""
    number = 0
    free = path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free


def _leave(work: Work, member: SeriesFile, reason: str, what: str = "leave") -> None:
    with work.transaction() as connection:
        connection.execute(sa.delete(tables.series_file).where(tables.series_file.c.id == member.id))
        work.event(connection, what, member.source.name, result=FaultKind.DATA, detail={"reason": reason})
    work.detail.setdefault(what, []).append(member.source.name)


def _named_after(work: Work, members: list[SeriesFile]) -> Series:
    """Give the item the name of the files that are left, where its first or last file had to leave."""
    series, config = work.series, work.series.config
    kind = naming(config.warc_naming)
    first, last = kind.parse(members[0].source.name), kind.parse(members[-1].source.name)
    if first is None or last is None or _is_in_place(series, members):
        return series
    item = free_item(work.ledger, config, first, last, own=series.item)
    if item == series.item:
        return series
    with work.transaction() as connection:
        values = {"item": item, "directory": str(config.xfer_dir / item)}
        connection.execute(sa.update(tables.series).where(tables.series.c.id == series.id).values(**values))
        work.event(connection, "rename", item, detail={"was": series.item})
    return work.reload()


def _is_in_place(series: Series, members: list[SeriesFile]) -> bool:
    """Whether the files of an adopted series lie in its directory already."""
    return any(member.source.parent == series.directory for member in members)


def _record_plan(series: Series, good: dict[SeriesFile, _Read]) -> RenamePlan:
    """Write down what goes where, with the digests just made, before anything moves."""
    names = _names_in_item(series, list(good))
    renames = [PlannedRename(member.source, series.directory / names[member], member.state) for member in good]
    facts: dict[str, object] = {
        "item": series.item,
        "config": series.config_name,
        "files": {
            names[member]: {"digests": dict(read.fixity.digests), "records": read.records}
            for member, read in good.items()
        },
    }
    if series.directory.exists() and not series.private.exists() and any(series.directory.iterdir()):
        reason = "is there already and not ours"
        next_command = f"look at it; move it aside, then {series.next_command}"
        raise Fault(FaultKind.NEEDS_HUMAN, str(series.directory), reason, next_command=next_command)
    series.private.mkdir(parents=True, exist_ok=True)
    fsync_directory(series.directory)
    fsync_directory(series.directory.parent)
    plan = RenamePlan(series.private / markers.PLAN_FILE, renames, facts)
    plan.record()
    return plan


def _names_in_item(series: Series, members: list[SeriesFile]) -> dict[SeriesFile, str]:
    """The names in the item: short where the configuration asks for it and no two files would share one."""
    full = {member: member.source.name for member in members}
    if _is_in_place(series, members) or not series.config.compact_names:
        return full
    kind = naming(series.config.warc_naming)
    parsed = {member: kind.parse(name) for member, name in full.items()}
    short = {member: warc.compact if warc else full[member] for member, warc in parsed.items()}
    taken = list(short.values())
    names = {member: full[member] if taken.count(name) > 1 else name for member, name in short.items()}
    return names if len(set(names.values())) == len(names) else full


def _put_on_record(work: Work, plan: RenamePlan) -> None:
    """Tell the ledger where every file is now. Repeating it changes nothing."""
    facts: Any = plan.facts["files"]
    members = tables.series_file
    with work.transaction() as connection:
        for rename in plan.renames:
            name = rename.target.name
            fixity = Fixity(rename.state.size_bytes, facts[name]["digests"])
            file_id = work.ledger.record_file(connection, name, fixity)
            work.ledger.record_copy(connection, file_id, disk_place(rename.target), CopyState.PRESENT)
            connection.execute(
                sa.update(members)
                .where(members.c.series_id == work.series.id, members.c.source_key == source_key(rename.source))
                .values(name=name, file_id=file_id, **fixity.digests)
            )
            work.event(connection, "packed", name, detail={"item": work.series.item, "from": str(rename.source)})


def names_on_disk(directory: Path) -> list[str]:
    """Every entry of an item's directory that is not one of our own markers."""
    own = {
        markers.PACKED,
        markers.MANIFEST,
        markers.BUCKET_OK,
        markers.TASK,
        markers.LAUNCH,
        markers.LAUNCH_OPEN,
        markers.TOMBSTONE,
        markers.SUCCESS,
        markers.CLEAN,
        markers.CLEAN_OPEN,
        markers.CLOSED,
        markers.PRIVATE,
    }
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries]
    return sorted(n for n in names if n not in own and not n.endswith(".tombstone") and not n.startswith("."))


def strangers(series: Series) -> list[str]:
    """Files in the directory of a series that do not belong to it: reported, never touched."""
    expected = {member.name for member in series.files}
    return [name for name in names_on_disk(series.directory) if name not in expected]


__all__ = ["QUARANTINE", "Fault", "pack", "strangers"]
