"""Movers: ways to send the files of a database into its staging directory, behind one interface.

``stream`` packs them into one tar stream: it costs the least, for small files and for large ones. ``rsync`` takes up a
file where an earlier attempt was cut off. A measured profile (what has to be sent, what lies there already) chooses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from custody.minidvodb.codes import CopyFault, FaultCode
from custody.minidvodb.destination import Settings
from custody.minidvodb.far import Far
from custody.minidvodb.manifest import FILE, Entry, Snapshot

RSYNC, STREAM, RELAY = "rsync", "stream", "relay"
CUT_BYTES = 1 << 20
"""From this size on a part of a file that lies there is worth to be taken up."""


@dataclass(frozen=True)
class Profile:
    """What a transfer is made of: all files, their size, and what of it has to be sent."""

    files: int
    size_bytes: int
    files_to_send: int
    bytes_to_send: int
    staged_files: int
    cut_bytes: int = 0

    @property
    def mean_bytes(self) -> float:
        """Of the files that have to be sent."""
        return self.bytes_to_send / self.files_to_send if self.files_to_send else 0.0

    def as_json(self) -> dict[str, Any]:
        """For the ledger."""
        return {
            "files": self.files,
            "bytes": self.size_bytes,
            "files_to_send": self.files_to_send,
            "bytes_to_send": self.bytes_to_send,
            "mean_bytes": round(self.mean_bytes),
            "staged_files": self.staged_files,
            "cut_bytes": self.cut_bytes,
        }


def profile_of(entries: Snapshot, staged: Snapshot) -> Profile:
    """Measure what has to be sent, given what lies there."""
    files = [entry for entry in entries.values() if entry.kind == FILE]
    left = [entry for entry in files if (there := staged.get(entry.path)) is None or there.stored != entry.stored]
    return Profile(
        files=len(files),
        size_bytes=sum(entry.size_bytes for entry in files),
        files_to_send=len(left),
        bytes_to_send=sum(entry.size_bytes for entry in left),
        staged_files=len(files) - len(left),
        cut_bytes=sum(_cut(entry, staged.get(entry.path)) for entry in left),
    )


def _cut(entry: Entry, there: Entry | None) -> int:
    """How much of a large file lies there from an earlier attempt."""
    if there is None or there.kind != FILE or there.size_bytes < CUT_BYTES:
        return 0
    return min(there.size_bytes, entry.size_bytes)


def choose(profile: Profile, settings: Settings) -> str:
    """Name the mover."""
    return settings.mover or (RSYNC if profile.cut_bytes else STREAM)


def demand_tools(tools: frozenset[str], settings: Settings) -> None:
    """Whether the machine over there has what a copy takes. Faults: CONFIG."""
    for name in ("rsync", "tar"):
        if name not in tools:
            reason = f"has no {name}"
            raise CopyFault(FaultCode.CONFIG, "the machine over there", reason, next_command=f"install {name}")
    if settings.digest == "xxh128" and "xxh128" not in tools:
        raise CopyFault(
            FaultCode.CONFIG,
            "the machine over there",
            "has an rsync without xxh128",
            next_command="install rsync 3.2 or newer, or set digest: sha256",
        )


@dataclass
class Job:
    """One transfer.

    :param root: the database.
    :param entries: what is to be sent of it; directories come before what is in them.
    :param deadline: by time.monotonic(), when it is given up.
    :param rate: asked again and again: bytes a second that may be sent now, None: as many as go.
    :param advance: told of every number of bytes done.
    :param check: raises where it must not go on.
    :param streams: at most so many at the same time, where there is enough to send.
    """

    root: Path
    far: Far
    entries: Sequence[Entry]
    algorithm: str
    deadline: float
    stall_s: float
    rate: Callable[[], int | None] = lambda: None
    advance: Callable[[int], None] = lambda count: None
    check: Callable[[], None] = lambda: None
    streams: int = 1
    moved_at: float = field(default_factory=time.monotonic)

    def moved(self, count: int) -> None:
        """Say that bytes moved."""
        self.moved_at = time.monotonic()
        self.advance(count)


@dataclass(frozen=True)
class Sent:
    """What came of a transfer: bytes that travelled, and digests of the bytes as they were read to be sent."""

    sent_bytes: int
    digests: Mapping[bytes, str]


class Mover(Protocol):
    """A way to send files."""

    def __call__(self, job: Job) -> Sent:
        """Send every entry. Faults: by what went wrong; what has arrived stays for the next attempt."""
        ...


def mover_of(name: str) -> Mover:
    """By the name that :func:`choose` gave."""
    from custody.minidvodb.movers.rsync import send as send_by_rsync
    from custody.minidvodb.movers.stream import send as send_by_stream

    return {RSYNC: send_by_rsync, STREAM: send_by_stream}[name]
