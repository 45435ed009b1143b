"""A directory of this machine: a second disk, or a file server that is mounted here.

An item is a directory below ``remote_dir``. A file is hashed while it is copied, flushed, and gets its name only where
size and digest are those of its manifest and nothing else lies there. What is stored is told by reading it again.

A disk that is not mounted looks like an empty directory. So the directory holds a file ``CUSTODY_TARGET``, made once by
hand; where that is missing, nothing is written. On the disk that is drained a copy is no second one: a directory or a
file there is refused, by whatever link or mount it is reached, so that no file is ever taken for its own proof.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from custody import gate
from custody.digests import FileState, Fixity, Hasher, Match, Progress, blocks, read_file, reading
from custody.drain.targets import Item, Outgoing, Receipt, may_write_manifest
from custody.drain.targets.pace import Cap, Pacing
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.ledger.store import disk_place, place_key
from custody.publish import fsync_directory, rename_noclobber, write_atomic

MARKER = "CUSTODY_TARGET"
MANIFEST_NAME = "MANIFEST.txt"
_INCOMING = ".incoming"


class DirectoryTarget:
    """A directory here; every item is a directory in it.

    :param directory: absolute path; it must be there, with the marker in it.
    :param drained: a directory on the disk that is drained.
    :param pacing: the cap of the speed; there is no floor, for a disk that stands still cannot be left.
    """

    def __init__(self, directory: Path, *, drained: Path, pacing: Pacing | None = None) -> None:
        self._directory = directory
        self._drained = drained
        self._pacing = pacing or Pacing()

    def place(self, item: str, name: str) -> str:
        """See :class:`Target`."""
        return disk_place(self._directory / item / name)

    def url(self, item: str, name: str) -> str:
        """See :class:`Target`."""
        return (self._directory / item / name).as_uri()

    def create(self, item: Item, manifest: bytes, earlier: Sequence[bytes] = ()) -> None:
        """See :class:`Target`. Its metadata has no place there: the manifest says which files belong to it."""
        directory = self._item(item.identifier)
        with os_errors_as_faults(str(directory)):
            directory.mkdir(exist_ok=True)
            fsync_directory(self._directory)
        path = directory / MANIFEST_NAME
        verdict = may_write_manifest(manifest, earlier, self._read(path))
        if not verdict.allowed:
            next_command = "find out whose item it is; move it away, or give the configuration another item_naming"
            raise Fault(FaultKind.NEEDS_HUMAN, str(path), str(verdict), next_command=next_command)
        write_atomic(path, manifest)

    def put(self, item: Item, outgoing: Outgoing, progress: Progress | None = None) -> Receipt:
        """See :class:`Target`. What it states is the size; the digest is told by the next :meth:`look`."""
        started = time.monotonic()
        target = self._item(item.identifier) / outgoing.name
        incoming = target.with_name(f".{place_key(outgoing.name)[:16]}{_INCOMING}")  # a name can be too long for more
        try:
            read = self._copy(outgoing, incoming, progress)
            if outgoing.fixity.compare(read) is not Match.EQUAL:
                reason = f"its bytes changed on disk: packed {gate.describe(outgoing.fixity)}, "
                reason += f"read now {gate.describe(read)}"
                raise Fault(FaultKind.DATA, str(outgoing.path), reason, next_command="check the disk; the file is kept")
            rename_noclobber(incoming, target)
        except BaseException:
            incoming.unlink(missing_ok=True)  # on a full disk what did not arrive is in the way
            raise
        with os_errors_as_faults(str(target)):
            fsync_directory(target.parent)
        size_bytes = read.size_bytes
        return Receipt(
            self.url(item.identifier, outgoing.name), read, Fixity(size_bytes), 0, time.monotonic() - started
        )

    def _copy(self, outgoing: Outgoing, incoming: Path, progress: Progress | None) -> Fixity:
        """Copy to a temporary name and flush; returns size and digests of what was read."""
        hasher, cap = Hasher(list(outgoing.fixity.digests)), Cap("directory", self._pacing)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with reading(outgoing.path) as source, os_errors_as_faults(str(incoming)):
            if FileState.of(os.fstat(source)) != outgoing.state:
                raise Fault(FaultKind.DATA, str(outgoing.path), "is not the file that was packed; it was not sent")
            with os.fdopen(os.open(incoming, flags, 0o644), "wb", buffering=0) as copy:
                for block in blocks(source):
                    cap.wait(len(block))
                    hasher.update(block)
                    _write_all(copy, block)
                    if progress:
                        progress(len(block))
                os.utime(copy.fileno(), ns=(outgoing.state.mtime_ns, outgoing.state.mtime_ns))
                os.fsync(copy.fileno())
        return hasher.fixity()

    def look(self, item: str, names: Sequence[str]) -> dict[str, Fixity | None]:
        """See :class:`Target`. Every file is read from the disk and hashed in this very call."""
        directory = self._item(item)
        return {name: self._read(directory / name) for name in names}

    def read_back(
        self, item: str, name: str, progress: Progress | None = None, into: IO[bytes] | None = None
    ) -> Fixity:
        """See :class:`Target`."""
        hasher = Hasher()
        path = self._item(item) / name
        self._refuse_drained(path)
        with reading(path) as descriptor:
            _forget_cached(descriptor)
            for block in blocks(descriptor):
                hasher.update(block)
                if into:
                    into.write(block)
                if progress:
                    progress(len(block))
        return hasher.fixity()

    def finish(self, item: Item, names: Sequence[str]) -> None:
        """See :class:`Target`. Sweeps away what interrupted copies left beside the files, which are not touched."""
        directory = self._item(item.identifier)
        with os_errors_as_faults(str(directory)):
            for path in directory.glob(f".*{_INCOMING}"):
                path.unlink(missing_ok=True)

    def mark(self, item: str, name: str) -> None:
        """See :class:`Markable`."""
        directory = self._item(item)
        if directory.is_dir():
            with os_errors_as_faults(str(directory)):
                (directory / name).touch()

    def unmark(self, item: str, prefix: str) -> None:
        """See :class:`Markable`."""
        directory = self._item(item)
        with os_errors_as_faults(str(directory)):
            for path in directory.glob(f"{prefix}*"):
                path.unlink(missing_ok=True)

    def _item(self, item: str) -> Path:
        """The directory of an item, after a look whether the right disk is there. Faults: CONFIG."""
        if not (self._directory / MARKER).is_file():
            reason = f"holds no {MARKER}: its disk is not mounted, or it was never made a target"
            touch = f"touch {self._directory / MARKER} (once, when the right disk is mounted there)"
            raise Fault(FaultKind.CONFIG, f"remote_dir {self._directory}", reason, next_command=touch)
        self._refuse_drained(self._directory)
        directory = self._directory / item
        if directory.is_symlink():
            raise Fault(FaultKind.NEEDS_HUMAN, str(directory), "is a symbolic link", next_command=f"ls -l {directory}")
        if directory.exists():
            self._refuse_drained(directory)
        return directory

    def _refuse_drained(self, path: Path) -> None:
        """Nothing on the drained disk is a copy, least of all the very file that is to be let go. Faults: CONFIG."""
        with os_errors_as_faults():
            is_drained = path.stat().st_dev == self._drained.stat().st_dev
        if is_drained:
            reason = f"is on the disk that is drained ({self._drained}): a copy there is no second one"
            raise Fault(FaultKind.CONFIG, str(path), reason, next_command="name a directory on another disk")

    def _read(self, path: Path) -> Fixity | None:
        """Size and digests of a stored file, from the disk and not from memory; None where there is none.

        Faults: NEEDS_HUMAN where it is no regular file, CONFIG where it is on the drained disk, DATA where it cannot be
        read.
        """
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(found.st_mode):
            command = f"ls -l {path.parent} (look at it, move it away, then run again)"
            raise Fault(FaultKind.NEEDS_HUMAN, str(path), "is no regular file", next_command=command)
        self._refuse_drained(path)
        with reading(path) as descriptor:
            _forget_cached(descriptor)
        return read_file(path).fixity


def _forget_cached(descriptor: int) -> None:
    """What was just written would be read from memory, and prove nothing of the disk."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _write_all(stream: IO[bytes], block: memoryview) -> None:
    while block:
        block = block[stream.write(block) :]
