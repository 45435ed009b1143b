"""Put a tape file that was read and found whole into the catalogue, where it is not there already."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.faults import FaultKind
from custody.ledger.store import CopyState, now
from custody.tape import attempts, tables
from custody.tape.catalog import Backup, Tape, list_backups, live_key, set_backup_state, target_key
from custody.tape.content import Content, Facts, Verdict
from custody.tape.records import put_members, record_shared, without_ours
from custody.tape.session import Session
from custody.tape.states import AttemptResult, BackupState

_LINES_ON_RECORD = 100
_WAITING = {BackupState.ASSIGNED, BackupState.OUTSTANDING, BackupState.FAILED}


def verdict_of(connection: Connection, tape: Tape, number: int, content: Content, source: str) -> tuple[Verdict, str]:
    """What the catalogue has at this file number: nothing (NEW), the same, or something else."""
    assert content.facts is not None
    there = _there(connection, tape, number)
    if there is None:
        return Verdict.NEW, ""
    facts = content.facts
    if there.target.name != facts.target or there.target.source != (facts.source or source):
        has = f"{there.target.source}:{there.target.name}"
        return Verdict.CONFLICT, f"the catalogue has {has} ({there.state}) as file {number}, row {there.id}"
    if there.state is BackupState.RELEASED:
        return Verdict.KNOWN, "released: it counts no more"
    if there.manifest_sha256 is None:
        return Verdict.KNOWN, "" if there.state is BackupState.CONFIRMED else f"custody tape confirm {number}"
    if there.manifest_sha256 != facts.manifest_sha256:
        reason = f"the catalogue has another manifest of it, {there.manifest_sha256[:12]}…, row {there.id}"
        return Verdict.CONFLICT, reason
    return Verdict.KNOWN, ""


def missing(connection: Connection, tape: Tape, next_number: int) -> list[Backup]:
    """What the catalogue says is on a tape behind its end."""
    table = tables.backup
    on_tape = [state for state in BackupState if state.is_on_tape]
    behind = table.c.file_number >= next_number
    return list_backups(connection, table.c.tape_id == tape.id, table.c.state.in_(on_tape), behind)


def _there(connection: Connection, tape: Tape, number: int) -> Backup | None:
    table = tables.backup
    found = list_backups(connection, table.c.tape_id == tape.id, table.c.file_number == number)
    return found[0] if found else None


def put_back(session: Session, number: int, content: Content, source: str) -> tuple[Verdict, str]:
    """Make the rows of one tape file: target, backup, members, copies and proofs, in one transaction."""
    facts = content.facts
    assert facts is not None
    with session.transaction() as connection:
        verdict, reason = verdict_of(connection, session.tape, number, content, source)
        if verdict is Verdict.KNOWN:
            _confirm(connection, session, number, content)
        if verdict is not Verdict.NEW:
            return verdict, reason
        target_id = _target(connection, facts, content, source)
        backup_id = _backup(connection, session.tape, target_id, number, content)
        if backup_id is None:
            return Verdict.KNOWN, "is being written, or was when a crash came: custody tape archive settles it"
        assert content.manifest is not None
        put_members(connection, target_id, backup_id, without_ours(content.manifest))
        backup = list_backups(connection, tables.backup.c.id == backup_id)[0]
        _share(connection, session, backup, content)
        session.event(connection, "found on tape", facts.target, tape=session.tape.name, file_number=number)
    return Verdict.NEW, ""


def put_back_damaged(session: Session, number: int, content: Content, source: str) -> bool:
    """Put a tape file of which some members are not as they were written on record as failed, unless it is there.

    What is well on it can be found and restored then. Its members are those of its manifest.
    """
    facts = content.facts
    assert facts is not None and content.manifest is not None and content.read is not None
    with session.transaction() as connection:
        if _there(connection, session.tape, number) is not None:
            return False
        target_id = _target(connection, facts, content, source)
        key = live_key(target_id, session.tape.pool)
        others = list_backups(connection, tables.backup.c.live_key == key)
        if any(other.state is BackupState.WRITING for other in others):
            return False
        if others:  # it takes nobody's place
            key = f"{key}#{session.tape.id}.{number}"
        values = _values(number, content) | {"confirmed_at": None}
        backup_id = _insert(connection, session.tape, target_id, key, BackupState.RECORDED, values)
        put_members(connection, target_id, backup_id, without_ours(content.manifest))
        text = "\n".join(content.complaints[:_LINES_ON_RECORD])
        set_backup_state(connection, backup_id, BackupState.FAILED, fault=FaultKind.DATA, fault_text=text)
        detail = {"file_number": number, "wrong": list(content.complaints[:_LINES_ON_RECORD])}
        session.event(
            connection, "found on tape", facts.target, result=FaultKind.DATA, tape=session.tape.name, **detail
        )
    return True


def _share(connection: Connection, session: Session, backup: Backup, content: Content) -> None:
    manifest = content.manifest
    assert manifest is not None and content.facts is not None
    is_proven = content.facts.manifest_sha256 is not None
    state, proof = (CopyState.PROVEN, "readback") if is_proven else (CopyState.PRESENT, None)
    record_shared(connection, backup, lambda: without_ours(manifest), state, proof=proof, run=session.who)


def _confirm(connection: Connection, session: Session, number: int, content: Content) -> None:
    """What is on record and was read back just now is confirmed."""
    there = _there(connection, session.tape, number)
    assert there is not None and content.facts is not None
    if there.manifest_sha256 is None or there.state not in {BackupState.RECORDED, BackupState.FAILED}:
        return
    set_backup_state(connection, there.id, BackupState.CONFIRMED, confirmed_at=now())
    _share(connection, session, there, content)
    session.event(connection, "confirmed", there.target.name, tape=session.tape.name, by="scan")


def _target(connection: Connection, facts: Facts, content: Content, source: str) -> int:
    """The target's row; a new one counts as scanned: what was written was what the scan had found."""
    table = tables.target
    source = facts.source or source
    key = target_key(source, facts.target)
    known = connection.scalar(sa.select(table.c.id).where(table.c.name_key == key))
    if known is not None:
        return int(known)
    assert content.manifest is not None
    sizes = [member.size_bytes for member in without_ours(content.manifest)]
    values = {
        "source": source,
        "name": facts.target,
        "name_key": key,
        "scanned_at": now(),
        "size_bytes": sum(sizes),
        "members": len(sizes),
        "excludes": list(facts.excludes),
        "imported_at": now(),
    }
    inserted = connection.execute(sa.insert(table).values(values)).inserted_primary_key
    assert inserted is not None
    scanned = (replace(member, offset_bytes=-1) for member in without_ours(content.manifest))
    put_members(connection, inserted[0], None, scanned)
    return int(inserted[0])


