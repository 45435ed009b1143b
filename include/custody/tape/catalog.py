"""Tapes, targets and backups as the ledger knows them, and the one way to move them from state to state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now, place_key
from custody.ledger.tables import LONG_NAME
from custody.tape import tables
from custody.tape.names import unescape
from custody.tape.states import BackupState, TapeState

ROOM = "tape"


@dataclass(frozen=True)
class Tape:
    """One cartridge as the catalogue knows it. ``block_bytes`` is the size of the blocks written to it."""

    id: int
    name: str
    state: TapeState
    is_online: bool
    uuid: str | None
    label: str
    identity: str | None
    serial: str | None
    barcode: str | None
    pool: str
    location: str
    slot: str
    block_bytes: int
    capacity_bytes: int | None
    written_bytes: int
    compression: bool | None
    encryption_key: str | None
    catalog_file_number: int | None
    reason: str

    @property
    def has_label(self) -> bool:
        """Whether file 0 is a label of ours; a tape of the old system begins with data."""
        return self.label == "custody"

    @property
    def first_data_file(self) -> int:
        """The file number of the first target."""
        return 1 if self.has_label else 0

    @property
    def remaining_bytes(self) -> int | None:
        """Native room by the catalogue's account; None where the capacity is not known."""
        return None if self.capacity_bytes is None else max(0, self.capacity_bytes - self.written_bytes)

    @property
    def scan_command(self) -> str:
        """What shows what really lies on it."""
        return f"custody tape scan {self.name} --dry-run"

    @property
    def called(self) -> str:
        """How a person knows it from the others."""
        marks = [word for word in (self.barcode, self.serial and f"serial {self.serial}") if word]
        place = " ".join(word for word in (self.location, self.slot and f"slot {self.slot}") if word)
        return self.name + (f" ({', '.join(marks)})" if marks else "") + (f", from {place}" if place else "")


@dataclass(frozen=True)
class Target:
    """One directory to be backed up. ``name`` is its absolute path, escaped."""

    id: int
    source: str
    name: str
    scanned_at: datetime | None
    size_bytes: int | None
    members: int | None
    excludes: tuple[str, ...] = ()

    @property
    def path(self) -> bytes:
        """The path as the file system has it."""
        return unescape(self.name)


@dataclass(frozen=True)
class Backup:
    """One copy of one target on one tape."""

    id: int
    target: Target
    tape_id: int
    tape_name: str
    file_number: int | None
    state: BackupState
    tape_bytes: int | None
    tape_blocks: int | None
    content_bytes: int | None
    members: int | None
    manifest_sha256: str | None
    recorded_at: datetime | None
    confirmed_at: datetime | None
    fault_text: str | None


def _tape(row: Row[Any]) -> Tape:
    values = row._mapping
    known = {key: values[key] for key in Tape.__dataclass_fields__}
    return Tape(**known | {"state": TapeState(row.state)})


def list_tapes(connection: Connection) -> list[Tape]:
    """Every tape, by name."""
    return [_tape(row) for row in connection.execute(sa.select(tables.tape).order_by(tables.tape.c.name))]


def find_tape(connection: Connection, name: str | None) -> Tape:
    """The tape of this name, or the one that is online. Faults: CONFIG, naming the tapes there are."""
    table = tables.tape
    which = table.c.is_online if name is None else table.c.name == name
    row = connection.execute(sa.select(table).where(which)).first()
    if row is not None:
        return _tape(row)
    known = ", ".join(connection.scalars(sa.select(table.c.name).order_by(table.c.name))) or "none"
    if name is None:
        raise Fault(FaultKind.CONFIG, "no tape", f"is active; there are: {known}", next_command=_activate(known))
    raise Fault(
        FaultKind.CONFIG,
        f"tape {name}",
        f"is not in the catalogue; there are: {known}",
        next_command=f"custody tape open_tape {name}",
    )


def _activate(known: str) -> str:
    return f"custody tape {'open_tape' if known == 'none' else 'activate_tape'} NAME"


def tape_by_id(connection: Connection, tape_id: int) -> Tape:
    """The tape of this number."""
    return _tape(connection.execute(sa.select(tables.tape).where(tables.tape.c.id == tape_id)).one())


