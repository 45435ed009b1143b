"""Recover: what a crash left half done on the mounted tape is looked at, and either adopted or to be written again."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import sqlalchemy as sa

from custody.tape import attempts, tables
from custody.tape.attempts import Attempt
from custody.tape.catalog import Backup, list_backups, set_backup_state
from custody.tape.drives import EndOfData
from custody.tape.outcome import drift_of, finish
from custody.tape.records import without_ours
from custody.tape.session import Session
from custody.tape.states import AttemptResult, BackupState
from custody.tape.stream.read import read_tape_file
from custody.tape.stream.spool import ManifestSpool
from custody.tape.stream.write import Written


def settle(session: Session) -> list[Backup]:
    """Take up every target of this tape that is marked as being written, though nobody writes it any more.

    A tape file that is whole, ended by its filemark, and of that very attempt is adopted, as if the crash had come a
    moment later; everything else is assigned again and will be written over. Returns the adopted ones.
    """
    with session.ledger.read() as connection:
        writing = tables.backup.c.state == BackupState.WRITING
        found = list_backups(connection, tables.backup.c.tape_id == session.tape.id, writing)
        unfinished = {
            row.backup_id: Attempt(row.id, row.uuid, row.file_number)
            for row in connection.execute(
                sa.select(tables.attempt)
                .where(
                    tables.attempt.c.tape_id == session.tape.id,
                    tables.attempt.c.result == AttemptResult.INTENT,
                    tables.attempt.c.kind == "write",
                )
                .order_by(tables.attempt.c.id)
            )
        }
    adopted = []
    for backup in found:
        attempt = unfinished.get(backup.id)
        if attempt is not None and _adopt(session, backup, attempt):
            adopted.append(backup)
        else:
            _write_again(session, backup, attempt)
    return adopted


def _adopt(session: Session, backup: Backup, attempt: Attempt) -> bool:
    session.seek(attempt.file_number)
    with tempfile.TemporaryDirectory(prefix="custody-adopt-") as directory:
        manifest = Path(directory) / "manifest.jsonl"
        with ManifestSpool.create(Path(directory) / "found") as found:
            try:
                read = read_tape_file(
                    session.drive,
                    found.add,
                    limit_bytes=None,
                    block_bytes=max(session.tape.block_bytes, 1 << 20),
                    algorithms=session.config.digests,
                    manifest_path=manifest,
                )
            except EndOfData:
                return False
        if not (read.is_complete and read.ended_at_filemark and read.manifest and _is_of(read.opening, attempt)):
            return False
        if list(without_ours(found)) != list(without_ours(read.manifest)):
            return False
        written = Written(read.size_bytes, read.blocks, read.members - 1, read.manifest, False, 0.0, 0)
        if drift_of(session, backup, written):
            return False
        finish(session, backup, attempt, written, AttemptResult.ADOPTED)
    return True


def _is_of(opening: bytes | None, attempt: Attempt) -> bool:
    try:
        return opening is not None and json.loads(opening)["attempt"] == attempt.uuid
    except (ValueError, KeyError, TypeError):
        return False


def _write_again(session: Session, backup: Backup, attempt: Attempt | None) -> None:
    with session.transaction() as connection:
        if attempt is not None:
            attempts.end(connection, attempt, AttemptResult.ABORTED)
        set_backup_state(connection, backup.id, BackupState.ASSIGNED)
        session.event(connection, "to be written again", backup.target.name, tape=session.tape.name)
