"""A directory that an archive is unpacked into: nothing gets out of it, whatever the archive or anybody planted there.

Every name is walked one part at a time, from a descriptor to the next, and no symbolic link is followed. Files are
written under a temporary name beside their own and renamed. A temporary file that a killed run left behind is
taken over by the next one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from custody.faults import Fault, FaultKind, from_os_error, os_errors_as_faults
from custody.publish import rename_noclobber
from custody.tape.names import escape

Parts = tuple[bytes, ...]
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def parts_of(name: bytes) -> Parts:
    """The parts of a member's name. DATA where it would lead out of the directory."""
    parts = tuple(part for part in name.split(b"/") if part not in {b"", b"."})
    if b".." in parts or b"\0" in name:
        raise Fault(FaultKind.DATA, escape(name), "leads out of the directory: it was not extracted")
    return parts


class Place:
    """A name in an open directory. The descriptor is the tree's and valid until it goes elsewhere."""

    def __init__(self, directory: int, name: bytes, subject: str) -> None:
        self.directory = directory
        self.name = name
        self.subject = subject
        self.temporary = b".custody-" + hashlib.sha256(name).hexdigest()[:24].encode() + b".tmp"

    @contextmanager
    def kept(self) -> Iterator[Place]:
        """The same with a descriptor of its own, for as long as the tree goes elsewhere."""
        held = os.dup(self.directory)
        try:
            yield Place(held, self.name, self.subject)
        finally:
            os.close(held)

    def path(self, name: bytes | None = None) -> Path:
        """A path to it that leads through the open descriptor only."""
        return Path(f"/proc/self/fd/{self.directory}") / os.fsdecode(self.name if name is None else name)

    def lstat(self) -> os.stat_result | None:
        """What is there, if anything."""
        try:
            return os.lstat(self.name, dir_fd=self.directory)
        except FileNotFoundError:
            return None

    def clear_temporary(self) -> None:
        """Take away what a killed run has left."""
        with suppress(FileNotFoundError):
            os.unlink(self.temporary, dir_fd=self.directory)

    def publish(self, *, overwrite: bool) -> None:
        """Give the temporary file its name. CONFLICT where something is there and may not be overwritten."""
        with os_errors_as_faults(self.subject):
            if overwrite:
                os.replace(self.temporary, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
                return
        try:
            rename_noclobber(self.path(self.temporary), self.path())
        except Fault as fault:
            raise Fault(fault.kind, self.subject, fault.reason, next_command=fault.next_command) from fault

    def open_temporary(self) -> int:
        """Open an empty file under the temporary name. CONFLICT where another run is writing it."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        while True:
            try:
                descriptor = os.open(self.temporary, flags, 0o600, dir_fd=self.directory)
            except OSError as error:
                found = None
                with suppress(OSError):
                    found = os.lstat(self.temporary, dir_fd=self.directory)
                if found is None or stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
                    raise from_os_error(error, self.subject) from error
                self.clear_temporary()  # a symbolic link or fifo, which we did not leave there
                continue
            if self._is_alone(descriptor):
                os.ftruncate(descriptor, 0)
                return descriptor
            os.close(descriptor)

    def _is_alone(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            reason = "is being restored by another process"
            raise Fault(FaultKind.CONFLICT, self.subject, reason, next_command="wait for it, then run again") from None
        found = os.fstat(descriptor)
        try:
            if not os.path.samestat(found, os.lstat(self.temporary, dir_fd=self.directory)):
                return False
        except FileNotFoundError:
            return False
        if found.st_nlink == 1 and found.st_uid == os.geteuid():
            return True
        self.clear_temporary()  # a second name of somebody's file
        return False


class Tree:
    """An existing directory and what is below it."""

    def __init__(self, into: Path) -> None:
        self._into = into
        with os_errors_as_faults(str(into)):
            self._root = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._here: tuple[Parts, int] = ((), self._root)
        self.touched: set[Parts] = set()

    def close(self) -> None:
        """Give the descriptors back."""
        self._leave()
        os.close(self._root)

    def _leave(self) -> None:
        if self._here[1] != self._root:
            os.close(self._here[1])
        self._here = ((), self._root)

    def subject(self, parts: Parts) -> str:
        """How a fault names what lies there."""
        return f"{self._into}/{escape(b'/'.join(parts))}"

    def place(self, parts: Parts) -> Place:
        """A name below, with the directories above it made where they are missing."""
        directory = self.enter(parts[:-1])
        self.touched.add(parts[:-1])
        return Place(directory, parts[-1], self.subject(parts))

    def enter(self, parts: Parts) -> int:
        """The descriptor of a directory below, made where it is missing; valid until the next call.

        CONFLICT where something else than a directory, be it a symbolic link to one, is in the way.
        """
        if self._here[0] == parts:
            return self._here[1]
        self._leave()
        descriptor = self._root
        try:
            for depth, part in enumerate(parts, 1):
                below = self._enter_one(descriptor, part, parts[:depth])
                if descriptor != self._root:
                    os.close(descriptor)
                descriptor = below
        except BaseException:
            if descriptor != self._root:
                os.close(descriptor)
            raise
        self._here = (parts, descriptor)
        return descriptor

    def _enter_one(self, above: int, part: bytes, parts: Parts) -> int:
        subject = self.subject(parts)
        with os_errors_as_faults(subject):
            try:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=above)
                    self.touched.add(parts[:-1])
                return os.open(part, _DIRECTORY, dir_fd=above)
            except NotADirectoryError:
                raise Fault(
                    FaultKind.CONFLICT,
                    subject,
                    "is in the way: it is no directory, and symbolic links are not followed",
                    next_command="move it aside, or restore into another directory",
                ) from None
