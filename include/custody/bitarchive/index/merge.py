"""Sorted files into one, byte for byte as ``LC_ALL=C sort -m`` does, in memory that does not grow with them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from custody.faults import Fault, FaultKind, os_errors_as_faults

BLOCK_BYTES = 32 << 20
MAX_OPEN_FILES = 200
"""More parts than this are merged in rounds."""


class _Part:
    """One sorted file, read block by block."""

    def __init__(self, path: Path, stream: BinaryIO, block_bytes: int) -> None:
        self.path = path
        self._stream = stream
        self._block_bytes = block_bytes
        self._rest = b""
        self.lines: list[bytes] = []
        self.is_at_end = False
        self.fill()

    def fill(self) -> None:
        """Read until there is a line, or the end."""
        while not self.lines and not self.is_at_end:
            block = self._stream.read(self._block_bytes)
            if not block:
                self.is_at_end = True
                self.lines = [self._rest] if self._rest else []
                self._rest = b""
            else:
                self.lines = (self._rest + block).split(b"\n")
                self._rest = self.lines.pop()

    def take_up_to(self, bound: bytes) -> list[bytes]:
        """The lines that are not above ``bound``."""
        count = bisect_right(self.lines, bound)
        taken, self.lines = self.lines[:count], self.lines[count:]
        return taken


def merge(parts: Sequence[Path], out: BinaryIO) -> int:
    """Write the lines of all parts, sorted; equal lines are all kept. Returns how many.

    What is written is sorted, whatever the parts are: one that is not is refused as soon as a line comes too late.
    Faults: DATA then; OS errors keep their kind.
    """
    count = 0
    last = b""
    block_bytes = max(1 << 10, BLOCK_BYTES // max(1, len(parts)))
    streams: list[BinaryIO] = []
    try:
        opened = []
        for path in parts:
            with os_errors_as_faults(str(path)):
                streams.append(path.open("rb", buffering=0))
            opened.append(_Part(path, streams[-1], block_bytes))
        for lines in _rounds(opened):
            if lines[0] < last:
                names = ", ".join(path.name for path in parts[:5])
                command = "LC_ALL=C sort -c FILE, for each"
                raise Fault(FaultKind.DATA, f"one of {names}", "is not sorted", next_command=command)
            last = lines[-1]
            lines.append(b"")
            out.write(b"\n".join(lines))
            count += len(lines) - 1
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
        if not lines:  # a last line that is below the others of its block
            lines = live[0].lines
            live[0].lines = []
            live[0].fill()
        lines.sort()  # runs that are sorted already: this is a merge
        yield lines
        live = [part for part in live if part.lines]
