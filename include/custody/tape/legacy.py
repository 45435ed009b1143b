"""Take over the catalogue of the old system. Nothing of it counts as proven until it was read back here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.tape import tables
from custody.tape.catalog import (
    Backup,
    list_backups,
    list_tapes,
    live_key,
    record,
    set_backup_state,
    set_tape_state,
    target_key,
)
from custody.tape.config import DEFAULT_POOL
from custody.tape.names import escape
from custody.tape.oldcatalog import UNKNOWN_SIZE, OldBackup, OldCatalog, OldTarget
from custody.tape.records import put_members
from custody.tape.states import TAPE_TRANSITIONS, BackupState, TapeState

__all__ = ["UNKNOWN_SIZE", "ImportedCatalog", "import_catalog"]

_LONGEST_SUBJECT = 512
BLOCK_BYTES = 1 << 20
"""With which tapes of the old system are read; tar had written blocks of 10 kB, and a larger buffer takes them."""


@dataclass
class ImportedCatalog:
    """What an import did; a second one makes nothing new. ``notes`` are lines for a person."""

    new_tapes: int = 0
    new_targets: int = 0
    new_backups: int = 0
    moved_on: int = 0
    members: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def is_change(self) -> bool:
        """Whether anything was not on record before."""
        return bool(self.new_tapes or self.new_targets or self.new_backups or self.moved_on)


def import_catalog(ledger: Ledger, path: Path, *, who: str, source: str, pool: str = DEFAULT_POOL) -> ImportedCatalog:
    """Take an old catalogue over, all of it or nothing; what is on record from an earlier time stays.

    Tapes keep their numbers where these are free, and their file numbers always. A copy that has moved on over there
    since the last import moves on here; one that has moved on here stays.

    :param source: name of the host that the targets lie on.
    :param pool: pool that the tapes belong to.

    Faults: CONFIG and DATA as :class:`OldCatalog`; CONFLICT, naming it, where a tape or file number is another's here.
    """
    done = ImportedCatalog()
    with OldCatalog(path) as old, ledger.begin() as connection:
        tape_ids = _put_tapes(ledger, connection, old, done, who, pool)
        targets = {target.id: target for target in old.targets()}
        backups = old.backups()
        target_ids = {target.id: _put_target(connection, target, source, done) for target in targets.values()}
        held = {one.target_id for one in backups if one.state.is_on_tape}
        for target in targets.values():
            if target.id not in held and target.is_scanned:
                done.members += _put_scan(connection, old, target, target_ids[target.id])
        for one in backups:
            _put_backup(connection, old, one, targets[one.target_id], target_ids, tape_ids, pool, done)
        _mend_sequence(connection)
        if done.is_change:
            counts = {"tapes": done.new_tapes, "targets": done.new_targets, "backups": done.new_backups}
            record(ledger, connection, who, "imported catalogue", _subject(path), **counts, moved_on=done.moved_on)
    return done


def _subject(path: Path) -> str:
    return escape(os.fsencode(path.name))[:_LONGEST_SUBJECT]


def _put_tapes(
    ledger: Ledger, connection: Connection, old: OldCatalog, done: ImportedCatalog, who: str, pool: str
) -> dict[int, int]:
    ids: dict[int, int] = {}
    known = {tape.name: tape for tape in list_tapes(connection)}
    serials = {tape.serial: tape for tape in known.values() if tape.serial}
    numbers = {tape.id for tape in known.values()}
    has_active = any(tape.is_online for tape in known.values())
    for tape in sorted(old.tapes(), key=lambda one: one.id in numbers):  # who can keep a number gets it first
        there = known.get(tape.name)
        if there is not None:
            if there.has_label:
                reason = f"is in the catalogue already, as a tape with a label (uuid {there.uuid})"
                command = "rename one of the two; nothing was taken over"
                raise Fault(FaultKind.CONFLICT, f"tape {tape.name}", reason, next_command=command)
            ids[tape.id] = there.id
            if (there.state, tape.state) in TAPE_TRANSITIONS and there.state is TapeState.OPEN:
                set_tape_state(connection, there.id, tape.state)
                done.moved_on += 1
            continue
        if tape.serial in serials:
            reason = f"its serial number {tape.serial} is that of tape {serials[tape.serial].name}"
            command = f"custody tape describe {serials[tape.serial].name} --serial ''"
            raise Fault(FaultKind.CONFLICT, f"tape {tape.name}", reason, next_command=command)
        values: dict[str, Any] = {"id": tape.id} if tape.id not in numbers else {}
        values |= {
            "name": tape.name,
            "state_before": "",
            "state": tape.state,
            "is_online": tape.is_online and not has_active,
            "label": "none",
            "serial": tape.serial,
            "pool": pool,
            "block_bytes": BLOCK_BYTES,
            "opened_at": now(),
            "changed_at": now(),
        }
        key = connection.execute(sa.insert(tables.tape).values(values)).inserted_primary_key
        assert key is not None
        ids[tape.id] = int(key[0])
        numbers.add(ids[tape.id])
        has_active |= tape.is_online
        done.new_tapes += 1
        if ids[tape.id] != tape.id:
            done.notes.append(f"tape {tape.name} has the number {ids[tape.id]}: {tape.id} was taken")
        record(ledger, connection, who, "taken over", tape.name, old_id=tape.id, state=tape.state)
    return ids


def _put_target(connection: Connection, target: OldTarget, source: str, done: ImportedCatalog) -> int:
    """A target's row. Members stay unknown to it: an archive is not compared with a list of md5 sums alone."""
    table = tables.target
    name = escape(target.path)
    key = target_key(source, name)
    known = connection.scalar(sa.select(table.c.id).where(table.c.name_key == key))
    if known is not None:
        return int(known)
    values = {
        "source": source,
        "name": name,
        "name_key": key,
        "scanned_at": now() if target.is_scanned else None,
        "excludes": [escape(path) for path in target.excludes],
        "imported_at": now(),
    }
    inserted = connection.execute(sa.insert(table).values(values)).inserted_primary_key
    assert inserted is not None
    done.new_targets += 1
    return int(inserted[0])


