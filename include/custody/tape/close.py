"""Close: nothing more goes on a tape, and its last file says what is on it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import sqlalchemy as sa

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.tape import attempts, tables
from custody.tape.archive import require_end_of_data
from custody.tape.catalog import Tape, find_tape, list_backups, next_file_number, set_tape_state
from custody.tape.config import TapeConfig
from custody.tape.drives import EndOfTape
from custody.tape.manifests import manifest_lines
from custody.tape.session import Session, mounted
from custody.tape.states import AttemptResult, BackupState, TapeState
from custody.tape.stream.compose import END_OF_ARCHIVE, member_blocks
from custody.tape.tapes import release_assigned

CATALOG_MEMBER = ".custody/catalog.jsonl"


def close_tape(
    ledger: Ledger,
    config: TapeConfig,
    name: str | None,
    *,
    who: str,
    force: bool = False,
    write_catalog: bool = True,
    patience_s: float = 0,
) -> Tape:
    """Close a tape: dissociate what is assigned to it, write the catalogue as its last file, take it offline.

    Faults: NEEDS_HUMAN while targets on it are recorded and not confirmed, unless ``force``; those of the drive where
    ``write_catalog`` is asked for. A tape that is full is closed without: there is no room.
    """
    with ledger.read() as connection:
        tape = find_tape(connection, name)
        ours = tables.backup.c.tape_id == tape.id
        unconfirmed = list_backups(connection, ours, tables.backup.c.state == BackupState.RECORDED)
        being_written = list_backups(connection, ours, tables.backup.c.state == BackupState.WRITING)
    if tape.state is TapeState.CLOSED:
        return tape
    if tape.state is TapeState.SUSPECT:
        reason = f"is suspect: {tape.reason}"
        command = f"{tape.scan_command}, then custody tape trust_tape {tape.name}"
        raise Fault(FaultKind.NEEDS_HUMAN, f"tape {tape.name}", reason, next_command=command)
    if being_written:
        reason = f"{being_written[0].target.name} is being written to it, or was when a crash came"
        raise Fault(FaultKind.CONFLICT, f"tape {tape.name}", reason, next_command="custody tape archive")
    if unconfirmed and not force:
        raise Fault(
            FaultKind.NEEDS_HUMAN,
            f"tape {tape.name}",
            f"{len(unconfirmed)} targets on it are not confirmed, {unconfirmed[0].target.name} the first of them",
            next_command=f"custody tape confirm, or custody tape close_tape {tape.name} --force",
        )
    if write_catalog and tape.state in {TapeState.LABELLED, TapeState.OPEN} and tape.has_label:
        with mounted(ledger, config, tape, who=who, write=True, patience_s=patience_s) as session:
            _write_catalog(session)
    release_assigned(ledger, tape, who=who)
    with ledger.begin() as connection:
        set_tape_state(connection, tape.id, TapeState.CLOSED)
        connection.execute(sa.update(tables.tape).where(tables.tape.c.id == tape.id).values(is_online=False))
        ledger.record_event(
            connection,
            who=who,
            room="tape",
            what="closed",
            subject=tape.name,
            detail={"forced": bool(unconfirmed), "unconfirmed": len(unconfirmed)},
        )
        return find_tape(connection, tape.name)


def _write_catalog(session: Session) -> None:
    """The last file: a line for the tape, then each target's line and its members'."""
    with session.ledger.read() as connection:
        number = next_file_number(connection, session.tape)
    require_end_of_data(session, number)
    with session.transaction() as connection:
        attempt = attempts.begin(connection, session, "catalog", number)
    with tempfile.TemporaryDirectory(prefix="custody-catalog-") as directory:
        path = Path(directory) / "catalog.jsonl"
        with path.open("wb") as stream, session.ledger.read() as connection:
            for line in manifest_lines(connection, session.tape):
                stream.write(json.dumps(line, ensure_ascii=False, sort_keys=True).encode() + b"\n")
        try:
            written = _write_blocks(session, path)
        except EndOfTape:
            with session.transaction() as connection:  # nobody's data: the tape is full, and closed without it
                attempts.end(connection, attempt, AttemptResult.TRUNCATED)
            return
    with session.transaction() as connection:
        attempts.end(connection, attempt, AttemptResult.DONE, tape_bytes=written)
        values = {"catalog_file_number": number, "written_bytes": tables.tape.c.written_bytes + written}
        connection.execute(sa.update(tables.tape).where(tables.tape.c.id == session.tape.id).values(**values))


def _write_blocks(session: Session, path: Path) -> int:
    size = session.tape.block_bytes
    pending, written = bytearray(), 0
    for piece in (*member_blocks(CATALOG_MEMBER, path), END_OF_ARCHIVE):
        pending += piece
        while len(pending) >= size:
            session.drive.write_block(bytes(pending[:size]))
            del pending[:size]
            written += size
    if pending:
        session.drive.write_block(bytes(pending))
    session.drive.write_filemarks(1)
    return written + len(pending)
