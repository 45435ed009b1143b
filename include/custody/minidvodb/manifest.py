"""What a database consists of, as a list of its entries; and what may be in it at all.

The metadata rule: files and directories keep their permissions, files their time to the nanosecond, symbolic links
their target, which must be relative and stay inside. Owner and group become those of the user over there; times of
directories and links, hard links and extended attributes are not kept. Lock files (``.NAME.lck``) are never copied.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from custody.digests import Hasher, blocks, reading
from custody.faults import Fault, FaultKind
from custody.minidvodb.codes import CopyFault, FaultCode

FILE, DIRECTORY, LINK = "f", "d", "l"
TOP = b"."
"""The path of the database's own directory."""
HEADER = b"custody minidvodb manifest 1\n"
_LOCK = re.compile(rb"\..+\.lck")
_ODD = re.compile(rb"[\x00-\x20\x7f-\xff%]")
_BLOCK_BYTES = 1 << 20
_KIND = 0o170000


class Entry(NamedTuple):
    """One file, directory or symbolic link; ``path`` is relative to the database.

    ``mode`` holds the permission bits. Of directories and links size and time are 0, of links the mode too.
    """

    kind: str
    path: bytes
    mode: int
    size_bytes: int
    mtime_ns: int
    target: bytes = b""
    inode: int = 0
    ctime_ns: int = 0

    @property
    def stored(self) -> tuple[str, int, int, int, bytes]:
        """What must be the same wherever a copy lies."""
        return self.kind, self.mode, self.size_bytes, self.mtime_ns, self.target


_entry: Callable[[tuple[object, ...]], Entry] = partial(tuple.__new__, Entry)  # half the time, 20,000 times
Snapshot = dict[bytes, Entry]
"""Entries by path, parents before their children."""


def take_snapshot(root: Path) -> Snapshot:
    """Look at every entry of a database without reading it.

    Faults: SOURCE_MISSING where there is no such directory, SOURCE_LOCKED for a busy lock file, SOURCE_INVALID for a
    device, pipe or socket, for a link that leads out of the database and for a directory that cannot be read.
    """
    found: Snapshot = {}
    if not root.is_dir() or root.is_symlink():
        reason = "is no directory" if root.exists() else "is not there"
        raise CopyFault(FaultCode.SOURCE_MISSING, str(root), reason, next_command="check minidvodb_path, and its mount")
    mode = root.stat().st_mode & 0o7777
    found[TOP] = Entry(DIRECTORY, TOP, mode | 0o700, 0, 0)  # without them its owner could not rename it over there
    _walk(os.fsencode(root), b"", found)
    return found


def _walk(root: bytes, below: bytes, found: Snapshot) -> None:
    try:
        with os.scandir(join(root, below) if below else root) as listing:
            entries = sorted(listing, key=attrgetter("name"))
    except OSError as error:
        raise _unreadable(root, below, error) from error
    for entry in entries:
        name = entry.name
        path = below + b"/" + name if below else name
        try:
            if name[-4:] == b".lck" and _LOCK.fullmatch(name):
                refuse_busy(Path(os.fsdecode(entry.path)))
                continue
            status = entry.stat(follow_symlinks=False)
            mode = status.st_mode
            kind = mode & _KIND
            if kind == stat.S_IFREG:
                times = status.st_mtime_ns, b"", status.st_ino, status.st_ctime_ns
                found[path] = _entry((FILE, path, mode & 0o7777, status.st_size, *times))
            elif kind == stat.S_IFDIR:
                found[path] = Entry(DIRECTORY, path, mode & 0o7777, 0, 0)
                _walk(root, path, found)
            elif kind == stat.S_IFLNK:
                target = os.readlink(entry.path)  # noqa: PTH115 - bytes
                found[path] = Entry(LINK, path, 0, 0, 0, _inner_target(root, path, target))
            else:
                raise _invalid(root, path, "is no file, directory or link")
        except FileNotFoundError as error:
            reason = "went away while the database was looked at"
            raise CopyFault(FaultCode.SOURCE_CHANGED, _subject(root, path), reason) from error
        except OSError as error:
            raise _unreadable(root, path, error) from error