def set_tape_state(connection: Connection, tape_id: int, state: TapeState, **values: Any) -> None:
    """Move a tape on; the database refuses what the rules do not know. Nothing where it is there already."""
    table = tables.tape
    connection.execute(
        sa.update(table)
        .where(table.c.id == tape_id, table.c.state != state)
        .ordered_values(*_in_order(table, state, {"changed_at": now()} | values))
    )


def _in_order(table: sa.Table, state: str, values: dict[str, Any]) -> list[tuple[Any, Any]]:
    """MariaDB sets columns one behind the other: the state before must be read before the state is set."""
    return [(table.c.state_before, table.c.state), (table.c.state, state), *values.items()]


def target_key(source: str, name: str) -> str:
    """The unique key of a target."""
    return place_key(f"{source}:{name}")


def target_of(row: Row[Any]) -> Target:
    """A row of the target table."""
    return Target(row.id, row.source, row.name, row.scanned_at, row.size_bytes, row.members, tuple(row.excludes))


_COLUMNS = (
    tables.backup,
    tables.tape.c.name.label("tape_name"),
    tables.target.c.source,
    tables.target.c.name.label("target_name"),
    tables.target.c.scanned_at,
    tables.target.c.size_bytes,
    tables.target.c.members.label("target_members"),
    tables.target.c.excludes,
)


def select_backups(*where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """A query for backups with their targets and tapes."""
    return (
        sa.select(*_COLUMNS)
        .join(tables.tape, tables.tape.c.id == tables.backup.c.tape_id)
        .join(tables.target, tables.target.c.id == tables.backup.c.target_id)
        .where(*where)
    )


def list_backups(connection: Connection, *where: sa.ColumnElement[bool], order: Sequence[Any] = ()) -> list[Backup]:
    """Backups by file number, then by the name of their target; or in another order."""
    ordering = order or (tables.backup.c.file_number, tables.target.c.name)
    return [_backup(row) for row in connection.execute(select_backups(*where).order_by(*ordering))]


def _backup(row: Row[Any]) -> Backup:
    target = Target(
        row.target_id,
        row.source,
        row.target_name,
        row.scanned_at,
        row.size_bytes,
        row.target_members,
        tuple(row.excludes),
    )
    own = {key: row._mapping[key] for key in Backup.__dataclass_fields__ if key not in {"target", "state"}}
    return Backup(target=target, state=BackupState(row.state), **own)


def next_file_number(connection: Connection, tape: Tape) -> int:
    """The file number behind everything that was ever finished on the tape, whatever became of it since."""
    table = tables.backup
    finished = sa.and_(table.c.tape_id == tape.id, table.c.state != BackupState.WRITING)
    last = connection.scalar(sa.select(sa.func.max(table.c.file_number)).where(finished))
    return tape.first_data_file if last is None else int(last) + 1


def set_backup_state(connection: Connection, backup_id: int, state: BackupState, **values: Any) -> None:
    """Move a backup on and clear its fault, unless ``values`` hold one."""
    table = tables.backup
    cleared: dict[str, Any] = {"fault": None, "fault_text": None, "changed_at": now()}
    if state is BackupState.RELEASED:
        cleared["live_key"] = sa.literal("done-") + sa.cast(table.c.id, sa.String(20))
    connection.execute(
        sa.update(table).where(table.c.id == backup_id).ordered_values(*_in_order(table, state, cleared | values))
    )


def live_key(target_id: int, pool: str) -> str:
    """By which a target has one copy in a pool."""
    return f"{target_id}/{pool}"


def record(ledger: Ledger, connection: Connection, who: str, what: str, subject: str, **detail: Any) -> None:
    """One line of the audit. A path may be longer than its subject can be; it is then whole in the detail."""
    result = detail.pop("result", "done")
    if len(subject) > LONG_NAME:
        detail, subject = detail | {"subject": subject}, "…" + subject[1 - LONG_NAME :]
    ledger.record_event(connection, who=who, room=ROOM, what=what, subject=subject, result=result, detail=detail)
