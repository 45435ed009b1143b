"""A mounted tape: the drive held, the right cartridge in it, the head where the catalogue wants it.

Nothing reads or writes a tape but through here, so that nothing is read from or written to the wrong one.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody import lease
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now, place_key
from custody.tape import label as labels
from custody.tape import tables
from custody.tape.catalog import Tape, record, set_tape_state, tape_by_id
from custody.tape.condition import Condition, look_at, require_fit
from custody.tape.config import TapeConfig
from custody.tape.drives import Drive, EndOfData, open_drive
from custody.tape.names import escape, unescape
from custody.tape.states import AttemptResult, TapeState

_LEASE_POLL_S = 1.0
_LONGEST_LEASE_NAME = 190


@dataclass
class Session:
    """A drive that is ours, with the tape ``tape`` in it, proven by its label."""

    ledger: Ledger
    config: TapeConfig
    tape: Tape
    drive: Drive
    held: lease.Held
    who: str
    condition: Condition = field(default_factory=Condition)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A fenced transaction. Faults: CONFLICT where the drive was taken over."""
        with self.ledger.begin() as connection:
            self.held.check(connection)
            yield connection

    def event(self, connection: Connection, what: str, subject: str, **detail: Any) -> None:
        """Append to the audit."""
        record(self.ledger, connection, self.who, what, subject, **detail)

    def reload(self) -> Tape:
        """Read the tape's row again."""
        with self.ledger.read() as connection:
            self.tape = tape_by_id(connection, self.tape.id)
        return self.tape

    def mark(self, state: TapeState, **values: Any) -> None:
        """Move the tape to another state, with its line in the audit."""
        with self.transaction() as connection:
            set_tape_state(connection, self.tape.id, state, **values)
            self.event(connection, f"marked {state}", self.tape.name, **values)
        self.reload()

    def seek(self, file_number: int) -> None:
        """Put the head at block 0 of a tape file, and have the drive say so.

        Faults: DATA where the tape ends before it, or the drive says that it is elsewhere.
        """
        at = self.drive.status()
        if (
            at.file_number is None
            or at.file_number > file_number
            or (at.file_number == file_number and at.block_number != 0)
        ):
            self.drive.rewind()
            at = self.drive.status()
        try:
            if file_number > (at.file_number or 0):
                self.drive.forward_files(file_number - (at.file_number or 0))
        except EndOfData:
            reason = f"ends before file {file_number}, which the catalogue says is there"
            raise Fault(FaultKind.DATA, f"tape {self.tape.name}", reason, next_command=self.scan_command) from None
        at = self.drive.status()
        if at.file_number != file_number or at.block_number != 0:
            reason = f"is at file {at.file_number}, block {at.block_number} instead of file {file_number}, block 0"
            raise Fault(FaultKind.DATA, self.drive.name, reason, next_command=f"mt -f {self.drive.name} rewind")

    @property
    def scan_command(self) -> str:
        """What shows what really lies on the tape."""
        return self.tape.scan_command


def drive_lease(device: str) -> str:
    """The lease of a drive: one user at a time, of this host's device."""
    name = f"tape/drive/{socket.gethostname()}{os.path.realpath(device) if '/' in device else '/' + device}"
    return name if len(name) <= _LONGEST_LEASE_NAME else f"tape/drive/{place_key(name)}"


@contextmanager
def held_drive(
    ledger: Ledger, config: TapeConfig, *, writable: bool, patience_s: float = 0
) -> Iterator[tuple[Drive, lease.Held]]:
    """Hold the drive, whatever is in it; waits up to ``patience_s`` while another run has it. Faults: CONFLICT."""
    deadline = time.monotonic() + patience_s
    name = drive_lease(config.device)
    while True:
        try:
            taken = lease.take(ledger, name)
            break
        except Fault as fault:
            if fault.kind is not FaultKind.CONFLICT or time.monotonic() >= deadline:
                raise
            time.sleep(_LEASE_POLL_S)
    held = lease.Held(ledger, taken, lease.DEFAULT_TTL)
    held.start()
    try:
        drive = open_drive(config.device, writable=writable)
        try:
            yield drive, held
        finally:
            drive.close()
    finally:
        held.stop()


@contextmanager
def mounted(
    ledger: Ledger, config: TapeConfig, tape: Tape, *, who: str, write: bool = False, patience_s: float = 0
) -> Iterator[Session]:
    """Hold the drive with ``tape`` in it, its label read and matched.

    Faults: NEEDS_HUMAN where another cartridge, none, or a write-protected one is in the drive; CONFLICT where another
    run holds it; CONFIG where the tape is closed or full and ``write`` is asked for. Nothing is written in any of them.
    """
    if write:
        _require_writable(tape)
    with held_drive(ledger, config, writable=write, patience_s=patience_s) as (drive, held):
        drive.set_block_size(0)
        session = Session(ledger, config, tape, drive, held, who)
        session.condition = look_at(drive)
        if write:
            require_fit(session.condition, config.of_pool(tape.pool), drive.name)
        _identify(session, write=write)
        _end_dead_attempts(session)
        wanted = tape.compression if tape.compression is not None else config.of_pool(tape.pool).compression
        if write and wanted is not None and not drive.set_compression(wanted):
            with session.transaction() as connection:
                session.event(connection, "compression not set", tape.name, result="warning", wanted=wanted)
        yield session