def refuse_busy(lock: Path) -> None:
    """A hard lock is a file that says BUSY, and stays until somebody takes it away. Faults: SOURCE_LOCKED."""
    if lock.is_symlink() or not lock.is_file() or b"BUSY" in lock.read_bytes()[:4096].upper():
        raise CopyFault(
            FaultCode.SOURCE_LOCKED,
            str(lock),
            "the database is locked by it",
            next_command="let its owner finish, or remove the lock once you know that nobody writes",
        )


def _inner_target(root: bytes, path: bytes, target: bytes) -> bytes:
    """A link may lead anywhere inside the database, seen from where it lies; to nowhere else."""
    parts = posixpath.normpath(posixpath.join(posixpath.dirname(path), target)).split(b"/")
    if target.startswith(b"/") or parts[0] == b".." or not target:
        raise _invalid(root, path, "is a symbolic link that leads out of the database")
    return target


def _invalid(root: bytes, path: bytes, reason: str) -> CopyFault:
    return CopyFault(
        FaultCode.SOURCE_INVALID,
        _subject(root, path),
        reason,
        next_command="take it out of the database, then custody minidvodb revert --fault SOURCE_INVALID",
    )


def _unreadable(root: bytes, path: bytes, error: OSError) -> CopyFault:
    reason = f"cannot be read ({error.strerror})"
    return CopyFault(FaultCode.SOURCE_INVALID, _subject(root, path), reason, next_command="check its rights, its disk")


def _subject(root: bytes, path: bytes) -> str:
    return printable(join(root, path))


def join(root: bytes, path: bytes) -> bytes:
    """The whole path of an entry."""
    return root + b"/" + path


def printable(path: bytes) -> str:
    """A path for people, on one line."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def changes(before: Snapshot, after: Snapshot) -> str | None:
    """What is different between two looks at one database, in a few words; None where nothing is."""
    if before == after:
        return None
    added, gone = after.keys() - before.keys(), before.keys() - after.keys()
    other = [path for path in before.keys() & after.keys() if before[path] != after[path]]
    words = [("new", added), ("gone", gone), ("written to", other)]
    return ", ".join(
        f"{printable(min(paths))}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''} {word}"
        for word, paths in words
        if paths
    )


def mark_of(entries: Snapshot) -> str:
    """A word that stands for a look at a database, in its order; when anything is touched, it is another one."""
    whole = "".join(["%s %r %d %d %d %r %d %d\n" % entry for entry in entries.values()])  # noqa: UP031 - the quickest
    return hashlib.sha256(whole.encode()).hexdigest()


def demand_unchanged(root: Path, before: Snapshot) -> None:
    """Look again. Faults: SOURCE_CHANGED, naming what changed; SOURCE_LOCKED; SOURCE_MISSING."""
    changed = changes(before, take_snapshot(root))
    if changed:
        raise CopyFault(
            FaultCode.SOURCE_CHANGED,
            str(root),
            f"was written to meanwhile ({changed})",
            next_command="it is tried again",
        )


def digest_file(root: bytes, entry: Entry, algorithm: str) -> str:
    """Read one file of a snapshot. Faults: SOURCE_CHANGED where it is not the one that was seen, SOURCE_INVALID."""
    whole = join(root, entry.path)
    path = Path(os.fsdecode(whole))
    hasher = Hasher((algorithm,))
    try:
        with reading(path) as descriptor:
            demand_same(os.fstat(descriptor), entry, whole)
            for block in blocks(descriptor, min(_BLOCK_BYTES, entry.size_bytes + 1)):
                hasher.update(block)
    except CopyFault:
        raise
    except Fault as fault:
        raise source_fault(fault) from fault
    return hasher.fixity().digests[algorithm]


def demand_same(status: os.stat_result, entry: Entry, path: bytes) -> None:
    """Whether an opened file is the one that was seen. Faults: SOURCE_CHANGED."""
    now = (status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)
    if now != (entry.size_bytes, entry.mtime_ns, entry.inode, entry.ctime_ns):
        raise CopyFault(
            FaultCode.SOURCE_CHANGED, printable(path), "was written to meanwhile", next_command="it is tried again"
        )


def source_fault(fault: Fault) -> CopyFault:
    """A fault of reading a file of the source, under the room's code."""
    changed = fault.kind is FaultKind.DATA and "changed" in fault.reason
    code = FaultCode.SOURCE_CHANGED if changed else FaultCode.SOURCE_INVALID
    return CopyFault(code, fault.subject, fault.reason, next_command=fault.next_command)


