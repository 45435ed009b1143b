"""The lock file of a run, for the eyes of others: ``<host> <pid>`` in the wiki's private directory.

Who may write is decided by the ledger's lease; this file tells old programs and people. It is made exclusively, touched
while there is progress, and taken away only by whoever can show that it is still the one that was judged.
"""

from __future__ import annotations

import os
import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.publish import rename_noclobber, write_atomic

TOUCH_S = 10.0
_NAME = re.compile(r"lock(?:_([0-9]{8}))?")
_MAX_BYTES = 1000


@dataclass(frozen=True)
class LockFile:
    """A lock as it was found. ``date`` is None for the oldest kind, which had none in its name."""

    path: Path
    date: str | None
    owner: str
    mtime_ns: int
    inode: int

    def age_s(self) -> float:
        """Seconds since it was touched."""
        return time.time() - self.mtime_ns / 1e9


def identity() -> str:
    """``<host> <pid>`` of this process."""
    return f"{host_name()} {os.getpid()}"


def host_name() -> str:
    """The full name of this host; where the system calls every host localhost, the short one."""
    name = socket.getfqdn()
    return socket.gethostname() if name.startswith("localhost") else name


def make(path: Path) -> None:
    """Make a lock. Faults: CONFLICT, naming its owner, where there is one."""
    with os_errors_as_faults(str(path)):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError as error:
            found = look(path)
            raise Fault(
                FaultKind.CONFLICT,
                str(path),
                f"is held by {found.owner if found else 'somebody'}",
                next_command="wait for it; the monitor takes stale locks away",
            ) from error
        with os.fdopen(descriptor, "w") as stream:
            stream.write(identity())


def adopt(path: Path) -> None:
    """Write this process into the lock of its own run."""
    write_atomic(path, identity().encode())


def touch(path: Path) -> bool:
    """Touch it; False where it has gone."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def look(path: Path) -> LockFile | None:
    """Look at one lock; None where it is not there."""
    found = _NAME.fullmatch(path.name)
    try:
        status = path.lstat()
        with path.open("rb") as stream:
            owner = stream.read(_MAX_BYTES).decode("utf-8", "backslashreplace").strip()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return LockFile(path, found[1] if found else None, owner or "nobody", status.st_mtime_ns, status.st_ino)


def find(private: Path) -> list[LockFile]:
    """All locks of a wiki. Faults: by the OS error, where its directory is there and cannot be read."""
    try:
        names = sorted(entry.name for entry in private.iterdir() if _NAME.fullmatch(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [found for name in names if (found := look(private / name))]


def take_away(lock: LockFile) -> bool:
    """Remove a lock that was judged stale, unless its owner has come back meanwhile: then it is put back. One wins."""
    aside = lock.path.with_name(f".{lock.path.name}.stale-{os.getpid()}-{time.monotonic_ns()}")
    try:
        lock.path.rename(aside)
    except FileNotFoundError:
        return False
    status = aside.lstat()
    if (status.st_mtime_ns, status.st_ino) != (lock.mtime_ns, lock.inode):
        with suppress(Fault):  # somebody made a new one meanwhile: that one counts
            rename_noclobber(aside, lock.path)
        aside.unlink(missing_ok=True)
        return False
    aside.unlink()
    return True


def remove(path: Path) -> None:
    """Remove the lock of a run that is over; harmless where it has gone."""
    path.unlink(missing_ok=True)
