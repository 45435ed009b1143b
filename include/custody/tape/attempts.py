"""Attempts: every go at a tape file, written down before it begins and never forgotten.

After a crash, the attempt that is still an intent says at which file number to look.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.ledger.store import now
from custody.tape import tables
from custody.tape.catalog import Backup
from custody.tape.session import Session
from custody.tape.states import AttemptResult
from custody.tape.stream.compose import OPENING_FORMAT


@dataclass(frozen=True)
class Attempt:
    """One go at one tape file."""

    id: int
    uuid: str
    file_number: int


def begin(
    connection: Connection, session: Session, kind: str, file_number: int, backup: Backup | None = None
) -> Attempt:
    """Write the intent down. It counts once the caller's transaction is committed."""
    own = str(uuid.uuid4())
    values: dict[str, Any] = {
        "uuid": own,
        "backup_id": backup.id if backup else None,
        "tape_id": session.tape.id,
        "file_number": file_number,
        "kind": kind,
        "result": AttemptResult.INTENT,
        "who": session.who,
        "started_at": now(),
        "health": {},
    }
    key = connection.execute(sa.insert(tables.attempt).values(values)).inserted_primary_key
    assert key is not None
    return Attempt(key[0], own, file_number)


def end(connection: Connection, attempt: Attempt, result: AttemptResult, **values: Any) -> None:
    """Write down how it ended."""
    connection.execute(
        sa.update(tables.attempt)
        .where(tables.attempt.c.id == attempt.id)
        .values(result=result, ended_at=now(), **values)
    )


def explains_leftover(connection: Connection, tape_id: int, file_number: int) -> bool:
    """Whether something may lie at a file number that no recorded backup has.

    That is what was begun and never recorded, and the catalogue of a tape that was being closed: nobody's data.
    """
    table = tables.attempt
    unfinished = [AttemptResult.INTENT, AttemptResult.TRUNCATED, AttemptResult.ABORTED, AttemptResult.FAILED]
    is_no_data = sa.or_(
        sa.and_(table.c.kind == "write", table.c.result.in_(unfinished)),
        table.c.kind == "catalog",
    )
    here = sa.and_(table.c.tape_id == tape_id, table.c.file_number == file_number)
    return connection.scalar(sa.select(table.c.id).where(here, is_no_data).limit(1)) is not None


def describe(session: Session, attempt: Attempt, backup: Backup) -> bytes:
    """The content of the opening member: enough to rebuild the catalogue, and the commands for a person."""
    tape, number = session.tape, attempt.file_number
    facts = {
        "format": OPENING_FORMAT,
        "tape": {"name": tape.name, "uuid": tape.uuid},
        "file_number": number,
        "attempt": attempt.uuid,
        "source": backup.target.source,
        "target": backup.target.name,
        "excludes": list(backup.target.excludes),
        "started": now().isoformat(timespec="seconds"),
        "restore": [
            "mt -f /dev/nst0 rewind",
            f"mt -f /dev/nst0 fsf {number}",
            f"dd if=/dev/nst0 bs={tape.block_bytes} | tar -x -f - --exclude .custody",
        ],
    }
    return json.dumps(facts, indent=1, ensure_ascii=False).encode() + b"\n"