class Manifest:
    """A snapshot with a digest of every file.

    :param entries: by path.
    :param digests: of every file, by path; lower-case hexadecimal.
    :param algorithm: of the digests: xxh128 or sha256.
    """

    def __init__(self, entries: Snapshot, digests: Mapping[bytes, str], algorithm: str) -> None:
        self.entries = entries
        self.digests = digests
        self.algorithm = algorithm

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(entry.size_bytes for entry in self.entries.values())

    @property
    def files(self) -> int:
        """How many files there are."""
        return sum(entry.kind == FILE for entry in self.entries.values())

    def text(self) -> bytes:
        """One line for each entry: kind, permissions, size, time, digest, name, target of a link."""
        lines = [HEADER, f"algorithm {self.algorithm}\n".encode()]
        for path in sorted(self.entries):
            entry = self.entries[path]
            digest = self.digests[path] if entry.kind == FILE else "-"
            numbers = f"{entry.kind} {entry.mode:o} {entry.size_bytes} {entry.mtime_ns} {digest} ".encode()
            target = b" " + _escaped(entry.target) if entry.kind == LINK else b""
            lines.append(numbers + _escaped(path) + target + b"\n")
        return b"".join(lines)

    @classmethod
    def parse(cls, text: bytes, subject: str) -> Manifest:
        """Read :meth:`text` back. Faults: VERIFY where it is none."""
        try:
            algorithm_line, rest = text.removeprefix(HEADER).split(b"\n", 1)
            if not text.startswith(HEADER) or not algorithm_line.startswith(b"algorithm "):
                raise ValueError("another header")
            entries: Snapshot = {}
            digests: dict[bytes, str] = {}
            for line in rest.split(b"\n")[:-1]:
                kind, mode, size, mtime, digest, name, *target = line.split(b" ")
                path = unquote_to_bytes(name)
                entries[path] = Entry(
                    kind.decode(),
                    path,
                    int(mode, 8),
                    int(size),
                    int(mtime),
                    unquote_to_bytes(target[0]) if target else b"",
                )
                if kind == b"f":
                    digests[path] = digest.decode()
            return cls(entries, digests, algorithm_line.split()[1].decode())
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            raise CopyFault(FaultCode.VERIFY, subject, f"is no manifest ({error})") from error


def sha256_of(text: bytes) -> str:
    """Of a manifest's text; it is what stands in the ledger, and the identity of the database."""
    return hashlib.sha256(text).hexdigest()


def differences(manifest: Manifest, stored: Mapping[bytes, Entry], digests: Mapping[bytes, str]) -> dict[bytes, str]:
    """Every path at which a stored tree is not the manifest's, and why. Empty: they are equal."""
    found: dict[bytes, str] = {path: "does not belong to it" for path in stored.keys() - manifest.entries.keys()}
    for path, entry in manifest.entries.items():
        there = stored.get(path)
        if there is None:
            found[path] = "is missing"
        elif there.stored != entry.stored:
            found[path] = _difference(entry, there)
        elif entry.kind == FILE and (not digests.get(path) or digests[path] != manifest.digests[path]):
            found[path] = "holds other bytes" if digests.get(path) else "could not be read"
    return found


def _difference(entry: Entry, there: Entry) -> str:
    names = ("kind", "permissions", "size", "time", "link target")
    pairs = zip(names, entry.stored, there.stored, strict=True)
    return "has another " + ", ".join(name for name, ours, theirs in pairs if ours != theirs)


def describe(found: Mapping[bytes, str], most: int = 3) -> str:
    """Differences in a few words."""
    shown = [f"{printable(path)} {found[path]}" for path in sorted(found)[:most]]
    return "; ".join(shown) + (f"; and {len(found) - most} more" if len(found) > most else "")


def _escaped(name: bytes) -> bytes:
    return _ODD.sub(lambda sign: b"%%%02X" % sign[0][0], name)


def chunks(paths: Iterable[bytes]) -> Iterator[bytes]:
    """Names as NUL-ended records."""
    for path in paths:
        yield path + b"\0"