def _end_dead_attempts(session: Session) -> None:
    """Nobody but us has the drive: a read that is still on record as going on was cut off. Writes are looked into."""
    table = tables.attempt
    cut_off = [table.c.tape_id == session.tape.id, table.c.result == AttemptResult.INTENT, table.c.kind != "write"]
    with session.transaction() as connection:
        connection.execute(sa.update(table).where(*cut_off).values(result=AttemptResult.ABORTED, ended_at=now()))


def _require_writable(tape: Tape) -> None:
    if not tape.state.is_writable:
        raise Fault(
            FaultKind.CONFIG,
            f"tape {tape.name}",
            f"is {tape.state}: nothing more is written to it",
            next_command="custody tape activate_tape NAME, with a tape that is open",
        )


def _identify(session: Session, *, write: bool) -> None:
    """Prove that the cartridge is the one asked for; label a blank one that is new. Faults: NEEDS_HUMAN."""
    tape = session.tape
    found = labels.read(session.drive)
    if not tape.has_label:
        _identify_legacy(session, found)
    elif found.label and found.label.uuid == tape.uuid:
        if tape.state is TapeState.NEW:  # labelled just before a crash
            session.mark(TapeState.LABELLED)
    elif tape.state is TapeState.NEW and found.is_blank:
        if not write:
            reason = "has no label yet, and the cartridge in the drive is blank"
            raise Fault(FaultKind.CONFIG, f"tape {tape.name}", reason, next_command="custody tape archive")
        _write_label(session)
    else:
        raise wrong_tape(session.drive.name, tape, found)


def wrong_tape(device: str, tape: Tape, found: labels.Found) -> Fault:
    """What is said when another cartridge is in the drive."""
    holds = f"tape {found.label.name} (label {found.label.uuid})" if found.label else found.describes
    if tape.state is TapeState.NEW and not found.label:
        reason = f"holds {holds}, and a new tape must be blank; nothing was written"
        erase = f"mt -f {device} rewind && mt -f {device} erase, if nobody needs what is on it"
        return Fault(FaultKind.NEEDS_HUMAN, device, reason, next_command=f"insert a blank cartridge, or {erase}")
    if found.label and found.label.name == tape.name:
        reason = f"holds another tape that is called {tape.name}: its label is {found.label.uuid}, not {tape.uuid}"
        command = f"insert the right one; if this is it, somebody has labelled it anew: {tape.scan_command}"
        return Fault(FaultKind.NEEDS_HUMAN, device, f"{reason}; nothing was read or written", next_command=command)
    reason = f"holds {holds}, not tape {tape.name}; nothing was read or written"
    return Fault(FaultKind.NEEDS_HUMAN, device, reason, next_command=f"insert {tape.called}")


def _identify_legacy(session: Session, found: labels.Found) -> None:
    """A tape without a label is known by the first block of its first file; the first time, by what is in it."""
    tape = session.tape
    if tape.identity:
        if tape.identity != found.first_block_sha256:
            raise wrong_tape(session.drive.name, tape, found)
        return
    table = tables.backup
    with session.ledger.read() as connection:
        first = connection.scalar(
            sa.select(tables.target.c.name)
            .join(table, table.c.target_id == tables.target.c.id)
            .where(table.c.tape_id == tape.id, table.c.file_number == 0)
        )
    expected = unescape(first).strip(b"/") if first else None
    if expected is None or found.first_member.strip(b"/") != expected:
        holds = f"begins with {escape(found.first_member)!r}" if found.first_member else f"holds {found.describes}"
        reason = f"{holds}, and file 0 of tape {tape.name} is {first or 'unknown'}; nothing was read or written"
        raise Fault(FaultKind.NEEDS_HUMAN, session.drive.name, reason, next_command=f"insert {tape.called}")
    with session.transaction() as connection:
        values = {"identity": found.first_block_sha256}
        connection.execute(sa.update(tables.tape).where(tables.tape.c.id == tape.id).values(values))
        session.event(connection, "identified", tape.name, **values)
    session.reload()


def _write_label(session: Session) -> None:
    tape, drive = session.tape, session.drive
    assert tape.uuid is not None
    label = labels.new_label(
        tape.name, tape.uuid, tape.pool, tape.block_bytes, serial=tape.serial, barcode=tape.barcode
    )
    drive.rewind()
    drive.write_block(labels.encode(label))
    drive.write_filemarks(1)
    found = labels.read(drive)
    if found.label != label:
        raise Fault(
            FaultKind.DATA, drive.name, "gave back another label than was written", next_command="try a new tape"
        )
    session.mark(TapeState.LABELLED)