def _put_scan(connection: Connection, old: OldCatalog, target: OldTarget, target_id: int) -> int:
    """What the old scan knew of a target that no tape has, so that it is found; a scan of ours stays."""
    table = tables.member
    known = sa.select(table.c.id).where(table.c.target_id == target_id).limit(1)
    if connection.scalar(known) is not None:
        return 0
    return put_members(connection, target_id, None, old.members(target))


def _put_backup(
    connection: Connection,
    old: OldCatalog,
    one: OldBackup,
    target: OldTarget,
    target_ids: dict[int, int],
    tape_ids: dict[int, int],
    pool: str,
    done: ImportedCatalog,
) -> None:
    table = tables.backup
    target_id, tape_id = target_ids[one.target_id], tape_ids[one.tape_id]
    if one.file_number is not None:
        there = list_backups(connection, table.c.tape_id == tape_id, table.c.file_number == one.file_number)
        if there:
            _move_on(connection, there[0], one, target_id, target, done)
            return
    ours = list_backups(
        connection, table.c.target_id == target_id, table.c.tape_id == tape_id, table.c.state != BackupState.RELEASED
    )
    waiting = [backup for backup in ours if backup.file_number is None and backup.state is BackupState.ASSIGNED]
    if one.file_number is None and (ours or _is_known(connection, target_id, pool)):
        if not ours:
            done.notes.append(f"{escape(target.path)}: has a copy, and is not assigned a second time")
        return
    if waiting:
        backup_id = waiting[0].id
        set_backup_state(connection, backup_id, BackupState.WRITING)
        set_backup_state(connection, backup_id, BackupState.RECORDED, file_number=one.file_number, recorded_at=now())
        if one.state is BackupState.CONFIRMED:
            set_backup_state(connection, backup_id, BackupState.CONFIRMED, confirmed_at=now())
        done.moved_on += 1
    else:
        key = live_key(target_id, pool)
        if _is_known(connection, target_id, pool):
            key = f"{key}#{tape_id}.{one.file_number}"  # the old catalogue has two copies, and both count
        values = {
            "target_id": target_id,
            "tape_id": tape_id,
            "live_key": key,
            "file_number": one.file_number,
            "state_before": "",
            "state": one.state,
            "recorded_at": now() if one.state.is_on_tape else None,
            "confirmed_at": now() if one.state is BackupState.CONFIRMED else None,
            "changed_at": now(),
        }
        inserted = connection.execute(sa.insert(table).values(values)).inserted_primary_key
        assert inserted is not None
        backup_id = int(inserted[0])
        done.new_backups += 1
    if one.file_number is not None:
        done.members += put_members(connection, target_id, backup_id, old.members(target))


def _is_known(connection: Connection, target_id: int, pool: str) -> bool:
    table = tables.backup
    return connection.scalar(sa.select(table.c.id).where(table.c.live_key == live_key(target_id, pool))) is not None


def _move_on(
    connection: Connection, there: Backup, one: OldBackup, target_id: int, target: OldTarget, done: ImportedCatalog
) -> None:
    if there.target.id != target_id:
        reason = f"holds {there.target.name} by the catalogue here, and {escape(target.path)} by the old one"
        command = f"custody tape tape_detail {there.tape_name}; nothing was taken over"
        raise Fault(FaultKind.CONFLICT, f"tape {there.tape_name}, file {one.file_number}", reason, next_command=command)
    if there.state is BackupState.RECORDED and one.state is BackupState.CONFIRMED:
        set_backup_state(connection, there.id, BackupState.CONFIRMED, confirmed_at=now())
        done.moved_on += 1


def _mend_sequence(connection: Connection) -> None:
    """Tell PostgreSQL which numbers were taken without asking it."""
    if connection.dialect.name == "postgresql":
        name = tables.tape.name
        connection.execute(
            sa.text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT max(id) FROM {name}))")  # noqa: S608
        )
