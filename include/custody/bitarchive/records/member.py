"""One stretch of a file as a stream: a gzip member, or plain bytes; and the search for the next one after damage."""

from __future__ import annotations

import mmap
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from isal import igzip_lib, isal_zlib

from custody.bitarchive.records.model import Damaged

GZIP_MAGIC = b"\x1f\x8b\x08"
BLOCK_BYTES = 64 << 10
MAX_LINE_BYTES = 1 << 20
_PROBE_BYTES = 4096
_INFLATE_ERROR = cast("type[Exception]", igzip_lib.IsalError)

StartsRecord = Callable[[bytes], bool]
"""Whether bytes (up to 4096 of them) are the start of a record."""


class Span:
    """Bytes of a file from an offset on: inflated to the end of one gzip member, or plain to the end of the file.

    Reads block by block, whatever the size. Raises Damaged where the member is broken or cut.
    """

    def __init__(self, stream: BinaryIO, offset_bytes: int) -> None:
        self._stream = stream
        self.offset_bytes = offset_bytes
        self._next = offset_bytes  # where the file is read next
        self._ready = bytearray()
        self._at_end = False
        stream.seek(offset_bytes)
        self.is_gzip = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        self._inflater = isal_zlib.decompressobj(31) if self.is_gzip else None
        self._taken = 0

    @property
    def position(self) -> int:
        """How many bytes of the (inflated) stretch were taken."""
        return self._taken

    @property
    def end_bytes(self) -> int:
        """Where the next stretch begins: after the gzip member (read to its end), or after what was taken."""
        if self.is_gzip:
            self.drain()
            return self._next
        return self.offset_bytes + self._taken

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes, less only at the end."""
        while len(self._ready) < size and self._fill():
            pass
        taken = bytes(self._ready[:size])
        del self._ready[:size]
        self._taken += len(taken)
        return taken

    def read_some(self, size: int) -> bytes:
        """Up to ``size`` bytes, whatever is at hand; empty at the end."""
        if not self._ready:
            self._fill()
        return self.read(min(size, len(self._ready)))

    def read_line(self) -> bytes:
        """Up to and with the next LF, or the end. Raises Damaged for a line without end."""
        start = 0
        while (end := self._ready.find(b"\n", start)) < 0:
            start = len(self._ready)
            if start > MAX_LINE_BYTES:
                raise Damaged("a line without end")
            if not self._fill():
                return self.read(len(self._ready))
        return self.read(end + 1)

    def peek(self, size: int) -> bytes:
        """The next bytes without taking them."""
        while len(self._ready) < size and self._fill():
            pass
        return bytes(self._ready[:size])

    def drain(self) -> None:
        """Read to the end of the member."""
        while self.read_some(BLOCK_BYTES):
            pass

    def _fill(self) -> bool:
        if self._at_end:
            return False
        self._stream.seek(self._next)
        block = self._stream.read(BLOCK_BYTES)
        if self._inflater is None:
            self._next += len(block)
            self._ready += block
            self._at_end = not block
            return bool(block)
        if not block:
            raise Damaged("its gzip member is cut")
        try:
            self._ready += self._inflater.decompress(block)
        except _INFLATE_ERROR as error:
            raise Damaged(f"its gzip member is broken ({error})") from error
        self._next += len(block)
        if self._inflater.eof:
            self._next -= len(self._inflater.unused_data)
            self._at_end = True
        return True


class Body:
    """The declared bytes of a record within a span. Raises Damaged where fewer are there."""

    def __init__(self, span: Span, length: int) -> None:
        self._span = span
        self.left = length

    def read(self, size: int = -1, /) -> bytes:
        """See :class:`~custody.bitarchive.records.model.Content`."""
        if size < 0:
            parts = []
            while block := self.read(BLOCK_BYTES):
                parts.append(block)
            return b"".join(parts)
        if not self.left or not size:
            return b""
        block = self._span.read_some(min(size, self.left, BLOCK_BYTES))
        if not block:
            raise Damaged(f"{self.left} bytes of the record are missing")
        self.left -= len(block)
        return block

    def drain(self) -> None:
        """Read what is left."""
        while self.read(BLOCK_BYTES):
            pass


def next_start(path: Path, after_bytes: int, candidate: re.Pattern[bytes], starts_record: StartsRecord) -> int:
    """Where the next record (or gzip member that begins with one) begins; the size of the file where none does.

    :param candidate: what to look for in plain bytes; its first group begins where a record would.
    """
    size = path.stat().st_size
    if after_bytes >= size:
        return size
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        if view[:3] == GZIP_MAGIC:
            return _next_member(view, after_bytes, starts_record)
        position = max(0, after_bytes - 4)  # what stands before a start belongs to the pattern
        while found := candidate.search(view, position):
            if found.start(1) >= after_bytes and starts_record(view[found.start(1) : found.start(1) + _PROBE_BYTES]):
                return found.start(1)
            position = found.start(1) + 1
    return size


def _next_member(view: mmap.mmap, after_bytes: int, starts_record: StartsRecord) -> int:
    position = after_bytes
    while (position := view.find(GZIP_MAGIC, position)) >= 0:
        try:
            head = zlib.decompressobj(31).decompress(view[position : position + 2 * _PROBE_BYTES], _PROBE_BYTES)
        except zlib.error:
            head = b""
        if starts_record(head):
            return position
        position += 1
    return len(view)
