"""Assign: which target goes to which tape, and what may be changed about that later."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.tape import tables
from custody.tape.catalog import (
    Backup,
    Tape,
    Target,
    find_tape,
    list_backups,
    live_key,
    record,
    set_backup_state,
    target_of,
)
from custody.tape.states import BackupState, TapeState

_MAY_MOVE = (BackupState.ASSIGNED, BackupState.OUTSTANDING, BackupState.FAILED)


@dataclass(frozen=True)
class Assigned:
    """What an assignment did."""

    tape: Tape
    targets: tuple[Target, ...]

    @property
    def size_bytes(self) -> int:
        """All their files, as scanned."""
        return sum(target.size_bytes or 0 for target in self.targets)


def unassigned(connection: Connection, pool: str, *, scanned_only: bool = True) -> list[Target]:
    """Targets without a copy, made or planned, in a pool; by name."""
    target, backup, tape = tables.target, tables.backup, tables.tape
    has_one = (
        sa.select(backup.c.id)
        .join(tape, tape.c.id == backup.c.tape_id)
        .where(backup.c.target_id == target.c.id, tape.c.pool == pool, backup.c.state != BackupState.RELEASED)
        .exists()
    )
    scanned = target.c.scanned_at.is_not(None) if scanned_only else sa.true()
    rows = connection.execute(sa.select(target).where(~has_one, scanned).order_by(target.c.name, target.c.id))
    return [target_of(row) for row in rows]


def assign(
    ledger: Ledger, tape_name: str | None, *, who: str, only: Collection[int] | None = None, dry_run: bool = False
) -> Assigned:
    """Give every target without a copy in the tape's pool to this tape, and what another tape's end left over.

    Faults: CONFIG for an unknown tape, or one that nothing is written to any more.
    """
    with ledger.begin() as connection:
        tape = find_tape(connection, tape_name)
        _require_writable(tape)
        wanted = unassigned(connection, tape.pool)
        left = _left_over(connection, tape)
        if only is not None:
            wanted = [target for target in wanted if target.id in only]
            left = [backup for backup in left if backup.target.id in only]
        if not dry_run:
            for target in wanted:
                _add(connection, tape, target)
            for backup in left:
                _move(connection, backup, tape)
            if wanted or left:
                record(ledger, connection, who, "assigned", tape.name, targets=len(wanted) + len(left))
        return Assigned(tape, (*wanted, *(backup.target for backup in left)))


def _left_over(connection: Connection, tape: Tape) -> list[Backup]:
    """What waits for another tape: that under which one ended, and what is assigned to one that is full."""
    state = tables.backup.c.state
    is_full = sa.and_(state == BackupState.ASSIGNED, tables.tape.c.state == TapeState.FULL)
    return list_backups(
        connection,
        tables.tape.c.pool == tape.pool,
        sa.or_(state == BackupState.OUTSTANDING, is_full),
        order=(tables.target.c.name,),
    )


def reassign(
    ledger: Ledger, tape_name: str | None, target_names: Sequence[str] = (), *, who: str, dry_run: bool = False
) -> Assigned:
    """Move targets that are on no tape yet to another tape of the pool; without names, all that may be moved.

    Faults: CONFIG, naming the target, for one that a tape already holds or nobody knows.
    """
    with ledger.begin() as connection:
        tape = find_tape(connection, tape_name)
        _require_writable(tape)
        live = [tables.tape.c.pool == tape.pool, tables.backup.c.state != BackupState.RELEASED]
        if target_names:
            found = list_backups(connection, *live, tables.target.c.name.in_(list(target_names)))
            _require_movable(target_names, found)
        else:
            elsewhere = tables.backup.c.tape_id != tape.id
            found = list_backups(connection, *live, elsewhere, tables.backup.c.state.in_(_MAY_MOVE))
        if not dry_run:
            for backup in found:
                _move(connection, backup, tape)
            if found:
                record(ledger, connection, who, "reassigned", tape.name, targets=[one.target.name for one in found])
        return Assigned(tape, tuple(backup.target for backup in found))


def _require_writable(tape: Tape) -> None:
    if not tape.state.is_writable:
        raise Fault(
            FaultKind.CONFIG,
            f"tape {tape.name}",
            f"is {tape.state}: nothing more is assigned to it",
            next_command="custody tape open_tape NAME",
        )


def _require_movable(names: Sequence[str], found: Sequence[Backup]) -> None:
    missing = set(names) - {backup.target.name for backup in found}
    if missing:
        name = sorted(missing)[0]
        raise Fault(FaultKind.CONFIG, name, "is assigned to no tape of this pool", next_command="custody tape assign")
    for backup in found:
        if backup.state not in _MAY_MOVE:
            reason = f"is {backup.state} on tape {backup.tape_name}, file {backup.file_number}: it stays there"
            raise Fault(FaultKind.CONFIG, backup.target.name, reason)


def _add(connection: Connection, tape: Tape, target: Target) -> None:
    row = {
        "target_id": target.id,
        "tape_id": tape.id,
        "live_key": live_key(target.id, tape.pool),
        "state_before": "",
        "state": BackupState.ASSIGNED,
        "changed_at": now(),
    }
    connection.execute(sa.insert(tables.backup).values(row))


def _move(connection: Connection, backup: Backup, tape: Tape) -> None:
    if backup.file_number is not None:  # found bad on its tape: that file number stays taken there
        set_backup_state(connection, backup.id, BackupState.RELEASED)
        _add(connection, tape, backup.target)
    else:
        set_backup_state(connection, backup.id, BackupState.ASSIGNED, tape_id=tape.id)
