"""Preflight: whether the database is whole and left alone, its disk over there the right one, with room for it."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from custody.faults import Fault
from custody.ledger.store import now
from custody.minidvodb import aside, chain, dvo, movers, room, tables
from custody.minidvodb.codes import CopyFault, FaultCode
from custody.minidvodb.destination import identify, record_look
from custody.minidvodb.far import Far, Look
from custody.minidvodb.locks import refuse_writers
from custody.minidvodb.manifest import Snapshot, mark_of, take_snapshot
from custody.minidvodb.records import CopyStep
from custody.minidvodb.step import Work, copy_step, far_side

_MACHINE_ID = Path("/etc/machine-id")
CHECKED_MARK = "checked_mark"
"""Key of the profile: the look at the database whose tables were found sane."""


@copy_step("preflight", needs=CopyStep.QUEUED, makes=CopyStep.CHECKED)
def preflight(work: Work) -> None:
    """Check all that can be known before a byte is sent, choose the mover, reserve the room.

    Faults: SOURCE_MISSING, SOURCE_LOCKED, SOURCE_INVALID, SOURCE_CHANGED; AUTH, HOSTKEY, UNREACHABLE, DEST_MISSING,
    DEST_READONLY, NO_SPACE, NO_INODES; CONFIG for a disk under two names or a name that two databases have.
    """
    copy = work.copy
    _demand_own_name(work)
    holder = chain.choose(work)
    far = work.far()
    entries = chain.manifest_from(work, holder).entries if holder else look_at_source(copy.source)
    look = far.probe(("", "") if holder else identity_of(copy.source))
    refuse_itself(copy.source, look, far)
    identify(work.ledger, copy.destination, look.machine, look.filesystem, copy.path)
    record_look(work.ledger, copy.destination, look.space.as_json())
    if look.target in {"link", "other"}:
        raise far.taken()
    reserve(work, entries, look)
    movers.demand_tools(look.tools, copy.destination.settings)
    profile = movers.profile_of(entries, look.staged)
    work.values |= {
        "holder": holder.destination.name if holder else None,
        "mover": movers.RELAY if holder else movers.choose(profile, copy.destination.settings),
        "profile": {**profile.as_json(), CHECKED_MARK: mark_of(entries)},
        "files": profile.files,
        "bytes": profile.size_bytes,
        "algorithm": copy.destination.settings.digest,
    }
    work.detail |= {"files": profile.files, "bytes": profile.size_bytes, "mover": work.values["mover"]}


def look_at_source(root: Path) -> Snapshot:
    """The database as it lies here: whole, sane, and left alone by everybody. Faults: the SOURCE_ ones."""
    entries = take_snapshot(root)
    refuse_writers(root, entries)
    dvo.check(root, entries)
    return entries


def refuse_itself(source: Path, look: Look, far: Far) -> None:
    """A copy that is the original, under another name of its machine, is none. Faults: CONFIG."""
    if identity_of(source) == (look.machine, look.inode):
        raise CopyFault(
            FaultCode.CONFIG,
            far.where,
            "is the database itself, not a copy of it",
            next_command="custody minidvodb update --copy N --set-path OTHER",
        )


def identity_of(source: Path) -> tuple[str, str]:
    """Which directory of which machine it is: machine-id and device:inode; empty where that is not known."""
    try:
        status = source.stat()
    except OSError:
        return "", ""
    machine = ""
    with suppress(OSError):
        machine = _MACHINE_ID.read_text().strip()
    return machine or socket.gethostname(), f"{status.st_dev}:{status.st_ino}"


def refuse_a_second_name(work: Work, far: Far) -> None:
    """What lies there may be another copy that is on record already, reached by another name. Faults: CONFIG."""
    for other in chain.holders(work):
        try:
            with far_side(other, work.reach) as there:
                is_same = aside.is_same_directory(far, there)
        except Fault:
            continue  # who cannot be asked is asked again before anything is deleted
        if is_same:
            raise CopyFault(
                FaultCode.CONFIG,
                far.where,
                f"is the same directory as copy {other.id} on {other.destination.name}: two copies there would be one",
                next_command=f"custody minidvodb del-copy {work.copy.destination.name} {work.copy.group}, or another "
                "directory",
            )


def reserve(work: Work, entries: Snapshot, look: Look) -> None:
    """Take the room that this copy needs, in one transaction with the look at what others have taken."""
    copy = work.copy
    size, inodes = (0, 0)
    if look.target != "directory" or look.staged or copy.row["may_replace"]:
        size, inodes = room.need_of(entries.values(), look.staged, look.space.block_bytes)
    with work.transaction() as connection:
        table = tables.destination  # whoever reserves there waits here for his turn
        connection.execute(sa.select(table.c.id).where(table.c.id == copy.destination.id).with_for_update())
        others = room.reserved_by_others(connection, copy.destination.id, copy.id)
        where = f"{copy.destination.name}:{copy.path}"
        room.demand(where, copy.destination.settings, look.space, size, inodes, others)
        one = tables.copy
        taken = {"reserved_bytes": size, "reserved_inodes": inodes, "reserved_at": now()}
        connection.execute(sa.update(one).where(one.c.minidvodbcopy_id == copy.id).values(**taken))


def _demand_own_name(work: Work) -> None:
    """Two databases of one name in one directory would be one."""
    copy, one = work.copy, tables.copy
    query = (
        sa.select(one.c.minidvodbcopy_id)
        .join(tables.run, tables.run.c.minidvodb_id == one.c.minidvodb_id)
        .where(
            tables.run.c.minidvodb_name == copy.name,
            one.c.destination_id == copy.destination.id,
            one.c.minidvodb_rsync_path == copy.path,
            one.c.minidvodbcopy_id < copy.id,
        )
        .limit(1)
    )
    with work.ledger.read() as connection:
        other = connection.scalar(query)
    if other is not None:
        raise CopyFault(
            FaultCode.CONFIG,
            copy.subject,
            f"copy {other} is of another database with the same name and the same place",
            next_command=f"custody minidvodb update --copy {copy.id} --set-path OTHER",
        )
