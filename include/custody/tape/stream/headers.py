"""What the 512-byte blocks of a tar stream say: numbers, names, extended headers, maps of sparse files.

Pure functions from bytes. All of them raise ValueError, with a reason that needs only the place to be a sentence.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import adler32

BLOCK_BYTES = 512
ZERO_BLOCK = bytes(BLOCK_BYTES)
LARGEST_SIZE_BYTES = (1 << 63) - 1
"""No file system holds a larger file; a larger number in a header is damage."""

Extent = tuple[int, int]
"""Where a piece of a sparse file lies in the file, and its length, in bytes."""

_FIELDS = struct.Struct("100s8s8s8s12s12s8s1s100s8s32x32x8s8s155s12x")
_CHECKSUM = slice(148, 156)
_OLD_SPARSE_AT, _OLD_SPARSE_ENTRIES = 386, 4
_EXTENSION_ENTRIES = 21


@dataclass(slots=True)
class Header:
    """The fields of one header block, as they stand there: extended headers may say otherwise.

    :param type: one byte, which is NUL for a file of the oldest tars.
    :param size_bytes: of what follows the header in the stream, without padding.
    """

    name: bytes
    mode: int
    uid: int
    gid: int
    size_bytes: int
    mtime_s: int
    type: bytes
    link: bytes
    magic: bytes
    device_fields: tuple[bytes, bytes]

    @property
    def is_posix(self) -> bool:
        """Whether it is of the ustar and pax family; else GNU's own or older."""
        return self.magic == b"ustar\x0000"

    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number."""
        major, minor = self.device_fields
        return number(major), number(minor)


def number(field: bytes) -> int:
    """A number as tar writes it: octal digits, or, where these do not suffice, base 256."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if field[0] & 0x40 else value
    digits = field.partition(b"\0")[0].strip()
    if not digits:
        return 0
    if not digits.isdigit():
        raise ValueError(f"{digits!r} is no octal number")
    return int(digits, 8)


def stored_number(value: int) -> int:
    """A number, where 64 bits hold it as a catalogue stores it."""
    if not -LARGEST_SIZE_BYTES <= value <= LARGEST_SIZE_BYTES:
        raise ValueError(f"states an impossible number, {value}")
    return value


def has_checksum(block: bytes) -> bool:
    """Whether a block is a header that nothing has damaged."""
    field_bytes = block[_CHECKSUM]
    stated_digits = field_bytes.strip(b" \0")
    if stated_digits.strip(b"01234567") or not stated_digits:
        return False
    stated, field = int(stated_digits, 8), sum(field_bytes)
    # The low half of an Adler-32 is 1 plus the sum of the bytes modulo 65521; 256 bytes cannot reach that.
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2 - field + 8 * 32
    if total == stated:
        return True
    return stated == total - 256 * _high_bytes(block)  # some old tars took bytes as signed numbers


def _high_bytes(block: bytes) -> int:
    return sum(byte >= 0x80 for byte in block[:148] + block[156:])


def decode(block: bytes) -> Header:
    """Take a header block apart; its checksum is looked at first."""
    if not has_checksum(block):
        raise ValueError("is no tar header (its checksum is wrong)")
    name, mode, uid, gid, size, mtime, _, kind, link, magic, major, minor, prefix = _FIELDS.unpack(block)
    name = name.partition(b"\0")[0]
    if prefix[0] and magic == b"ustar\x0000":
        name = prefix.partition(b"\0")[0] + b"/" + name
    size_bytes = number(size)
    if not 0 <= size_bytes <= LARGEST_SIZE_BYTES:
        raise ValueError(f"states an impossible size of {size_bytes} bytes")
    return Header(
        name,
        number(mode) & 0o7777,
        stored_number(number(uid)),
        stored_number(number(gid)),
        size_bytes,
        stored_number(number(mtime)),
        kind,
        link.partition(b"\0")[0],
        magic,
        (major, minor),
    )


def pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records of a pax extended header, keyword and value, in their order."""
    position = 0
    while position < len(content):
        digits = content[position : position + 20].partition(b" ")[0]
        end = position + int(digits) if digits.isdigit() else 0
        keyword, equals, value = content[position + len(digits) + 1 : end - 1].partition(b"=")
        if not (equals and end <= len(content) and content[end - 1 : end] == b"\n"):
            raise ValueError("has an extended header with a damaged record")
        yield keyword, value
        position = end


def pax_seconds(value: bytes) -> int:
    """Whole seconds of a pax time such as ``1350244992.0239``, rounded towards the past, as the headers have them."""
    whole, _, fraction = value.partition(b".")
    seconds = int(whole or b"0")
    return seconds - 1 if value.startswith(b"-") and fraction.strip(b"0") else seconds


def old_sparse_map(block: bytes) -> tuple[list[Extent], bool, int]:
    """The map in a GNU ``S`` header: its extents, whether an extension block follows, the size in bytes as read."""
    return _entries(block, _OLD_SPARSE_AT, _OLD_SPARSE_ENTRIES), block[482] not in b"\0" + b"0", number(block[483:495])


def sparse_extension(block: bytes) -> tuple[list[Extent], bool]:
    """An extension block: its extents, and whether one more follows."""
    return _entries(block, 0, _EXTENSION_ENTRIES), block[504] not in b"\0" + b"0"


def _entries(block: bytes, start: int, count: int) -> list[Extent]:
    extents = []
    for at in range(start, start + 24 * count, 24):
        if not block[at + 12]:
            break
        extents.append((number(block[at : at + 12]), number(block[at + 12 : at + 24])))
    return extents


def pairs(numbers: list[bytes]) -> list[Extent]:
    """Extents from decimal numbers, offset and length in turn."""
    if len(numbers) % 2 or not all(text.isdigit() for text in numbers):
        raise ValueError("has a damaged map of its holes")
    values = [int(text) for text in numbers]
    return list(zip(values[::2], values[1::2], strict=True))


def checked_extents(extents: list[Extent], size_bytes: int, stored_bytes: int) -> list[Extent]:
    """The extents that hold data, where the map can be true: in order, within the file, and as much as is stored."""
    position = 0
    for offset, length in extents:
        if offset < position or length < 0 or offset + length > size_bytes:
            raise ValueError("has a map of its holes that cannot be true")
        position = offset + length
    if sum(length for _, length in extents) != stored_bytes:
        raise ValueError("has a map of its holes that does not fit what is stored")
    return [(offset, length) for offset, length in extents if length]
