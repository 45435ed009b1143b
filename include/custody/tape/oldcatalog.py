"""The catalogue of the old system (tapetown's sqlite, both ages of its schema), read as it stands.

What it does not know stays unknown: its sizes are kilobytes on a disk, so a member's size is -1 here, which is no size,
and a link has no text.
"""

from __future__ import annotations

import posixpath
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from custody.faults import Fault, FaultKind
from custody.tape.members import Member, MemberKind
from custody.tape.names import escape
from custody.tape.records import OWN_DIRECTORY
from custody.tape.states import BackupState, TapeState

UNKNOWN_SIZE = -1
_TAPE_STATES = {b"open": TapeState.OPEN, b"closed": TapeState.CLOSED, b"garbage": TapeState.RETIRED}
_BACKUP_STATES = {
    b"new": BackupState.ASSIGNED,
    b"assigned": BackupState.ASSIGNED,
    b"recorded": BackupState.RECORDED,
    b"confirmed": BackupState.CONFIRMED,
}
_COLUMNS = {
    "tapes": {"id", "name", "serial", "status", "online"},
    "targets": {"id", "name"},
    "files": {"id", "target_id", "name", "md5sum", "size_kb"},
    "backups": {"id", "target_id", "tape_id", "file_number", "status"},
}
_WEAKEST_FIRST = [BackupState.ASSIGNED, BackupState.RECORDED, BackupState.CONFIRMED]
_LONGEST_TAPE_NAME = 100


@dataclass(frozen=True)
class OldTape:
    """A tape as the old catalogue has it."""

    id: int
    name: str
    serial: str | None
    state: TapeState
    is_online: bool


@dataclass(frozen=True)
class OldTarget:
    """A target; ``path`` is absolute. ``excludes`` are targets below it that have it for their parent."""

    id: int
    path: bytes
    is_scanned: bool
    excludes: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class OldBackup:
    """A copy of a target on a tape, or meant for it (``file_number`` None)."""

    id: int
    target_id: int
    tape_id: int
    file_number: int | None
    state: BackupState


