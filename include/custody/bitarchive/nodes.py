"""A node: the machine, or directory, that keeps one share of a replica.

The directories are NetarchiveSuite's: ``filedir`` is the archive, ``tempdir`` what is on its way in, ``atticdir`` what
was taken out. A file comes in under another name in ``tempdir``, is read back there, and only then renamed, never over
something that is there; it goes out by a rename into ``atticdir``.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol

from custody import gate
from custody.bitarchive.names import MAX_NAME_BYTES, check_name, is_name
from custody.digests import Fixity, Hasher, blocks, read_file, reading
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.host import LocalHost
from custody.ledger.store import disk_place
from custody.publish import fsync_directory, rename_noclobber

ALGORITHMS = ("md5", "sha256")
FILEDIR, TEMPDIR, ATTICDIR = "filedir", "tempdir", "atticdir"
MIN_SPACE_AFTER = 10_000_000
"""Free bytes that must remain on a node after a file came in."""


@dataclass(frozen=True)
class Listing:
    """What lies in a node's ``filedir``: sizes by name, and the names of what does not belong there."""

    sizes: dict[str, int]
    strangers: tuple[str, ...] = ()


class ArchiveNode(Protocol):
    """What a node can do. Faults: TRANSIENT or AUTH where the machine does not answer; OS errors keep their kind."""

    name: str
    directory: Path

    def list_files(self) -> Listing:
        """Every file. Faults: CONFIG where there is no ``filedir``: an empty list would be a lie."""
        ...

    def size_of(self, name: str) -> int | None:
        """The size of a file; None where it has none of this name."""
        ...

    def digest(self, name: str) -> Fixity:
        """Read a file back whole."""
        ...

    def open(self, name: str, start: int = 0) -> AbstractContextManager[IO[bytes]]:
        """A stream of a file from an offset on."""
        ...

    def put(self, source: Path, name: str, expected: Fixity) -> None:
        """Take a file in. Faults: CONFLICT where the name is in use, DATA where the bytes are not the expected ones."""
        ...

    def retire(self, name: str) -> str:
        """Move a file to the attic; returns its name there."""
        ...

    def free_bytes(self) -> int:
        """Free space of its disk."""
        ...

    def place(self, name: str) -> str:
        """Where a file is, as the ledger names places."""
        ...

    def identity(self) -> str:
        """What tells its ``filedir`` from every other, by whatever path or name it is reached."""
        ...


class LocalNode:
    """A directory of this machine."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory

    @property
    def filedir(self) -> Path:
        """The archive itself."""
        return self.directory / FILEDIR

    def path(self, name: str) -> Path:
        """Where a file of this name would lie. Faults: CONFIG for what is no name."""
        return self.filedir / check_name(name)

    def prepare(self) -> None:
        """Make the three directories."""
        for part in (FILEDIR, TEMPDIR, ATTICDIR):
            with os_errors_as_faults(str(self.directory / part)):
                (self.directory / part).mkdir(parents=True, exist_ok=True)

    def list_files(self) -> Listing:
        """See :class:`ArchiveNode`."""
        sizes, strangers = {}, []
        with os_errors_as_faults(str(self.filedir)), os.scandir(self.filedir) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False) and is_name(entry.name):
                    sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
                else:
                    strangers.append(entry.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
        return Listing(sizes, tuple(sorted(strangers)))

    def size_of(self, name: str) -> int | None:
        """See :class:`ArchiveNode`."""
        path = self.path(name)
        if not self.filedir.is_dir():
            raise Fault(FaultKind.TRANSIENT, str(self.filedir), "is not there", next_command="mount its disk")
        try:
            found = path.lstat()
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None  # a link may lead out of the archive

    def digest(self, name: str) -> Fixity:
        """See :class:`ArchiveNode`."""
        return read_file(self.path(name), ALGORITHMS).fixity

    @contextmanager
    def open(self, name: str, start: int = 0) -> Iterator[IO[bytes]]:
        """See :class:`ArchiveNode`."""
        path = self.path(name)
        with os_errors_as_faults(str(path)):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            stream.seek(start)
            yield stream

    def put(self, source: Path, name: str, expected: Fixity) -> None:
        """See :class:`ArchiveNode`."""
        target = self.path(name)
        self.prepare()
        if target.exists() or target.is_symlink():
            raise Fault(FaultKind.CONFLICT, str(target), "is there already; nothing was overwritten")
        if self.free_bytes() - expected.size_bytes < MIN_SPACE_AFTER:
            raise Fault(FaultKind.CAPACITY, str(self.directory), f"has no room for {name}", next_command="free space")
        temporary = self.directory / TEMPDIR / f"{name[:200]}.{uuid.uuid4().hex}"
        try:
            with os_errors_as_faults(str(temporary)):
                _copy(source, temporary, expected)
                verdict = gate.may_record_proof(expected, read_file(temporary, ALGORITHMS).fixity)
                if not verdict.allowed:
                    raise Fault(FaultKind.DATA, str(temporary), f"reads back differently: {verdict}")
                rename_noclobber(temporary, target)
                fsync_directory(target.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def retire(self, name: str) -> str:
        """See :class:`ArchiveNode`."""
        self.prepare()
        aside = attic_name(name)
        with os_errors_as_faults(str(self.path(name))):
            rename_noclobber(self.path(name), self.directory / ATTICDIR / aside)
            fsync_directory(self.directory / ATTICDIR)
            fsync_directory(self.filedir)
        return aside

    def free_bytes(self) -> int:
        """See :class:`ArchiveNode`."""
        return LocalHost().disk_usage(self.directory).free_bytes

    def place(self, name: str) -> str:
        """See :class:`ArchiveNode`."""
        return disk_place(self.path(name))

    def identity(self) -> str:
        """See :class:`ArchiveNode`."""
        with os_errors_as_faults(str(self.directory)):
            return identity_of(self.filedir if self.filedir.exists() else self.directory)


def attic_name(name: str) -> str:
    """What a file is called when it was taken out: its name and the time, as long as a name may be."""
    mark = f".{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    return name[: MAX_NAME_BYTES - len(mark)] + mark


def identity_of(directory: Path) -> str:
    """What tells a directory from every other: the machine (whatever name or container), device and inode. OSError."""
    found = directory.stat()
    machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{machine} {found.st_dev}:{found.st_ino}"


def _copy(source: Path, temporary: Path, expected: Fixity) -> None:
    hasher = Hasher(ALGORITHMS)
    with reading(source) as descriptor, temporary.open("xb") as out:
        for block in blocks(descriptor):
            hasher.update(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    verdict = gate.may_record_proof(expected, hasher.fixity())
    if not verdict.allowed:
        raise Fault(FaultKind.DATA, str(source), f"is not what was to be stored: {verdict}")
