"""What a tape file is found to be when a tape is read to its end, and what that makes of the tape."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from custody.faults import Fault, FaultKind
from custody.tape.catalog import Tape
from custody.tape.stream.read import Read
from custody.tape.stream.spool import ManifestSpool


class Verdict(StrEnum):
    """What a tape file is for the catalogue."""

    NEW = "new"  # whole, and put on record
    KNOWN = "known"  # on record as it is
    CATALOG = "catalogue"  # the last file of a closed tape
    UNFINISHED = "unfinished"  # cut off; never recorded
    DAMAGED = "damaged"  # not what its manifest says, or cannot be read; never recorded
    UNKNOWN = "unknown"  # nothing of Custody's, or of another tape
    MISSING = "missing"  # on record, and the tape ends before it
    CONFLICT = "conflict"  # whole, and not what the catalogue has there


BAD = frozenset({Verdict.DAMAGED, Verdict.UNKNOWN, Verdict.MISSING, Verdict.CONFLICT})
"""Damaged, not understood, or not what the catalogue says."""


@dataclass(frozen=True)
class Facts:
    """What a tape file says of itself. ``source`` is empty, ``manifest_sha256`` None where it has no manifest."""

    source: str
    target: str
    excludes: tuple[str, ...]
    manifest_sha256: str | None


@dataclass(frozen=True)
class Content:
    """What a tape file holds.

    :param facts: what is put on record; None where it is nothing of the kind.
    :param targets: of a catalogue: what each file number holds.
    :param complaints: of a DAMAGED one whose manifest is known, every member that is not as it was written.
    :param manifest: the members as they were written (or, without a manifest on tape, as they were read).
    """

    verdict: Verdict
    reason: str = ""
    facts: Facts | None = None
    read: Read | None = None
    manifest: ManifestSpool | None = None
    opening: dict[str, Any] | None = None
    targets: dict[int, str] = field(default_factory=dict)
    members: int = 0
    size_bytes: int = 0
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScannedFile:
    """One tape file and what is made of it. ``reason`` is empty where there is nothing to say."""

    number: int
    verdict: Verdict
    target: str | None
    members: int
    size_bytes: int
    reason: str = ""

    def __str__(self) -> str:
        target = f" {self.target}" if self.target else ""
        return f"file {self.number}: {self.verdict}{target}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class Scanned:
    """What lies on a cartridge. With ``is_dry_run`` nothing was recorded, and NEW is what would be.

    :param tape: its row; None where a dry run found a tape that the catalogue does not know.
    """

    tape: Tape | None
    tape_name: str
    uuid: str | None
    is_dry_run: bool
    files: tuple[ScannedFile, ...]

    def lines(self) -> list[str]:
        """A line for every file."""
        return [str(one) for one in self.files]

    @property
    def damaged(self) -> list[ScannedFile]:
        """What cannot be relied on: :attr:`bad` files, and unfinished ones."""
        return [one for one in self.files if one.verdict in BAD or one.verdict is Verdict.UNFINISHED]

    @property
    def bad(self) -> list[ScannedFile]:
        """Files that are damaged, not understood, or not what the catalogue says."""
        return [one for one in self.files if one.verdict in BAD]

    def require(self) -> None:
        """Raise CONFLICT, or else DATA, for the first file that is bad."""
        if not self.bad:
            return
        conflicts = [one for one in self.bad if one.verdict is Verdict.CONFLICT]
        first = (conflicts or self.bad)[0]
        kind = FaultKind.CONFLICT if conflicts else FaultKind.DATA
        more = f" (and {len(self.bad) - 1} more)" if len(self.bad) > 1 else ""
        command = f"custody tape tape_detail {self.tape_name}; look at both, and clean the drive before another scan"
        raise Fault(kind, f"tape {self.tape_name}", f"{first}{more}", next_command=command)
