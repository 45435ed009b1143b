"""Everything that can go wrong, in one closed set of kinds.

A room classifies its own causes into a :class:`FaultKind`; what follows from a kind (retry, wait, skip, fail, ask a
person) is decided once, in the Airflow layer and the command line.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum


class FaultKind(StrEnum):
    """What a fault means for the one who waits."""

    TRANSIENT = "transient"  # the same call may succeed soon: a reset, a time-out, a 500
    THROTTLED = "throttled"  # the other side asked us to come back later; ``until`` says when, if it said
    AUTH = "auth"  # the other side refuses who we are; no retry helps
    CONFLICT = "conflict"  # somebody else holds or made the thing
    DATA = "data"  # bytes are not what they should be
    CAPACITY = "capacity"  # no room: disk, inodes, quota
    CONFIG = "config"  # what we were asked to do cannot be right
    CANCELLED = "cancelled"  # somebody stopped it on purpose
    NEEDS_HUMAN = "needs_human"  # every way on is closed; ``next_command`` opens one

    @property
    def is_worth_a_retry(self) -> bool:
        """Whether time alone can mend it."""
        return self in {FaultKind.TRANSIENT, FaultKind.THROTTLED, FaultKind.CAPACITY}


class Fault(Exception):
    """One thing that went wrong, said in one line.

    :param kind: the class of the fault.
    :param subject: the file, key or host it is about.
    :param reason: what is wrong with it.
    :param next_command: what to do next; a NEEDS_HUMAN fault must have one.
    :param until: for THROTTLED, the time (UTC) before which no call should be made.
    """

    def __init__(
        self,
        kind: FaultKind,
        subject: str,
        reason: str,
        *,
        next_command: str | None = None,
        until: datetime | None = None,
    ) -> None:
        if kind is FaultKind.NEEDS_HUMAN and not next_command:
            raise ValueError("a NEEDS_HUMAN fault names the exact next command")
        self.kind = kind
        self.subject = subject
        self.reason = reason
        self.next_command = next_command
        self.until = until
        super().__init__(str(self))

    def __str__(self) -> str:
        line = f"{self.subject}: {self.reason}"
        return f"{line}. Next: {self.next_command}" if self.next_command else line

    def __reduce__(self) -> tuple[object, ...]:
        """Let a fault travel between processes with all its fields."""
        return _rebuild, (self.kind, self.subject, self.reason, self.next_command, self.until)


def _rebuild(kind: FaultKind, subject: str, reason: str, next_command: str | None, until: datetime | None) -> Fault:
    return Fault(kind, subject, reason, next_command=next_command, until=until)


_OS_FAULTS: dict[int, tuple[FaultKind, str]] = {
    errno.ENOSPC: (FaultKind.CAPACITY, "free space on its disk, then run again"),
    errno.EDQUOT: (FaultKind.CAPACITY, "raise the quota or free space, then run again"),
    errno.EACCES: (FaultKind.CONFIG, "give this user the right to it"),
    errno.EPERM: (FaultKind.CONFIG, "give this user the right to it"),
    errno.EROFS: (FaultKind.CONFIG, "mount its file system writable"),
    errno.ENOENT: (FaultKind.CONFIG, "check the path"),
    errno.ENOTDIR: (FaultKind.CONFIG, "check the path"),
    errno.EISDIR: (FaultKind.CONFIG, "check the path"),
    errno.ENAMETOOLONG: (FaultKind.CONFIG, "use a shorter name"),
    errno.ELOOP: (FaultKind.CONFIG, "it is a symbolic link: move it out of the way"),
    errno.EXDEV: (FaultKind.CONFIG, "put both directories on one file system"),
    errno.EEXIST: (FaultKind.CONFLICT, "look at what is there and move it aside"),
    errno.EIO: (FaultKind.DATA, "check the disk (dmesg, smartctl) before anything else"),
}


def from_os_error(error: OSError, subject: str | None = None) -> Fault:
    """Classify an operating system error; ``subject`` defaults to the file the error names."""
    kind, next_step = _OS_FAULTS.get(error.errno or 0, (FaultKind.TRANSIENT, None))
    named = subject or _printable(error.filename) or "operating system"
    return Fault(kind, named, error.strerror or type(error).__name__, next_command=next_step)


@contextmanager
def os_errors_as_faults(subject: str | None = None) -> Iterator[None]:
    """Turn any OSError raised inside into a Fault about ``subject``."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, subject) from error


def _printable(name: object) -> str:
    if isinstance(name, bytes):
        return name.decode("utf-8", "backslashreplace")
    return str(name) if name else ""
