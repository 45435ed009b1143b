"""Why a copy failed: one closed list, each cause with its number in the ``fault`` column and its kind."""

from __future__ import annotations

from enum import StrEnum

from custody.faults import Fault, FaultKind


class FaultCode(StrEnum):
    """The causes. ``number`` is what the old column holds; 4 there means "some failure" and is of the old script."""

    AUTH = "AUTH"  # the host refuses our key
    HOSTKEY = "HOSTKEY"  # its host key is not the pinned one
    UNREACHABLE = "UNREACHABLE"  # no connection to it
    DEST_MISSING = "DEST_MISSING"  # the directory that takes the databases is not there
    DEST_READONLY = "DEST_READONLY"  # it cannot be written to
    NO_SPACE = "NO_SPACE"
    NO_INODES = "NO_INODES"
    SOURCE_MISSING = "SOURCE_MISSING"
    SOURCE_CHANGED = "SOURCE_CHANGED"  # the database was written to meanwhile
    SOURCE_LOCKED = "SOURCE_LOCKED"  # somebody is writing to it
    SOURCE_INVALID = "SOURCE_INVALID"  # it is no whole, sane database
    TRANSFER = "TRANSFER"
    VERIFY = "VERIFY"  # what lies over there is not the database
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    CONFIG = "CONFIG"  # what was asked for cannot be right
    DB_UPDATE = "DB_UPDATE"  # copied, but not recorded

    @property
    def number(self) -> int:
        """Its value in the ``fault`` column."""
        return _NUMBERS[self]

    @property
    def kind(self) -> FaultKind:
        """What follows from it."""
        return _KINDS[self]

    @classmethod
    def of_number(cls, number: int) -> FaultCode | None:
        """The code of a number; None for 0 and for numbers of the old script."""
        return next((code for code, value in _NUMBERS.items() if value == number), None)


_NUMBERS = {
    FaultCode.CONFIG: 3,
    FaultCode.TIMEOUT: 6,
    FaultCode.DB_UPDATE: 20,
    FaultCode.AUTH: 30,
    FaultCode.HOSTKEY: 31,
    FaultCode.UNREACHABLE: 32,
    FaultCode.DEST_MISSING: 33,
    FaultCode.DEST_READONLY: 34,
    FaultCode.NO_SPACE: 35,
    FaultCode.NO_INODES: 36,
    FaultCode.SOURCE_MISSING: 37,
    FaultCode.SOURCE_CHANGED: 38,
    FaultCode.SOURCE_LOCKED: 39,
    FaultCode.SOURCE_INVALID: 40,
    FaultCode.TRANSFER: 41,
    FaultCode.VERIFY: 42,
    FaultCode.CANCELLED: 43,
}

_KINDS = {
    FaultCode.AUTH: FaultKind.AUTH,
    FaultCode.HOSTKEY: FaultKind.AUTH,
    FaultCode.UNREACHABLE: FaultKind.TRANSIENT,
    FaultCode.DEST_MISSING: FaultKind.CONFIG,
    FaultCode.DEST_READONLY: FaultKind.CONFIG,
    FaultCode.NO_SPACE: FaultKind.CAPACITY,
    FaultCode.NO_INODES: FaultKind.CAPACITY,
    FaultCode.SOURCE_MISSING: FaultKind.CONFIG,
    FaultCode.SOURCE_CHANGED: FaultKind.TRANSIENT,
    FaultCode.SOURCE_LOCKED: FaultKind.TRANSIENT,
    FaultCode.SOURCE_INVALID: FaultKind.DATA,
    FaultCode.TRANSFER: FaultKind.TRANSIENT,
    FaultCode.VERIFY: FaultKind.TRANSIENT,
    FaultCode.TIMEOUT: FaultKind.TRANSIENT,
    FaultCode.CANCELLED: FaultKind.CANCELLED,
    FaultCode.CONFIG: FaultKind.CONFIG,
    FaultCode.DB_UPDATE: FaultKind.TRANSIENT,
}


