"""The map of a file with holes, in the four ways that GNU tar has written it."""

from __future__ import annotations

from dataclasses import dataclass, field

from custody.tape.stream import headers
from custody.tape.stream.extensions import Extensions
from custody.tape.stream.headers import Extent, Header

_LARGEST_MAP_BYTES = 64 << 20


@dataclass
class HoleMap:
    """A map that is being read; ValueError, in every call, where it cannot be true.

    :ivar size_bytes: of the file, as who reads it sees it.
    :ivar stored_bytes: what is left in the stream of its content.
    :ivar needs_block: whether the map goes on in the next block of the stream.
    """

    size_bytes: int
    stored_bytes: int
    needs_block: bool
    _extents: list[Extent] = field(default_factory=list)
    _text: bytearray | None = None
    _lines: int = 0

    @classmethod
    def begin(cls, header: Header, block: bytes, extensions: Extensions) -> HoleMap:
        """Begin with what the header and the extended headers before it say."""
        if header.type == b"S":
            extents, has_more, size_bytes = headers.old_sparse_map(block)
            found = cls(size_bytes, header.size_bytes, has_more, extents)
        elif extensions.map_is_inside:
            found = cls(extensions.sparse_size_bytes, header.size_bytes, True, _text=bytearray())
        else:
            found = cls(extensions.sparse_size_bytes, header.size_bytes, False, extensions.sparse_map)
        if not 0 <= found.size_bytes <= headers.LARGEST_SIZE_BYTES:
            raise ValueError(f"states an impossible size of {found.size_bytes} bytes")
        return found

    def add(self, block: bytes) -> None:
        """Take the next block of the stream."""
        if self._text is None:
            further, self.needs_block = headers.sparse_extension(block)
            self._extents += further
            if 16 * len(self._extents) > _LARGEST_MAP_BYTES:
                raise ValueError("has a map of its holes that does not end")
            return
        self._text += block
        self._lines += block.count(b"\n")
        self.stored_bytes -= len(block)
        if self.stored_bytes < 0 or len(self._text) > _LARGEST_MAP_BYTES:
            raise ValueError("has a map of its holes that does not end")
        # a number of extents, then the extents, a number a line
        first = self._text[: self._text.find(b"\n") + 1]
        numbers = 2 * int(first) if first else 0
        if first and self._lines > numbers:
            self._extents = headers.pairs(bytes(self._text).split(b"\n")[1 : 1 + numbers])
            self.needs_block = False

    def extents(self) -> list[Extent]:
        """The pieces that hold data."""
        return headers.checked_extents(self._extents, self.size_bytes, self.stored_bytes)