class OldCatalog:
    """An old catalogue, opened for reading only. Use it in a ``with``.

    Faults: CONFIG where there is none, DATA, naming the table or row, where it is no such catalogue or broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise Fault(FaultKind.CONFIG, str(path), "there is no such catalogue", next_command="check database_file")
        # immutable would miss what its write-ahead log holds; read-only takes a log in, where there is one
        uri = f"file:{quote(bytes(path.absolute()))}?mode=ro"
        self._database = sqlite3.connect(uri, uri=True)
        self._database.text_factory = bytes
        self._columns: dict[str, set[str]] = {}

    def __enter__(self) -> OldCatalog:
        try:
            self._check()
        except BaseException:
            self._database.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def _rows(self, query: str, *values: object) -> Iterator[Any]:
        try:
            # Not the cursor itself: it would be closed with this, and by then its database may be.
            yield from map(tuple, self._database.execute(query, values))
        except sqlite3.Error as error:
            raise self.broken(f"cannot be read ({error})") from error

    def broken(self, reason: str) -> Fault:
        """What is said of it where it is wrong."""
        command = "restore it from a copy, or mend it with sqlite3; nothing was taken over"
        return Fault(FaultKind.DATA, str(self.path), reason, next_command=command)

    def _check(self) -> None:
        for name, wanted in _COLUMNS.items():
            there = {row[1].decode() for row in self._rows(f"PRAGMA table_info({name})")}
            if missing := wanted - there:
                what = f"has no table {name}" if not there else f"table {name} has no column {sorted(missing)[0]}"
                raise self.broken(f"is no catalogue of tapeop: it {what}")
            self._columns[name] = there
        verdict = next(self._rows("PRAGMA quick_check(1)"))[0]
        if verdict != b"ok":
            raise self.broken(f"is damaged: {verdict.decode('utf-8', 'replace')}")

    def tapes(self) -> list[OldTape]:
        """All tapes."""
        return [
            self._tape(*row) for row in self._rows("SELECT id, name, serial, status, online FROM tapes ORDER BY id")
        ]

    def _tape(self, number: int, name: object, serial: object, status: object, online: object) -> OldTape:
        state = _TAPE_STATES.get(status if isinstance(status, bytes) else b"")
        if state is None:
            raise self.broken(f"tape {number} has the status {_shown(status)}")
        text = escape(_bytes(name))
        if not text or len(text) > _LONGEST_TAPE_NAME or "/" in text or text.startswith("."):
            raise self.broken(f"tape {number} has the name {_shown(name)}, which is none for a tape")
        return OldTape(number, text, escape(_bytes(serial)).strip() or None, state, bool(online))

    def targets(self) -> list[OldTarget]:
        """All targets, with what their parents leave out."""
        has_parents = {"scanned", "parent_id"} <= self._columns["targets"]
        columns = "id, name, scanned, parent_id" if has_parents else "id, name, 1, NULL"
        found: dict[int, tuple[bytes, bool]] = {}
        excludes: dict[int, list[bytes]] = {}
        seen: dict[bytes, int] = {}
        for number, name, scanned, parent in self._rows(f"SELECT {columns} FROM targets ORDER BY id"):  # noqa: S608
            path = posixpath.normpath(b"/" + _bytes(name).lstrip(b"/"))
            if not _bytes(name).startswith(b"/") or path == b"/" or b"\0" in path:
                raise self.broken(f"target {number} has the name {_shown(name)}, which is no absolute path")
            if (path + b"/").startswith(b"/" + OWN_DIRECTORY):
                raise self.broken(f"target {number} has the name {_shown(name)}, which is kept for Custody's notes")
            if path in seen:
                raise self.broken(f"targets {seen[path]} and {number} are both {escape(path)}")
            seen[path] = number
            found[number] = (path, bool(scanned))
            if isinstance(parent, int):
                excludes.setdefault(parent, []).append(path)
        return [
            OldTarget(number, path, is_scanned, tuple(sorted(excludes.get(number, ()))))
            for number, (path, is_scanned) in found.items()
        ]

    def backups(self) -> list[OldBackup]:
        """All backups, the strongest of a target first; every target and tape they name is there."""
        found: list[OldBackup] = []
        places: dict[tuple[int, int], int] = {}
        query = (
            "SELECT b.id, b.target_id, b.tape_id, b.file_number, b.status, t.id, p.id FROM backups b "
            "LEFT JOIN targets t ON t.id = b.target_id LEFT JOIN tapes p ON p.id = b.tape_id ORDER BY b.id"
        )
        for number, target, tape, file_number, status, has_target, has_tape in self._rows(query):
            state = _BACKUP_STATES.get(status if isinstance(status, bytes) else b"")
            if state is None:
                raise self.broken(f"backup {number} has the status {_shown(status)}")
            if has_target is None or has_tape is None:
                missing = f"target {target}" if has_target is None else f"tape {tape}"
                raise self.broken(f"backup {number} is of {missing}, which is not there")
            if not state.is_on_tape:
                found.append(OldBackup(number, target, tape, None, state))
                continue
            if not isinstance(file_number, int) or file_number < 0:
                raise self.broken(f"backup {number} is {state} as file {_shown(file_number)}")
            if (other := places.setdefault((tape, file_number), number)) != number:
                raise self.broken(f"backups {other} and {number} are both file {file_number} of tape {tape}")
            found.append(OldBackup(number, target, tape, file_number, state))
        return sorted(found, key=lambda one: (-_WEAKEST_FIRST.index(one.state), one.id))

    def members(self, target: OldTarget) -> Iterator[Member]:
        """The files of a target, named as in the archive."""
        query = "SELECT id, name, md5sum FROM files WHERE target_id = ? ORDER BY id"
        base = target.path.lstrip(b"/") + b"/"
        for number, name, md5 in self._rows(query, target.id):
            relative = _bytes(name).removeprefix(b"./").lstrip(b"/")
            digest = _bytes(md5).strip().lower()
            if not relative or b"\0" in relative:
                raise self.broken(f"file {number} of target {escape(target.path)} has no name")
            if digest == b"symlink":
                yield Member(base + relative, MemberKind.SYMLINK)
                continue
            if len(digest) != 32 or digest.strip(b"0123456789abcdef"):
                raise self.broken(f"file {number} ({escape(relative)}) has the md5 sum {_shown(md5)}")
            yield Member(base + relative, MemberKind.FILE, UNKNOWN_SIZE, digests={"md5": digest.decode()})


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b"" if value is None else str(value).encode()


def _shown(value: object) -> str:
    return repr(escape(value)) if isinstance(value, bytes) else repr(value)
