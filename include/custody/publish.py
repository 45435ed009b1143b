"""Making a file or a set of files appear under their final names: whole, or not at all.

A single file is written under a temporary name in the same directory, flushed to disk, renamed, and its directory
flushed. A set of files is moved by a :class:`RenamePlan`, which is recorded before the first rename, so that a crash at
any instruction can be taken up again and ends the same.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from custody.digests import FileState
from custody.faults import Fault, FaultKind, os_errors_as_faults

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def fsync_directory(directory: Path) -> None:
    """Flush a directory, so that the names in it survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a small file so that readers see the old content or the new one, never a part; several may write at once.

    Faults by the OS error; nothing is left behind except, after a kill, a hidden ``.NAME.tmp`` that the next
    write of the same file takes over.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with os_errors_as_faults(str(path)):
        with os.fdopen(_open_alone(temporary, mode), "wb") as stream:
            try:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
                temporary.replace(path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
        fsync_directory(path.parent)


def _open_alone(temporary: Path, mode: int) -> int:
    """Open a temporary file, empty; another writer of the same file waits here until its end."""
    while True:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), temporary.lstat()):
                    os.ftruncate(descriptor, 0)
                    return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the one we waited for has renamed it


def rename_noclobber(source: Path, target: Path) -> None:
    """Rename on one file system, never over something that is there.

    Faults: CONFLICT where ``target`` exists, CONFIG across file systems or where ``source`` is missing.
    Uses renameat2(RENAME_NOREPLACE); where a file system lacks it, link and unlink.
    """
    arguments = (_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
    if _libc.renameat2(*arguments) == 0:
        return
    code = ctypes.get_errno()
    if code in {errno.EINVAL, errno.ENOSYS}:
        with os_errors_as_faults(str(target)):
            os.link(source, target, follow_symlinks=False)
            source.unlink()
        return
    blamed = target if code == errno.EEXIST else source
    with os_errors_as_faults(str(blamed)):
        raise OSError(code, os.strerror(code))


@dataclass(frozen=True)
class PlannedRename:
    """One file to be moved, and the state by which it is known again."""

    source: Path
    target: Path
    state: FileState


class RenamePlan:
    """Files to be moved together, written down before the first of them moves.

    The plan is a JSON file. While it lies there, :meth:`carry_out` can be called again after any crash: what has
    moved is recognised by inode, size and mtime, what has not is moved. Nothing is ever overwritten.

    :param path: where the plan lies; on the same file system as the files, so that it is lost only with them.
    """

    def __init__(self, path: Path, renames: Iterable[PlannedRename], facts: dict[str, object] | None = None) -> None:
        self.path = path
        self.renames = tuple(renames)
        self.facts = facts or {}

    def record(self) -> None:
        """Write the plan down, durably."""
        entries = [
            {
                "source": str(rename.source),
                "target": str(rename.target),
                "size_bytes": rename.state.size_bytes,
                "mtime_ns": rename.state.mtime_ns,
                "inode": rename.state.inode,
            }
            for rename in self.renames
        ]
        write_atomic(self.path, json.dumps({"renames": entries, "facts": self.facts}, indent=1).encode() + b"\n")

    @classmethod
    def load(cls, path: Path) -> RenamePlan | None:
        """Read a recorded plan; None where there is none; a DATA fault where it is no plan."""
        try:
            content = json.loads(path.read_bytes())
            renames = [
                PlannedRename(
                    Path(entry["source"]),
                    Path(entry["target"]),
                    FileState(entry["size_bytes"], entry["mtime_ns"], entry["inode"]),
                )
                for entry in content["renames"]
            ]
            return cls(path, renames, content["facts"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise Fault(FaultKind.DATA, str(path), f"is no rename plan ({error})") from error

    def carry_out(self) -> None:
        """Move every file that has not moved yet, then flush both ends.

        Faults: CONFLICT where something else lies at a target, DATA where a file is at neither end or is no longer
        the one that was planned. The files that could be moved are moved; none is lost or overwritten.
        """
        faults = []
        for rename in self.renames:
            try:
                _move(rename)
            except Fault as fault:
                faults.append(fault)
        for directory in {end.parent for rename in self.renames for end in (rename.source, rename.target)}:
            try:
                with os_errors_as_faults(str(directory)):
                    fsync_directory(directory)
            except Fault as fault:
                faults.append(fault)
        if faults:
            raise faults[0]


def _move(rename: PlannedRename) -> None:
    with os_errors_as_faults(str(rename.source)):
        if _is_there(rename.target, rename.state):
            _drop_second_name(rename)
            return
        if not _is_there(rename.source, rename.state):
            raise Fault(
                FaultKind.DATA,
                str(rename.source),
                "is gone or changed since the plan to move it was made",
                next_command=f"look at it and at {rename.target}, then run again",
            )
        rename_noclobber(rename.source, rename.target)


def _is_there(path: Path, state: FileState) -> bool:
    try:
        return FileState.of_path(path) == state
    except (FileNotFoundError, NotADirectoryError):
        return False


def _drop_second_name(rename: PlannedRename) -> None:
    """Finish a link-and-unlink rename that a crash cut in two: one inode, two names."""
    if _is_there(rename.source, rename.state) and not _is_one_name(rename.source, rename.target):
        rename.source.unlink()


def _is_one_name(source: Path, target: Path) -> bool:
    """Whether two paths lead to one directory entry, by a symbolic link or a bind mount."""
    return source.name == target.name and source.parent.samefile(target.parent)
