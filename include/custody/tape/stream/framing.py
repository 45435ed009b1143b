"""How a tar stream is taken apart: blocks of 512 bytes, contents that are collected, skipped or passed on."""

from __future__ import annotations

from collections.abc import Callable

from custody.tape.stream.headers import BLOCK_BYTES


class Framing:
    """What a parser of a stream is built on: it comes in pieces of any size, cut anywhere.

    Subclasses say in :meth:`header` what a block at a boundary means, and what comes next.

    :param offset_bytes: where in a larger stream this one begins.
    """

    def __init__(self, offset_bytes: int) -> None:
        self._offset = offset_bytes
        self._unit_offset = offset_bytes  # where the header begins that is being looked at
        self._step: Callable[[memoryview], int] = self._at_boundary
        self._collected = bytearray()
        self._wanted = 0
        self._then: Callable[[bytes], None] = self._header
        self._left = 0

    @property
    def offset_bytes(self) -> int:
        """How far the stream has passed."""
        return self._offset

    def _header(self, block: bytes) -> None:
        raise NotImplementedError

    def _pass(self, block: memoryview | bytes) -> None:
        """Take the next bytes of the stream, each by the step whose turn it is."""
        view = memoryview(block)
        position, end = 0, len(view)
        while position < end:
            used = self._step(view[position:] if position else view)
            position += used
            self._offset += used

    def _at_boundary(self, view: memoryview) -> int:
        self._unit_offset = self._offset
        if len(view) < BLOCK_BYTES:
            self._collect(BLOCK_BYTES, self._header)
            return 0
        self._header(bytes(view[:BLOCK_BYTES]))
        return BLOCK_BYTES

    def _collect(self, size_bytes: int, then: Callable[[bytes], None]) -> None:
        self._collected = bytearray()
        self._wanted = size_bytes
        self._then = then
        self._step = self._collecting

    def _collecting(self, view: memoryview) -> int:
        used = min(len(view), self._wanted - len(self._collected))
        self._collected += view[:used]
        if len(self._collected) == self._wanted:
            content, self._collected = bytes(self._collected), bytearray()
            self._step = self._at_boundary  # unless it says otherwise
            self._then(content)
        return used

    def _skip(self, size_bytes: int) -> None:
        self._left = size_bytes
        self._step = self._skipping if size_bytes else self._at_boundary

    def _skipping(self, view: memoryview) -> int:
        used = min(len(view), self._left)
        self._left -= used
        if not self._left:
            self._step = self._at_boundary
        return used

    def _ignoring(self, view: memoryview) -> int:
        return len(view)
