"""Single blocks of a bzip2 file, decompressed where they lie; streams joined bit by bit, not compressed again."""

from __future__ import annotations

import bz2
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from custody.faults import Fault, FaultKind
from custody.wiki_dump.bz2.bits import BLOCK_MAGIC, END_MAGIC, Buffer, Mark, bits_at, fold, marks, single_stream

_LARGEST_BLOCK_BYTES = 920_000  # a block of 900,000 bytes that does not compress, and its tables

_WINDOW_BYTES = 200_000


def decompress_block(data: Buffer, mark: Mark, level: int = 9) -> bytes | None:
    """The content of the block that begins here; None where it is none (a magic by chance) or is damaged."""
    for end in _ends_after(data, mark):
        try:
            return bz2.decompress(as_stream(data, mark.bit, end, mark.crc, level))
        except (OSError, ValueError, EOFError):
            continue
    return None


def _ends_after(data: Buffer, mark: Mark) -> Iterator[int]:
    """Bits at which the block may end: at the next marks, since one of them may be there by chance."""
    start, stop = mark.byte, min(len(data), mark.byte + 2 * _LARGEST_BLOCK_BYTES)
    while start < stop:
        for found in marks(data, start, min(stop, start + _WINDOW_BYTES)):
            if found.bit > mark.bit:
                yield found.bit
        start += _WINDOW_BYTES


def as_stream(data: Buffer, start: int, end: int, combined: int, level: int = 9) -> bytes:
    """The bits of a block, or several, as a stream of their own."""
    first, last = start // 8, (end + 7) // 8
    bits = int.from_bytes(data[first:last], "big") >> (last * 8 - end)
    bits &= (1 << (end - start)) - 1
    writer = BitWriter()
    writer.add(int.from_bytes(b"BZh%d" % level, "big"), 32)
    writer.add(bits, end - start)
    writer.add(END_MAGIC, 48)
    writer.add(combined, 32)
    return writer.finish()


class BitWriter:
    """Collects bits and gives them out as bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._left, self._count = 0, 0

    def add(self, bits: int, count: int) -> None:
        """Add the ``count`` bits of a number."""
        self._left = (self._left << count) | bits
        self._count += count
        keep = self._count % 8
        self._parts.append((self._left >> keep).to_bytes(self._count // 8, "big"))
        self._left &= (1 << keep) - 1
        self._count = keep

    def take(self) -> bytes:
        """The whole bytes so far."""
        found = b"".join(self._parts)
        self._parts = []
        return found

    def finish(self) -> bytes:
        """All of it, padded to a byte."""
        if self._count:
            self.add(0, 8 - self._count)
        return self.take()


@dataclass(frozen=True)
class Block:
    """A block's bits in its file."""

    start: int
    end: int
    crc: int


def list_blocks(data: Buffer, path: Path) -> list[Block]:
    """All blocks, of all streams. Faults: DATA where the file is cut."""
    if single := single_stream(data):
        marked, end = single
        ends = [*(mark.bit for mark in marked[1:]), end.bit]
        return [Block(mark.bit, stop, mark.crc) for mark, stop in zip(marked, ends, strict=True)]
    found: list[Block] = []
    start: Mark | None = None
    for mark in marks(data):
        if start is not None:
            found.append(Block(start.bit, mark.bit, start.crc))
        start = None if mark.is_end else mark
    if start is not None or not found:
        raise Fault(FaultKind.DATA, str(path), "is cut: its last block has no end", next_command="make this file again")
    return found


_PIECE_BITS = 8 << 20


class Splicer:
    """Joins blocks of several files to one single stream: a reader that stops after the first stream reads it all."""

    def __init__(self, level: int = 9) -> None:
        self._writer = BitWriter()
        self._writer.add(int.from_bytes(b"BZh%d" % level, "big"), 32)
        self._combined = 0

    def add(self, data: Buffer, block: Block) -> Iterator[bytes]:
        """Add a block; yields what can be written."""
        assert bits_at(data, block.start, 48) == BLOCK_MAGIC
        for start in range(block.start, block.end, _PIECE_BITS):
            end = min(start + _PIECE_BITS, block.end)
            self._writer.add(bits_at(data, start, end - start), end - start)
            yield self._writer.take()
        self._combined = fold(self._combined, block.crc)

    def finish(self) -> bytes:
        """The end of the stream."""
        self._writer.add(END_MAGIC, 48)
        self._writer.add(self._combined, 32)
        return self._writer.finish()
