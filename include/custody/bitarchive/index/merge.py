"""Sorted files into one, byte for byte as ``LC_ALL=C sort -m`` does, in memory that does not grow with them."""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from custody.faults import Fault, FaultKind, os_errors_as_faults

BLOCK_BYTES = 4 << 20
MAX_OPEN_FILES = 200
"""More parts than this are merged in rounds."""


class _Part:
    """One sorted file, read block by block. Faults: DATA where it is not sorted."""

    def __init__(self, path: Path, stream: BinaryIO, block_bytes: int) -> None:
        self._path = path
        self._stream = stream
        self._block_bytes = block_bytes
        self._rest = b""
        self._last = b""
        self.lines: list[bytes] = []
        self.is_at_end = False
        self.fill()

    def fill(self) -> None:
        """Read until there is a line, or the end."""
        while not self.lines and not self.is_at_end:
            block = self._stream.read(self._block_bytes)
            if not block:
                self.is_at_end = True
                lines = [self._rest] if self._rest else []
                self._rest = b""
            else:
                *lines, self._rest = (self._rest + block).split(b"\n")
            self._require_sorted(lines)
            self.lines = lines

    def _require_sorted(self, lines: list[bytes]) -> None:
        if not lines:
            return
        if lines[0] < self._last or not all(map(operator.le, lines, lines[1:])):
            raise Fault(FaultKind.DATA, str(self._path), "is not sorted", next_command=f"LC_ALL=C sort {self._path}")
        self._last = lines[-1]

    def take_up_to(self, bound: bytes) -> list[bytes]:
        """The lines that are not above ``bound``."""
        count = bisect_right(self.lines, bound)
        taken, self.lines = self.lines[:count], self.lines[count:]
        return taken


def merge(parts: Sequence[Path], out: BinaryIO) -> int:
    """Write the lines of all parts, sorted; equal lines are all kept. Returns how many.

    Faults: DATA where a part is not sorted; OS errors keep their kind.
    """
    count = 0
    block_bytes = max(1 << 16, BLOCK_BYTES * 4 // max(4, len(parts)))
    streams: list[BinaryIO] = []
    try:
        opened = []
        for path in parts:
            with os_errors_as_faults(str(path)):
                streams.append(path.open("rb", buffering=0))
            opened.append(_Part(path, streams[-1], block_bytes))
        for lines in _rounds(opened):
            out.write(b"\n".join(lines) + b"\n")
            count += len(lines)
    finally:
        for stream in streams:
            stream.close()
    return count


def _rounds(parts: list[_Part]) -> Iterator[list[bytes]]:
    """Lines that may be written: none that is still to be read comes before them."""
    live = [part for part in parts if part.lines]
    while live:
        bound = min(part.lines[-1] for part in live)
        lines: list[bytes] = []
        for part in live:
            lines += part.take_up_to(bound)
            part.fill()
        lines.sort()  # runs that are sorted already: this is a merge
        yield lines
        live = [part for part in live if part.lines]
