"""Tapes as things: opened, activated, moved from shelf to shelf, retired. What goes on them is elsewhere."""

from __future__ import annotations

import re
import uuid
from typing import Any

import sqlalchemy as sa

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.tape import tables
from custody.tape.catalog import Tape, find_tape, list_backups, record, set_backup_state, set_tape_state, tape_by_id
from custody.tape.config import TapeConfig
from custody.tape.states import BackupState, TapeState

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def open_tape(
    ledger: Ledger,
    config: TapeConfig,
    name: str,
    *,
    who: str,
    serial: str | None = None,
    barcode: str | None = None,
    pool: str | None = None,
    online: bool = True,
) -> Tape:
    """Put a new tape on record; its label is written when it is first mounted for writing.

    Faults: CONFIG where the name is no name or a pool nobody configured, CONFLICT where name or serial are taken.
    """
    if not _NAME.fullmatch(name):
        reason = "is no name of a tape: up to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit"
        raise Fault(FaultKind.CONFIG, repr(name), reason)
    pool = pool or config.pools[0]
    if pool not in config.pools:
        raise Fault(FaultKind.CONFIG, f"pool {pool}", f"is not among the pools of {config.name}: {config.pools}")
    serial = serial or None  # a blank serial is none; two tapes may have none
    with ledger.begin() as connection:
        for column, value in ((tables.tape.c.name, name), (tables.tape.c.serial, serial)):
            taken = value and connection.scalar(sa.select(tables.tape.c.name).where(column == value))
            if taken:
                command = f"custody tape activate_tape {taken}"
                what = f"{column.name} {value}"
                raise Fault(FaultKind.CONFLICT, f"tape {name}", f"{what} is tape {taken}'s", next_command=command)
        row: dict[str, Any] = {
            "name": name,
            "state_before": "",
            "state": TapeState.NEW,
            "uuid": str(uuid.uuid4()),
            "label": "custody",
            "serial": serial,
            "barcode": barcode or None,
            "pool": pool,
            "block_bytes": config.block_size,
            "capacity_bytes": config.of_pool(pool).capacity,
            "compression": config.of_pool(pool).compression,
            "opened_at": now(),
            "changed_at": now(),
        }
        connection.execute(sa.insert(tables.tape).values(row))
        record(ledger, connection, who, "opened", name, serial=serial, barcode=barcode, pool=pool)
    return activate_tape(ledger, name, who=who) if online else _find(ledger, name)


def activate_tape(ledger: Ledger, name: str, *, who: str) -> Tape:
    """Make a tape the one that verbs without a tape name mean. A closed one can be read, not written.

    Faults: CONFIG for an unknown name; the tape that was active stays so.
    """
    with ledger.begin() as connection:
        tape = find_tape(connection, name)
        connection.execute(sa.update(tables.tape).values(is_online=tables.tape.c.id == tape.id))
        record(ledger, connection, who, "activated", name)
    return _find(ledger, name)


def release_assigned(ledger: Ledger, tape: Tape, *, who: str) -> int:
    """Dissociate what is assigned to a tape and not on it; these targets are unassigned again."""
    waiting = [BackupState.ASSIGNED, BackupState.OUTSTANDING]
    with ledger.begin() as connection:
        found = list_backups(connection, tables.backup.c.tape_id == tape.id, tables.backup.c.state.in_(waiting))
        for backup in found:
            set_backup_state(connection, backup.id, BackupState.RELEASED)
        if found:
            record(ledger, connection, who, "dissociated", tape.name, targets=len(found))
    return len(found)


def move_tape(ledger: Ledger, name: str, *, who: str, location: str, slot: str = "") -> Tape:
    """Put on record where a cartridge is now: vault, shelf, off-site; time and person are in the audit."""
    with ledger.begin() as connection:
        tape = find_tape(connection, name)
        values = {"location": location, "slot": slot, "changed_at": now()}
        connection.execute(sa.update(tables.tape).where(tables.tape.c.id == tape.id).values(values))
        record(ledger, connection, who, "moved", name, before=[tape.location, tape.slot], after=[location, slot])
    return _find(ledger, name)


def set_tape(ledger: Ledger, name: str, *, who: str, serial: str | None = None, barcode: str | None = None) -> Tape:
    """Add or change serial number and barcode. Faults: CONFLICT where another tape has that serial number."""
    changes = {key: value or None for key, value in (("serial", serial), ("barcode", barcode)) if value is not None}
    with ledger.begin() as connection:
        tape = find_tape(connection, name)
        if changes:
            connection.execute(
                sa.update(tables.tape).where(tables.tape.c.id == tape.id).values(**changes, changed_at=now())
            )
            record(ledger, connection, who, "described", name, **changes)
    return _find(ledger, name)


def retire_tape(ledger: Ledger, name: str, *, who: str, reason: str, force: bool = False) -> Tape:
    """Say that a tape is no longer relied on; its copies no longer count, and its targets need another tape.

    Faults: NEEDS_HUMAN where it holds the only confirmed copy of a target, unless ``force``.
    """
    with ledger.begin() as connection:
        tape = find_tape(connection, name)
        live = list_backups(
            connection, tables.backup.c.tape_id == tape.id, tables.backup.c.state != BackupState.RELEASED
        )
        alone = [one for one in live if one.state.is_on_tape and not _is_elsewhere(connection, one.target.id, tape.id)]
        if alone and not force:
            raise Fault(
                FaultKind.NEEDS_HUMAN,
                f"tape {name}",
                f"holds the only copy on tape of {len(alone)} targets, {alone[0].target.name} among them",
                next_command=f"custody tape retire_tape {name} --force --reason TEXT",
            )
        for backup in live:
            if backup.state is not BackupState.WRITING:
                set_backup_state(connection, backup.id, BackupState.RELEASED)
        set_tape_state(connection, tape.id, TapeState.RETIRED, reason=reason, is_online=False)
        record(ledger, connection, who, "retired", name, reason=reason, released=len(live))
    return _find(ledger, name)


def trust_tape(ledger: Ledger, name: str, state: TapeState, *, who: str, reason: str) -> Tape:
    """A person has looked at a suspect tape: it is open, full or closed again. Faults: CONFLICT by the rules."""
    with ledger.begin() as connection:
        tape = find_tape(connection, name)
        if tape.state is not TapeState.SUSPECT:
            raise Fault(FaultKind.CONFIG, f"tape {name}", f"is {tape.state}, not suspect")
        set_tape_state(connection, tape.id, state, reason="")
        record(ledger, connection, who, f"marked {state}", name, reason=reason)
    return _find(ledger, name)


def _is_elsewhere(connection: sa.Connection, target_id: int, tape_id: int) -> bool:
    table = tables.backup
    query = sa.select(table.c.id).where(
        table.c.target_id == target_id, table.c.tape_id != tape_id, table.c.state == BackupState.CONFIRMED
    )
    return connection.scalar(query.limit(1)) is not None


def _find(ledger: Ledger, name: str) -> Tape:
    with ledger.read() as connection:
        return tape_by_id(connection, find_tape(connection, name).id)
