"""Several digests of one read: of a file, or of bytes on their way somewhere.

A digest made while the bytes were being read anyway costs no second read; that is why everything that moves bytes in
Custody takes a :class:`Hasher` along.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

import xxhash

from custody.faults import Fault, FaultKind, os_errors_as_faults

BLOCK_BYTES = 1 << 20
DEFAULT_ALGORITHMS = ("md5", "sha256")

Progress = Callable[[int], None]
"""Called with the number of bytes done since the last call."""


class _Digest(Protocol):
    def update(self, data: memoryview | bytes, /) -> object: ...

    def hexdigest(self) -> str: ...


def _new(algorithm: str) -> _Digest:
    if algorithm == "xxh128":
        return xxhash.xxh3_128()
    if algorithm in {"md5", "sha1", "sha256"}:
        return hashlib.new(algorithm, usedforsecurity=False)
    raise Fault(FaultKind.CONFIG, algorithm, "is no digest Custody knows: md5, sha1, sha256, xxh128")


class Hasher:
    """Digests of one stream of bytes.

    :param algorithms: any of md5, sha1, sha256, xxh128.
    """

    def __init__(self, algorithms: Sequence[str] = DEFAULT_ALGORITHMS) -> None:
        self._digests = {name: _new(name) for name in algorithms}
        self.size_bytes = 0

    def update(self, data: memoryview | bytes) -> None:
        """Add the next bytes of the stream."""
        for digest in self._digests.values():
            digest.update(data)
        self.size_bytes += len(data)

    def fixity(self) -> Fixity:
        """Size and digests of what has passed so far."""
        return Fixity(self.size_bytes, {name: digest.hexdigest() for name, digest in self._digests.items()})


class Match(Enum):
    """What a comparison of two fixities can say. Unknown is never equal."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNVERIFIED = "unverified"


@dataclass(frozen=True)
class Fixity:
    """What is known of some bytes: their number, and lower-case hexadecimal digests by algorithm."""

    size_bytes: int
    digests: Mapping[str, str] = field(default_factory=dict, hash=False)

    def compare(self, other: Fixity) -> Match:
        """Compare with what was found elsewhere.

        EQUAL needs equal sizes and at least one digest that both know; sizes alone prove nothing, and neither does a
        digest that is there in name only.
        """
        if self.size_bytes != other.size_bytes:
            return Match.DIFFERENT
        both = self.digests.keys() & other.digests.keys()
        shared = {name for name in both if self.digests[name] and other.digests[name]}
        if any(self.digests[name] != other.digests[name] for name in shared):
            return Match.DIFFERENT
        return Match.EQUAL if shared else Match.UNVERIFIED


@dataclass(frozen=True)
class FileState:
    """What the file system says of a file: enough to tell that it is still the one that was read."""

    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileState:
        """Take the three facts out of a stat result."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)

    @classmethod
    def of_path(cls, path: Path) -> FileState:
        """Look at a file without following a symbolic link; OSError where there is none."""
        return cls.of(path.lstat())


@dataclass(frozen=True)
class FileReading:
    """One whole read of one file."""

    fixity: Fixity
    state: FileState


@contextmanager
def reading(path: Path) -> Iterator[int]:
    """Open a regular file for one sequential read; yields the descriptor.

    A symbolic link, directory or fifo is a CONFIG fault; other OS errors keep their kind. Raises a DATA fault
    when the file changed while it was being read.
    """
    subject = str(path)
    with os_errors_as_faults(subject):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise Fault(FaultKind.CONFIG, subject, "is not a regular file", next_command="move it out of the way")
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        with os_errors_as_faults(subject):
            yield descriptor
            after = os.fstat(descriptor)
        if FileState.of(before) != FileState.of(after):
            raise Fault(FaultKind.DATA, subject, "changed while it was being read", next_command="run again later")
    finally:
        os.close(descriptor)


def blocks(descriptor: int, block_bytes: int = BLOCK_BYTES) -> Iterator[memoryview]:
    """Read a descriptor to its end in one reused buffer; each view is valid until the next one is asked for."""
    buffer = memoryview(bytearray(block_bytes))
    while count := os.readv(descriptor, [buffer]):
        yield buffer[:count]


def read_file(
    path: Path, algorithms: Sequence[str] = DEFAULT_ALGORITHMS, *, progress: Progress | None = None
) -> FileReading:
    """Read a file once and return its size, digests and state.

    Faults: CONFIG where it is no regular file or cannot be opened, DATA on a read error or when it changed meanwhile.
    """
    hasher = Hasher(algorithms)
    with reading(path) as descriptor:
        for block in blocks(descriptor):
            hasher.update(block)
            if progress:
                progress(len(block))
        state = FileState.of(os.fstat(descriptor))
    return FileReading(hasher.fixity(), state)
