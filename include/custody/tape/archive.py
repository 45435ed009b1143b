"""Archive: one assigned target becomes one tape file, read once from its source.

The order is what makes a crash harmless: intent on record, bytes to tape, filemark, comparison with the scan, and only
then the word "recorded". Whatever is cut off before that is found by :mod:`custody.tape.recover`.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Collection
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.faults import Fault, FaultKind
from custody.host import Host
from custody.tape import attempts, tables
from custody.tape.attempts import Attempt
from custody.tape.catalog import Backup, list_backups, next_file_number, set_backup_state
from custody.tape.choose import quoted
from custody.tape.config import Fit
from custody.tape.drives import EndOfData
from custody.tape.label import LARGEST_BLOCK_BYTES
from custody.tape.names import unescape
from custody.tape.outcome import Archived, Outcome, drift_of, end_of_tape, finish, put_fault_on_record
from custody.tape.session import Session
from custody.tape.states import BackupState, TapeState
from custody.tape.stream.compose import OPENING_NAME
from custody.tape.stream.drift import Drift
from custody.tape.stream.source import TarSource
from custody.tape.stream.write import Written, write_tape_file

HEADROOM = 1.02
"""A tar stream over the bytes of its files: headers, padding, the manifest."""

Progress = Callable[[int], None]


def next_assigned(connection: Connection, session: Session, only: Collection[int] | None = None) -> Backup | None:
    """The assigned target whose turn it is, by name; with ``only``, of these targets."""
    chosen = [] if only is None else [tables.backup.c.target_id.in_(list(only))]
    found = list_backups(
        connection,
        tables.backup.c.tape_id == session.tape.id,
        tables.backup.c.state == BackupState.ASSIGNED,
        *chosen,
        order=(tables.target.c.name, tables.backup.c.id),
    )
    fitting = [one for one in found if _seems_to_fit(session, one)]
    if fitting:
        return fitting[0]
    return found[0] if found and session.config.fit is Fit.NEXT else None


def _seems_to_fit(session: Session, backup: Backup) -> bool:
    remaining = session.condition.before.remaining_bytes
    if remaining is None:
        remaining = session.tape.remaining_bytes
    if session.config.fit is Fit.TRY or remaining is None or backup.target.size_bytes is None:
        return True
    return backup.target.size_bytes * HEADROOM <= remaining


def archive_one(
    session: Session,
    host: Host,
    *,
    only: Collection[int] | None = None,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
) -> Archived:
    """Write the next assigned target behind the last file of the mounted tape.

    Faults: DATA naming what differs where the source is not what was scanned, or the tape not what the catalogue says;
    those of source and drive. In every one the target counts as not written, and nothing recorded is touched.
    """
    with session.ledger.read() as connection:
        backup = next_assigned(connection, session, only)
        number = next_file_number(connection, session.tape)
    if backup is None:
        return Archived(Outcome.NO_WORK)
    if backup.target.source != host.name:
        reason = f"lies on {backup.target.source}, and the configuration reads from {host.name}"
        raise Fault(FaultKind.CONFIG, backup.target.name, reason, next_command="use the configuration of that source")
    if not _seems_to_fit(session, backup):
        session.mark(TapeState.FULL, reason=f"{backup.target.name} does not fit")
        return Archived(Outcome.FULL, backup)
    require_end_of_data(session, number)
    with session.transaction() as connection:
        attempt = attempts.begin(connection, session, "write", number, backup)
        set_backup_state(connection, backup.id, BackupState.WRITING)
        if session.tape.catalog_file_number == number:  # closing was cut off, and the tape is used on
            mine = tables.tape.c.id == session.tape.id
            connection.execute(sa.update(tables.tape).where(mine).values(catalog_file_number=None))
    with tempfile.TemporaryDirectory(prefix="custody-tape-") as directory:
        try:
            written = _write(session, host, backup, attempt, Path(directory), stop, progress)
            if written.is_end_of_tape:
                return end_of_tape(session, backup, attempt, written)
            drift = drift_of(session, backup, written)
            if drift:
                raise _drifted(backup, drift)
            return finish(session, backup, attempt, written)
        except Fault as fault:
            put_fault_on_record(session, backup, attempt, fault)
            if fault.kind is FaultKind.CANCELLED and stop and stop.is_set():
                return Archived(Outcome.STOPPED, backup)
            raise


def require_end_of_data(session: Session, number: int) -> None:
    """Put the head where the new file goes, and make sure that nothing the catalogue does not explain lies there.

    Faults: NEEDS_HUMAN where something does; the tape is suspect from then on, and nothing is written.
    """
    try:
        session.seek(number)
    except Fault as fault:
        if fault.kind is FaultKind.DATA:
            session.mark(TapeState.SUSPECT, reason=str(fault))
        raise
    try:
        count = session.drive.read_block(memoryview(bytearray(LARGEST_BLOCK_BYTES)))
    except EndOfData:
        session.seek(number)
        return
    with session.ledger.read() as connection:
        explained = attempts.explains_leftover(connection, session.tape.id, number)
    if not explained:
        reason = f"file {number} holds something ({count} bytes and more) that the catalogue does not know"
        session.mark(TapeState.SUSPECT, reason=reason)
        raise Fault(
            FaultKind.NEEDS_HUMAN,
            f"tape {session.tape.name}",
            f"{reason}; nothing was written",
            next_command=session.scan_command,
        )
    session.seek(number)


def _write(
    session: Session,
    host: Host,
    backup: Backup,
    attempt: Attempt,
    directory: Path,
    stop: threading.Event | None,
    progress: Progress | None,
) -> Written:
    config = session.config
    total = backup.target.size_bytes
    report = session.held.progress
    report.update(target=backup.target.name, file_number=attempt.file_number, bytes_total=total, bytes_done=0)

    def advance(count: int) -> None:
        report["bytes_done"] += count
        if progress:
            progress(count)

    excludes = [unescape(name) for name in backup.target.excludes]
    with TarSource(host, backup.target.path, excludes) as source:
        return write_tape_file(
            session.drive,
            source.stream,
            source_ended=source.ended,
            subject=f"{host.name}:{backup.target.name}",
            block_bytes=session.tape.block_bytes,
            buffer_bytes=config.buffer,
            high_water=config.start_at_pct / 100,
            head=[(OPENING_NAME, attempts.describe(session, attempt, backup))],
            spool_path=directory / "manifest.jsonl",
            algorithms=config.digests,
            progress=advance,
            stop=stop,
        )


def _drifted(backup: Backup, drift: Drift) -> Fault:
    name = quoted(unescape(backup.target.name))
    return Fault(
        FaultKind.DATA,
        backup.target.name,
        f"is not what was scanned: {drift}; it is not recorded",
        next_command=f"custody tape import --retry --target {name}; custody tape reassign {backup.tape_name} {name}; "
        "custody tape archive",
    )
