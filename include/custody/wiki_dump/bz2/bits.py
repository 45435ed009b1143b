"""Bits of a bzip2 file: where blocks and ends of streams begin, and what their checksums are.

Nothing is decompressed here. A block begins with 48 bits at any bit of a byte; the end of a stream too, followed by the
checksum folded from those of its blocks.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from custody.faults import Fault, FaultKind, os_errors_as_faults

BLOCK_MAGIC = 0x314159265359
END_MAGIC = 0x177245385090
STREAM_HEADER_BYTES = 4
_WINDOW_BYTES = 1 << 20
Buffer = bytes | mmap.mmap


@dataclass(frozen=True)
class Mark:
    """A block or an end of stream: its first bit in the file and the checksum behind its magic."""

    bit: int
    crc: int
    is_end: bool

    @property
    def byte(self) -> int:
        """The byte its first bit is in."""
        return self.bit // 8

    @property
    def shift(self) -> int:
        """Which bit of that byte."""
        return self.bit % 8


@contextmanager
def mapped(path: Path) -> Iterator[Buffer]:
    """A file as bytes that are read when they are looked at. Faults: by the OS error."""
    with os_errors_as_faults(str(path)), path.open("rb") as stream:
        if path.stat().st_size == 0:
            yield b""
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
            yield view


def bits_at(data: Buffer, bit: int, count: int) -> int:
    """Bits as a number; those after the end count as missing, and -1 is returned."""
    first, end = bit // 8, (bit + count + 7) // 8
    if end > len(data):
        return -1
    return (int.from_bytes(data[first:end], "big") >> (end * 8 - bit - count)) & ((1 << count) - 1)


def _patterns(magic: int) -> list[tuple[int, bytes]]:
    """For each bit shift the bytes that are wholly within the magic."""
    found = []
    for shift in range(8):
        whole = (magic << (8 - shift)).to_bytes(7, "big") if shift else magic.to_bytes(6, "big")
        found.append((shift, whole[1:-1] if shift else whole))
    return found


_BLOCKS, _ENDS = _patterns(BLOCK_MAGIC), _patterns(END_MAGIC)


def _find(data: Buffer, magic: int, patterns: list[tuple[int, bytes]], start: int, end: int) -> list[int]:
    found = []
    for shift, inner in patterns:
        skipped = 1 if shift else 0
        at = data.find(inner, start + skipped, end + 7)
        while at >= 0:
            bit = (at - skipped) * 8 + shift
            if bit >= start * 8 and bit < end * 8 and bits_at(data, bit, 48) == magic:
                found.append(bit)
            at = data.find(inner, at + 1, end + 7)
    return found


def marks(data: Buffer, start: int = 0, end: int | None = None, *, blocks_only: bool = False) -> list[Mark]:
    """All blocks and ends of streams that begin within these bytes, ascending.

    :param blocks_only: leave the ends out, which takes half the time.
    """
    end = len(data) if end is None else min(end, len(data))
    magics = ((BLOCK_MAGIC, _BLOCKS, False), (END_MAGIC, _ENDS, True))[: 1 if blocks_only else 2]
    found: list[Mark] = []
    for first in range(start, end, _WINDOW_BYTES):  # looked at many times while it is near, then never again
        last = min(end, first + _WINDOW_BYTES)
        bits = [(bit, is_end) for magic, inner, is_end in magics for bit in _find(data, magic, inner, first, last)]
        found += [Mark(bit, bits_at(data, bit + 48, 32), is_end) for bit, is_end in sorted(bits)]
        if isinstance(data, mmap.mmap) and first >= _WINDOW_BYTES:
            data.madvise(mmap.MADV_DONTNEED, first - first % mmap.PAGESIZE - _WINDOW_BYTES, _WINDOW_BYTES)
    return found


def single_stream(data: Buffer) -> tuple[list[Mark], Mark] | None:
    """The blocks and the end of a file that is one stream, as its own checksum says; None for any other file."""
    end = footer(data)
    blocks = marks(data, blocks_only=True) if end is not None else []
    if end is None or not blocks or blocks[0].bit != STREAM_HEADER_BYTES * 8:
        return None
    combined = 0
    for mark in blocks:
        combined = fold(combined, mark.crc)
    return (blocks, end) if combined == end.crc else None


def next_block(data: Buffer, start: int, window: int = 200_000) -> Mark | None:
    """The first block that begins at this byte or after it."""
    while start < len(data):
        found = [mark for mark in marks(data, start, start + window) if not mark.is_end]
        if found:
            return found[0]
        start += window
    return None


def last_marks(data: Buffer, window: int = 1 << 21) -> list[Mark]:
    """The marks near the end: at least one block where there is any, however large it is."""
    start = len(data)
    while start > 0:
        start = max(0, start - window)
        found = marks(data, start)
        if any(not mark.is_end for mark in found):
            return found
    return marks(data)


def footer(data: Buffer) -> Mark | None:
    """The end of stream that ends the file, with nothing but padding bits behind it; None where there is none."""
    for bit in range(max(0, len(data) * 8 - 87), max(0, len(data) * 8 - 79)):
        if bits_at(data, bit, 48) == END_MAGIC:
            left = len(data) * 8 - bit - 80
            if left == 0 or bits_at(data, bit + 80, left) == 0:
                return Mark(bit, bits_at(data, bit + 48, 32), True)
    return None


def fold(combined: int, crc: int) -> int:
    """The checksum of a stream after one more block."""
    return (((combined << 1) | (combined >> 31)) & 0xFFFFFFFF) ^ crc


@dataclass(frozen=True)
class Structure:
    """What the quick check counted."""

    streams: int
    blocks: int


def check_structure(path: Path) -> Structure:
    """Check a whole file without decompressing it: headers, checksums folded, nothing cut, nothing behind.

    Finds truncation at any byte, a changed checksum or magic, foreign bytes between and behind streams. A flipped bit
    within a block's data is found by :func:`custody.wiki_dump.bz2.verify.verify` only. Faults: DATA.
    """
    with mapped(path) as data:
        if len(data) < STREAM_HEADER_BYTES or data[:3] != b"BZh" or not 49 <= data[3] <= 57:
            raise _bad(path, "is no bzip2 file" if len(data) else "is empty")
        if single := single_stream(data):
            return Structure(1, len(single[0]))
        combined, streams, blocks, end, is_open = 0, 0, 0, STREAM_HEADER_BYTES * 8, True
        for mark in marks(data):
            if not is_open or (blocks == 0 and streams == 0 and mark.bit != end):
                raise _bad(path, f"has something at byte {mark.byte} that belongs to no stream")
            if not mark.is_end:
                combined, blocks = fold(combined, mark.crc), blocks + 1
                continue
            if mark.crc != combined:
                raise _bad(path, f"stream {streams + 1} has another checksum than its blocks, at byte {mark.byte}")
            combined, streams = 0, streams + 1
            end = (mark.bit + 80 + 7) // 8
            is_open = data[end : end + 3] == b"BZh"
            if not is_open and end != len(data):
                raise _bad(path, f"has {len(data) - end} bytes behind its end")
            end = len(data) if not is_open else end
        if is_open or not streams:
            raise _bad(path, "is cut: its last stream has no end")
        return Structure(streams, blocks)


def _bad(path: Path, reason: str) -> Fault:
    return Fault(FaultKind.DATA, str(path), reason, next_command="make this file again")
