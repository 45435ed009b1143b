"""Confirm: a tape file is read back once, and every member compared with what the catalogue says of it."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.digests import read_file
from custody.faults import Fault, FaultKind
from custody.ledger.store import CopyState, now
from custody.tape import attempts, tables
from custody.tape.archive import Progress
from custody.tape.catalog import Backup, Tape, list_backups, set_backup_state
from custody.tape.condition import since
from custody.tape.members import Member, MemberKind
from custody.tape.records import members_of, put_members, record_shared, without_ours
from custody.tape.session import Session
from custody.tape.states import AttemptResult, BackupState
from custody.tape.stream.drift import Drift, compare
from custody.tape.stream.read import Read, read_tape_file
from custody.tape.stream.spool import ManifestSpool

_LINES_ON_RECORD = 100


@dataclass(frozen=True)
class Confirmed:
    """What reading back found. ``complaints`` has a line for every file that is not what the catalogue says."""

    backup: Backup
    complaints: tuple[str, ...]
    members: int
    size_bytes: int

    @property
    def is_equal(self) -> bool:
        """Whether everything is as it was written."""
        return not self.complaints

    def require(self) -> None:
        """Raise a DATA fault where it is not."""
        if self.complaints:
            more = f" (and {len(self.complaints) - 1} more)" if len(self.complaints) > 1 else ""
            raise Fault(
                FaultKind.DATA,
                f"tape {self.backup.tape_name}, file {self.backup.file_number} ({self.backup.target.name})",
                f"{self.complaints[0]}{more}",
                next_command=f"clean the drive and custody tape confirm {self.backup.file_number} --retry, "
                f"or custody tape reassign OTHER_TAPE {self.backup.target.name}",
            )


def to_confirm(connection: Connection, tape: Tape, *, number: int | None = None, retry: bool = False) -> list[Backup]:
    """What is recorded and not confirmed, by file number; with ``retry`` also what was confirmed or failed before.

    Faults: CONFIG where there is no such file number to confirm.
    """
    states = [BackupState.RECORDED]
    if retry:
        states += [BackupState.CONFIRMED, BackupState.FAILED]
    table = tables.backup
    ours = [table.c.tape_id == tape.id, table.c.file_number.is_not(None)]
    if number is None:
        return list_backups(connection, *ours, table.c.state.in_(states))
    found = list_backups(connection, *ours, table.c.file_number == number, table.c.state != BackupState.RELEASED)
    if not found:
        reason = f"has no file {number} in the catalogue"
        raise Fault(FaultKind.CONFIG, f"tape {tape.name}", reason, next_command=f"custody tape tape_detail {tape.name}")
    if found[0].state not in states:
        reason = f"file {number} is {found[0].state} already"
        command = f"custody tape confirm {number} --retry"
        raise Fault(FaultKind.CONFIG, f"tape {tape.name}", reason, next_command=command)
    return found


def confirm_one(
    session: Session,
    backup: Backup,
    *,
    update: bool = True,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
) -> Confirmed:
    """Read one backup of the mounted tape and compare all of it: content, kinds, link texts, modes, owners, times.

    With ``update`` false the catalogue stays as it is. Faults: those of the drive; a difference is no fault here, see
    :meth:`Confirmed.require`.
    """
    assert backup.file_number is not None
    session.seek(backup.file_number)
    report = session.held.progress
    report.update(confirming=backup.target.name, file_number=backup.file_number, bytes_total=backup.tape_bytes)
    report["bytes_done"] = 0

    def advance(count: int) -> None:
        report["bytes_done"] += count
        if progress:
            progress(count)

    attempt = None
    if update:
        with session.transaction() as connection:
            attempt = attempts.begin(connection, session, "confirm", backup.file_number, backup)
    with tempfile.TemporaryDirectory(prefix="custody-confirm-") as directory:
        found = ManifestSpool.create(Path(directory) / "found")
        on_tape = Path(directory) / "manifest.jsonl"
        with found:
            read = read_tape_file(
                session.drive,
                found.add,
                limit_bytes=backup.tape_bytes,
                block_bytes=max(session.tape.block_bytes, 1 << 20),
                algorithms=_algorithms(session, backup),
                manifest_path=on_tape,
                subject=f"tape {session.tape.name}, file {backup.file_number}",
                progress=advance,
                stop=stop,
            )
        complaints = _complaints(session, backup, read, found, on_tape)
        confirmed = Confirmed(backup, tuple(complaints), read.members, read.size_bytes)
        if attempt is not None:
            _put_on_record(session, attempt, confirmed, found, read)
    return confirmed


def _algorithms(session: Session, backup: Backup) -> Sequence[str]:
    """The digests the catalogue knows of this backup; a tape of the old system has md5 only."""
    table = tables.member
    with session.ledger.read() as connection:
        row = connection.execute(
            sa.select(sa.func.max(table.c.md5), sa.func.max(table.c.sha1), sa.func.max(table.c.sha256)).where(
                table.c.backup_id == backup.id
            )
        ).one()
    return [name for name, known in zip(("md5", "sha1", "sha256"), row, strict=True) if known] or ["sha256"]


def is_legacy(backup: Backup) -> bool:
    """Whether it was written by the old system: its catalogue knows names and md5 sums, no more."""
    return backup.manifest_sha256 is None


def _complaints(session: Session, backup: Backup, read: Read, found: Iterable[Member], manifest: Path) -> list[str]:
    lines = [read.damage.reason] if read.damage else []
    if backup.tape_blocks is not None and read.blocks != backup.tape_blocks and not lines:
        lines.append(f"has {read.blocks} blocks where the catalogue has {backup.tape_blocks}")
    with session.ledger.read() as connection:
        expected = members_of(connection, backup.target.id, backup.id)
        if is_legacy(backup) and backup.members is None:
            return lines + _legacy_complaints(expected, found)
        lines += str_lines(compare(expected, without_ours(found)))
    if is_legacy(backup):  # read back before, and so all is known of it; a manifest it never had
        return lines
    if complaint := _opening_complaint(session, backup, read):
        lines.append(complaint)
    if read.manifest is None:
        lines.append("its manifest is not on the tape")
    elif read_file(manifest, ["sha256"]).fixity.digests["sha256"] != backup.manifest_sha256:
        lines.append("the manifest on the tape is not the one that was written")
    return lines


def _opening_complaint(session: Session, backup: Backup, read: Read) -> str:
    """What is wrong with the first member, which stands in no manifest: a lost catalogue would be rebuilt from it."""
    try:
        facts = json.loads(read.opening or b"")
        found = [facts["tape"]["uuid"], facts["file_number"], facts["source"], facts["target"]]
    except (ValueError, KeyError, TypeError):
        return "its first member, which says what it is, cannot be understood"
    wanted = [session.tape.uuid, backup.file_number, backup.target.source, backup.target.name]
    differing = [f"{other} instead of {one}" for one, other in zip(wanted, found, strict=True) if one != other]
    return f"its first member says {', '.join(differing)}" if differing else ""


def _legacy_complaints(expected: Iterable[Member], found: Iterable[Member]) -> list[str]:
    """By the old rule, told file by file: all files there with their md5, no others; links by name."""
    known = {member.name: member for member in expected}
    files = {MemberKind.FILE, MemberKind.HARDLINK, MemberKind.SYMLINK}
    lines: list[str] = []
    contents: dict[bytes, Mapping[str, str]] = {}
    seen: set[bytes] = set()
    for member in found:
        if member.kind not in files:
            continue
        seen.add(member.name)
        contents[member.name] = contents.get(member.link, {}) if member.kind is MemberKind.HARDLINK else member.digests
        there = known.get(member.name)
        shown = member.name.decode("utf-8", "backslashreplace")
        if there is None:
            lines.append(f"{shown}: is on the tape and not in the catalogue")
        elif (there.kind is MemberKind.SYMLINK) != (member.kind is MemberKind.SYMLINK):
            lines.append(f"{shown}: expected a {there.kind}, found a {member.kind}")
        elif there.kind is not MemberKind.SYMLINK:
            md5 = contents[member.name].get("md5")
            if md5 != there.digests.get("md5"):
                lines.append(f"{shown}: expected md5 {there.digests.get('md5')}, found {md5}")
    missing = (name.decode("utf-8", "backslashreplace") for name in sorted(known.keys() - seen))
    return lines + [f"{shown}: is in the catalogue and not on the tape" for shown in missing]


def str_lines(drift: Drift) -> list[str]:
    """A line for every difference."""
    return [str(line) for line in drift.lines()]


def _put_on_record(
    session: Session, attempt: attempts.Attempt, confirmed: Confirmed, found: ManifestSpool, read: Read
) -> None:
    backup = confirmed.backup
    health = since(session.condition, session.drive)
    with session.transaction() as connection:

        def read_back() -> Iterator[Member]:
            return without_ours(found)

        def expected() -> Iterator[Member]:
            return members_of(connection, backup.target.id, backup.id)

        if confirmed.is_equal:
            values: dict[str, Any] = {"confirmed_at": now()}
            if is_legacy(backup):  # from now on more is known of it than names and md5 sums
                count = put_members(connection, backup.target.id, backup.id, without_ours(found))
                content_bytes = sum(member.size_bytes for member in without_ours(found))
                values |= {"members": count, "content_bytes": content_bytes}
                values |= {"tape_bytes": read.size_bytes, "tape_blocks": read.blocks}
            set_backup_state(connection, backup.id, BackupState.CONFIRMED, **values)
            record_shared(connection, backup, read_back, CopyState.PROVEN, proof="readback", run=session.who)
            attempts.end(connection, attempt, AttemptResult.DONE, tape_bytes=read.size_bytes, health=health)
            session.event(connection, "confirmed", backup.target.name, tape=session.tape.name, members=read.members)
        else:
            text = "\n".join(confirmed.complaints[:_LINES_ON_RECORD])
            set_backup_state(connection, backup.id, BackupState.FAILED, fault=FaultKind.DATA, fault_text=text)
            attempts.end(connection, attempt, AttemptResult.FAILED, fault_text=text, health=health)
            record_shared(connection, backup, expected, CopyState.LOST, proof=None, run=session.who)
            lines = list(confirmed.complaints[:_LINES_ON_RECORD])
            session.event(
                connection, "confirmed", backup.target.name, result=FaultKind.DATA, tape=session.tape.name, wrong=lines
            )