def _values(number: int, content: Content) -> dict[str, Any]:
    assert content.facts is not None and content.read is not None and content.manifest is not None
    sizes = [member.size_bytes for member in without_ours(content.manifest)]
    at = now()
    return {
        "file_number": number,
        "tape_bytes": content.read.size_bytes,
        "tape_blocks": content.read.blocks,
        "content_bytes": sum(sizes),
        "members": len(sizes),
        "manifest_sha256": content.facts.manifest_sha256,
        "recorded_at": at,
        "confirmed_at": at if content.facts.manifest_sha256 is not None else None,
    }


def _insert(
    connection: Connection, tape: Tape, target_id: int, key: str, state: BackupState, values: dict[str, Any]
) -> int:
    row = {"target_id": target_id, "tape_id": tape.id, "live_key": key, "state_before": "", "state": state}
    adding = sa.insert(tables.backup).values(row | values | {"changed_at": now()})
    inserted = connection.execute(adding).inserted_primary_key
    assert inserted is not None
    return int(inserted[0])


def _backup(connection: Connection, tape: Tape, target_id: int, number: int, content: Content) -> int | None:
    """The row of the backup; one that was assigned to this tape becomes it. None where it is being written."""
    values = _values(number, content)
    key = live_key(target_id, tape.pool)
    others = list_backups(connection, tables.backup.c.live_key == key)
    if others:
        other = others[0]
        if other.state is BackupState.WRITING:
            return None
        if other.tape_id == tape.id and other.file_number is None and other.state in _WAITING:
            return _become(connection, other, values)
        if other.file_number is None and other.state in _WAITING:
            set_backup_state(connection, other.id, BackupState.RELEASED)
        else:
            key = f"{key}#{tape.id}.{number}"  # a second copy in the same pool: both count
    state = BackupState.CONFIRMED if values["confirmed_at"] else BackupState.RECORDED
    return _insert(connection, tape, target_id, key, state, values)


def _become(connection: Connection, backup: Backup, values: dict[str, Any]) -> int:
    if backup.state is not BackupState.ASSIGNED:
        set_backup_state(connection, backup.id, BackupState.ASSIGNED)
    set_backup_state(connection, backup.id, BackupState.WRITING)
    set_backup_state(connection, backup.id, BackupState.RECORDED, **values)
    if values["confirmed_at"] is not None:
        set_backup_state(connection, backup.id, BackupState.CONFIRMED)
    return backup.id


def explain_leftover(connection: Connection, session: Session, number: int, content: Content) -> None:
    """Put on record that the unfinished file at the end of a tape was begun and never became a backup.

    With that the next archive knows that it may write over it. Only of a file that says itself that it is ours.
    """
    tape = (content.opening or {}).get("tape")
    if not isinstance(tape, dict) or tape.get("uuid") != session.tape.uuid or not session.tape.uuid:
        return
    if attempts.explains_leftover(connection, session.tape.id, number):
        return
    if _there(connection, session.tape, number) is not None:
        return
    table = tables.attempt
    own = str((content.opening or {}).get("attempt"))[:36]
    if connection.scalar(sa.select(table.c.id).where(table.c.uuid == own)) is not None:
        own = str(uuid.uuid4())
    values = {
        "uuid": own,
        "tape_id": session.tape.id,
        "file_number": number,
        "kind": "write",
        "result": AttemptResult.ABORTED,
        "who": session.who,
        "started_at": now(),
        "ended_at": now(),
        "tape_bytes": content.size_bytes,
        "fault_text": f"found unfinished by a scan: {content.reason}",
        "health": {},
    }
    connection.execute(sa.insert(table).values(values))