class CopyFault(Fault):
    """A fault of a copy: which of the causes, and what the failed program said.

    :param kind: where it is not the code's own: DATA or NEEDS_HUMAN instead of TRANSIENT, for one.
    """

    def __init__(
        self,
        code: FaultCode,
        subject: str,
        reason: str,
        *,
        next_command: str | None = None,
        kind: FaultKind | None = None,
        exit_status: int | None = None,
        stderr_tail: str | None = None,
    ) -> None:
        super().__init__(kind or code.kind, subject, reason, next_command=next_command)
        self.code = code
        self.exit_status = exit_status
        self.stderr_tail = stderr_tail

    def __reduce__(self) -> tuple[object, ...]:
        """Let it travel between processes with all its fields."""
        fields = (self.code, self.subject, self.reason, self.next_command, self.kind)
        return _rebuild, (*fields, self.exit_status, self.stderr_tail)


def _rebuild(
    code: FaultCode,
    subject: str,
    reason: str,
    next_command: str | None,
    kind: FaultKind,
    exit_status: int | None,
    stderr_tail: str | None,
) -> CopyFault:
    return CopyFault(
        code,
        subject,
        reason,
        next_command=next_command,
        kind=kind,
        exit_status=exit_status,
        stderr_tail=stderr_tail,
    )


_BY_KIND = {
    FaultKind.TRANSIENT: FaultCode.TRANSFER,
    FaultKind.THROTTLED: FaultCode.TRANSFER,
    FaultKind.AUTH: FaultCode.AUTH,
    FaultKind.CONFLICT: FaultCode.TRANSFER,
    FaultKind.DATA: FaultCode.TRANSFER,
    FaultKind.CAPACITY: FaultCode.NO_SPACE,
    FaultKind.CONFIG: FaultCode.CONFIG,
    FaultKind.CANCELLED: FaultCode.CANCELLED,
    FaultKind.NEEDS_HUMAN: FaultCode.CONFIG,
}


def code_of(fault: Fault) -> FaultCode:
    """The cause of any fault: its own where it is a CopyFault, else the nearest."""
    if isinstance(fault, CopyFault):
        return fault.code
    if fault.kind is FaultKind.AUTH and "host key" in fault.reason:
        return FaultCode.HOSTKEY
    return _BY_KIND[fault.kind]


_SAYINGS: tuple[tuple[str, FaultCode, str, str], ...] = (
    ("Read-only file system", FaultCode.DEST_READONLY, "the file system is read-only", "mount it writable"),
    ("No space left on device", FaultCode.NO_SPACE, "the disk is full", "free space there; it is tried again"),
    ("Disk quota exceeded", FaultCode.NO_SPACE, "the quota is used up", "raise it; it is tried again"),
    (
        "Permission denied",
        FaultCode.DEST_READONLY,
        "no right to write there",
        "give the user of the connection the right",
    ),
    ("Operation not permitted", FaultCode.DEST_READONLY, "no right to do that there", "give the user the right to it"),
    ("Input/output error", FaultCode.TRANSFER, "a disk cannot be read or written", "check the disks (dmesg, smartctl)"),
)


def classify_saying(subject: str, text: str, *, exit_status: int) -> CopyFault:
    """The fault behind the complaints of a program that ran over there; TRANSFER where they tell nothing better."""
    tail = text.strip()[-2000:]
    for words, code, reason, next_step in _SAYINGS:
        if words in text:
            return CopyFault(
                code,
                subject,
                f"{reason} ({_telling(text, words)})",
                next_command=next_step,
                exit_status=exit_status,
                stderr_tail=tail,
            )
    said = _telling(text, "")
    return CopyFault(
        FaultCode.TRANSFER,
        subject,
        f"ended with status {exit_status}: {said}",
        exit_status=exit_status,
        stderr_tail=tail,
    )


def from_ssh(fault: Fault) -> Fault:
    """A fault of the ground floor's ssh under its own code: AUTH, HOSTKEY, UNREACHABLE, TIMEOUT."""
    if isinstance(fault, CopyFault):
        return fault
    if fault.kind is FaultKind.AUTH:
        code = code_of(fault)
    elif fault.kind is FaultKind.TRANSIENT:
        code = FaultCode.TIMEOUT if "did not end within" in fault.reason else FaultCode.UNREACHABLE
    else:
        return fault
    return CopyFault(code, fault.subject, fault.reason, next_command=fault.next_command)


def _telling(text: str, words: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    chosen = [line for line in lines if words in line] or ["without a word"]
    return chosen[0][-300:]
