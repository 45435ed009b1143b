"""What an archive leaves on record: recorded with every member, ended by the end of the tape, or cut off by a fault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from custody.digests import read_file
from custody.faults import Fault, FaultKind
from custody.ledger.store import CopyState, now
from custody.tape import attempts, tables
from custody.tape.attempts import Attempt
from custody.tape.catalog import Backup, list_backups, set_backup_state, set_tape_state
from custody.tape.condition import since
from custody.tape.members import Member
from custody.tape.records import members_of, put_members, record_shared, without_ours
from custody.tape.session import Session
from custody.tape.states import AttemptResult, BackupState, TapeState
from custody.tape.stream.drift import Drift, compare
from custody.tape.stream.write import Written


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


def end_of_tape(session: Session, backup: Backup, attempt: Attempt, written: Written) -> Archived:
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


def put_fault_on_record(session: Session, backup: Backup, attempt: Attempt, fault: Fault) -> None:
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
