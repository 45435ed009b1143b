"""What is not finished, and the exact next command for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.ledger import Ledger
from custody.tape import report, tables
from custody.tape.catalog import Backup, Tape, list_backups, list_tapes
from custody.tape.choose import quoted
from custody.tape.names import unescape
from custody.tape.running import running
from custody.tape.states import BackupState, TapeState

_NAMED = 20


@dataclass(frozen=True)
class Unfinished:
    """One thing that does not go on by itself.

    :param is_stuck: something went wrong; else it only waits for the next step.
    """

    subject: str
    what: str
    next_command: str
    is_stuck: bool = False


def list_unfinished(ledger: Ledger) -> list[Unfinished]:
    """All of it, what is stuck first. A drive in use is somebody's work, and not told here."""
    busy = {job.tape_name for job in running(ledger)}
    with ledger.read() as connection:
        found = [
            one
            for tape in list_tapes(connection)
            if tape.name not in busy
            for one in (*_of_tape(tape), *_of_backups(connection, tape))
        ]
    found += _of_targets(ledger)
    return sorted(found, key=lambda one: not one.is_stuck)


def _of_tape(tape: Tape) -> Iterator[Unfinished]:
    subject = f"tape {tape.name}"
    if tape.state is TapeState.SUSPECT:
        yield Unfinished(subject, f"is suspect: {tape.reason}", f"custody tape scan {tape.name} --dry-run", True)


def _of_backups(connection: Connection, tape: Tape) -> Iterator[Unfinished]:
    table = tables.backup
    counts: dict[BackupState, int] = {
        BackupState(row.state): row.targets
        for row in connection.execute(
            sa.select(table.c.state, sa.func.count().label("targets"))
            .where(table.c.tape_id == tape.id)
            .group_by(table.c.state)
        )
    }
    subject = f"tape {tape.name}"
    first = "" if tape.is_online else f"custody tape activate_tape {tape.name}; "
    if counts.get(BackupState.WRITING):
        what = f"{counts[BackupState.WRITING]} target was being written when its run ended"
        yield Unfinished(subject, what, f"{first}custody tape archive", True)
    if counts.get(BackupState.FAILED):
        where = (table.c.tape_id == tape.id, table.c.state == BackupState.FAILED)
        for backup in list_backups(connection, *where)[:_NAMED]:
            yield _failed(backup, first)
    if counts.get(BackupState.OUTSTANDING):
        what = f"ended under {counts[BackupState.OUTSTANDING]} target(s), which wait for another tape"
        yield Unfinished(subject, what, "custody tape open_tape NAME; custody tape assign", True)
    if waiting := counts.get(BackupState.ASSIGNED):
        if tape.state.is_writable:
            yield Unfinished(subject, f"{waiting} assigned", f"{first}custody tape archive --repeat")
        else:
            what = f"{waiting} assigned, and it is {tape.state}"
            verb = "assign" if tape.state is TapeState.FULL else "reassign"
            yield Unfinished(subject, what, f"custody tape open_tape NAME; custody tape {verb}", True)
    if recorded := counts.get(BackupState.RECORDED):
        yield Unfinished(subject, f"{recorded} recorded, not confirmed", f"{first}custody tape confirm all")
    elif tape.state is TapeState.FULL and not counts.get(BackupState.FAILED):
        yield Unfinished(subject, "is full, and all on it is confirmed", f"custody tape close_tape {tape.name}")


def _failed(backup: Backup, first: str) -> Unfinished:
    reason = (backup.fault_text or "").partition("\n")[0]
    name = quoted(unescape(backup.target.name))
    if backup.file_number is not None:
        what = f"file {backup.file_number} of tape {backup.tape_name} is not as it was written: {reason}"
        command = f"{first}custody tape confirm {backup.file_number} --retry, or custody tape reassign OTHER {name}"
        return Unfinished(backup.target.name, what, command, True)
    again = f"custody tape import --retry --target {name}; custody tape reassign {backup.tape_name} {name}"
    return Unfinished(backup.target.name, f"was not recorded: {reason}", again, True)


def _of_targets(ledger: Ledger) -> Iterator[Unfinished]:
    unscanned = report.unscanned(ledger)
    for name in unscanned[:_NAMED]:
        word = quoted(unescape(name))
        yield Unfinished(
            name, "is not scanned", f"custody tape import --target {word}, or custody tape forget {word}", True
        )
    if len(unscanned) > _NAMED:
        what = f"and {len(unscanned) - _NAMED} more targets are not scanned"
        yield Unfinished("targets", what, "custody tape unassigned", True)
    for pool, waiting in report.unassigned(ledger, report.pools_in_use(ledger)).items():
        if waiting.targets:
            yield Unfinished(f"pool {pool}", f"{waiting.targets} targets are unassigned", "custody tape assign")
