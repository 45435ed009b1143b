"""Archive: one assigned target becomes one tape file, read once from its source.

The order is what makes a crash harmless: intent on record, bytes to tape, filemark, comparison with the scan, and only
then the word "recorded". Whatever is cut off before that is found by :mod:`custody.tape.recover`.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.digests import read_file
from custody.faults import Fault, FaultKind
from custody.host import Host
from custody.ledger.store import CopyState, now
from custody.tape import attempts, tables
from custody.tape.attempts import Attempt
from custody.tape.catalog import Backup, list_backups, next_file_number, set_backup_state, set_tape_state
from custody.tape.condition import since
from custody.tape.config import Fit
from custody.tape.drives import EndOfData
from custody.tape.label import LARGEST_BLOCK_BYTES
from custody.tape.members import Member
from custody.tape.names import unescape
from custody.tape.records import members_of, put_members, record_shared, without_ours
from custody.tape.session import Session
from custody.tape.states import AttemptResult, BackupState, TapeState
from custody.tape.stream.compose import OPENING_NAME
from custody.tape.stream.drift import Drift, compare
from custody.tape.stream.source import TarSource
from custody.tape.stream.write import Written, write_tape_file

HEADROOM = 1.02
"""A tar stream over the bytes of its files: headers, padding, the manifest."""

Progress = Callable[[int], None]


class Outcome(StrEnum):
    """How an archive ended; only faults are errors."""

    RECORDED = "recorded"
    FULL = "full"  # the tape ended: the target waits for the next one
    STOPPED = "stopped"  # on purpose, between or within targets
    NO_WORK = "no work"


@dataclass(frozen=True)
class Archived:
    """What became of one go."""

    outcome: Outcome
    backup: Backup | None = None
    rate_bytes_s: float = 0.0
    underruns: int = 0


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
                return _end_of_tape(session, backup, attempt, written)
            drift = drift_of(session, backup, written)
            if drift:
                raise _drifted(backup, drift)
            return finish(session, backup, attempt, written)
        except Fault as fault:
            _on_record(session, backup, attempt, fault)
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


def _end_of_tape(session: Session, backup: Backup, attempt: Attempt, written: Written) -> Archived:
    """The first refusal ends the target here; not one block of it counts, and the tape takes no other."""
    with session.transaction() as connection:
        attempts.end(
            connection,
            attempt,
            AttemptResult.TRUNCATED,
            tape_bytes=written.size_bytes,
            tape_blocks=written.blocks,
            health=since(session.condition, session.drive),
        )
        set_backup_state(connection, backup.id, BackupState.OUTSTANDING, file_number=None)
        set_tape_state(connection, session.tape.id, TapeState.FULL, reason="end of tape")
        session.event(
            connection, "full", session.tape.name, outstanding=backup.target.name, tape_bytes=written.size_bytes
        )
    session.reload()
    return Archived(Outcome.FULL, backup, written.rate_bytes_s, written.underruns)


def drift_of(session: Session, backup: Backup, written: Written) -> Drift | None:
    """How the source differs from its scan; None where it does not, or was never scanned."""
    if backup.target.members is None:
        return None
    with session.ledger.read() as connection:
        found = compare(members_of(connection, backup.target.id, None), without_ours(written.manifest))
    return found if found else None


def _drifted(backup: Backup, drift: Drift) -> Fault:
    return Fault(
        FaultKind.DATA,
        backup.target.name,
        f"is not what was scanned: {drift}; it is not recorded",
        next_command=f"custody tape import --retry --target {backup.target.name}; custody tape reassign; archive again",
    )


def finish(
    session: Session,
    backup: Backup,
    attempt: Attempt,
    written: Written,
    result: AttemptResult = AttemptResult.DONE,
) -> Archived:
    """Say "recorded", with every member, in one transaction."""
    manifest = written.manifest

    def sent() -> Iterator[Member]:
        return without_ours(manifest)

    count, content_bytes = 0, 0
    for member in sent():
        count, content_bytes = count + 1, content_bytes + member.size_bytes
    with session.transaction() as connection:
        put_members(connection, backup.target.id, backup.id, sent())
        set_backup_state(
            connection,
            backup.id,
            BackupState.RECORDED,
            file_number=attempt.file_number,
            tape_bytes=written.size_bytes,
            tape_blocks=written.blocks,
            content_bytes=content_bytes,
            members=count,
            manifest_sha256=read_file(manifest.path, ["sha256"]).fixity.digests["sha256"],
            recorded_at=now(),
        )
        recorded = list_backups(connection, tables.backup.c.id == backup.id)[0]
        record_shared(connection, recorded, sent, CopyState.SENT, proof=None, run=session.who)
        attempts.end(
            connection,
            attempt,
            result,
            tape_bytes=written.size_bytes,
            tape_blocks=written.blocks,
            rate_bytes_s=int(written.rate_bytes_s),
            underruns=written.underruns,
            health=since(session.condition, session.drive),
        )
        tape = tables.tape
        grown = sa.update(tape).where(tape.c.id == session.tape.id)
        connection.execute(grown.values(written_bytes=tape.c.written_bytes + written.size_bytes))
        if session.tape.state is TapeState.LABELLED:
            set_tape_state(connection, session.tape.id, TapeState.OPEN)
        detail = {"file_number": attempt.file_number, "tape_bytes": written.size_bytes, "members": count}
        what = "adopted" if result is AttemptResult.ADOPTED else "recorded"
        session.event(connection, what, backup.target.name, tape=session.tape.name, **detail)
        if result is AttemptResult.DONE and _starves_the_drive(session, written):
            rate, floor = int(written.rate_bytes_s), session.config.low_rate
            values = {"rate_bytes_s": rate, "low_rate": floor, "underruns": written.underruns}
            session.event(connection, "too slow for the drive", session.tape.name, result="warning", **values)
    session.reload()
    return Archived(Outcome.RECORDED, recorded, written.rate_bytes_s, written.underruns)


def _starves_the_drive(session: Session, written: Written) -> bool:
    """Whether the drive had to stop and start; what fits into the buffer tells nothing of the source."""
    return written.size_bytes > session.config.buffer and written.rate_bytes_s < session.config.low_rate


def _on_record(session: Session, backup: Backup, attempt: Attempt, fault: Fault) -> None:
    """What a fault leaves: a target that drifted has failed; one that was cut off will be written again."""
    if fault.kind is FaultKind.CONFLICT and session.held.lost:
        return  # the drive is somebody else's now, and so is the record
    again = fault.kind.is_worth_a_retry or fault.kind in {FaultKind.CANCELLED, FaultKind.AUTH}
    drive_trouble = fault.subject == session.drive.name
    with session.transaction() as connection:
        result = AttemptResult.ABORTED if again else AttemptResult.FAILED
        attempts.end(connection, attempt, result, fault_text=str(fault))
        state = BackupState.ASSIGNED if again or drive_trouble else BackupState.FAILED
        values = {"fault": fault.kind, "fault_text": str(fault), "file_number": None}
        set_backup_state(connection, backup.id, state, **values)
        if drive_trouble and not again:
            set_tape_state(connection, session.tape.id, TapeState.SUSPECT, reason=str(fault))
        session.event(connection, "archive", backup.target.name, result=fault.kind, fault=str(fault))
    session.reload()
