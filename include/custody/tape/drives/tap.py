"""The records of a SIMH tape image, and the head's memory: nothing here knows how a drive behaves."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from custody.tape.drives.mtio import MAX_BLOCK_BYTES

LENGTH = struct.Struct("<I")
FILEMARK = LENGTH.pack(0)
FRAMING_BYTES = 2 * LENGTH.size
END_OF_MEDIUM = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Record:
    """A record of an image: a block (``length`` > 0) or a filemark (0), and where it begins and ends."""

    start: int
    length: int
    end: int

    @property
    def is_mark(self) -> bool:
        """Whether it is a filemark."""
        return self.length == 0


def record_bytes(length: int) -> int:
    """What a block of this length takes in an image."""
    return FRAMING_BYTES + length + length % 2


def record_at(descriptor: int, offset: int, size: int) -> Record | None:
    """The record that begins here; None at end of data, which is also where a torn record begins.

    :param size: of the image.
    """
    header = os.pread(descriptor, LENGTH.size, offset)
    if len(header) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(header)
    if length == 0:
        return Record(offset, 0, offset + LENGTH.size)
    end = offset + record_bytes(length)
    if length > MAX_BLOCK_BYTES or end > size:
        return None
    if os.pread(descriptor, LENGTH.size, end - LENGTH.size) != header:
        return None
    return Record(offset, length, end)


def record_before(descriptor: int, offset: int) -> Record | None:
    """The record that ends here; None at the beginning of the tape."""
    if offset < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(os.pread(descriptor, LENGTH.size, offset - LENGTH.size))
    start = offset - (record_bytes(length) if length else LENGTH.size)
    return Record(max(start, 0), length, offset)


_IDLE, _READING, _CUTTING, _WRITING = range(4)
_STATE = struct.Struct("<8s8s5q7i4x")
_MAGIC = b"CUSTAPE1"


@dataclass
class Head:
    """Where the head is and what the driver remembers between two openings. The shim of the tests shares it.

    :param boot: of which boot of the machine this is; after another one, a drive has lost its position.
    :param link: inode and change time of the link ``loaded``: another cartridge is another link.
    :param offset: of the head in the image.
    :param blocks: data blocks before the head, over the whole tape; ``marks``: filemarks before it.
    :param file: filemarks before the head as the driver counts, -1 unknown; ``block`` likewise.
    :param eof: the driver's end-of-file state; ``rw``: what was done last.
    """

    boot: bytes
    link: tuple[int, int]
    offset: int = 0
    blocks: int = 0
    marks: int = 0
    file: int = -1
    block: int = -1
    eof: int = 0
    rw: int = _IDLE
    block_size: int = 0
    access: int = 0
    opener: int = 0

    IDLE = _IDLE
    READING = _READING
    CUTTING = _CUTTING  # about to cut off what lies behind the head: after a kill, either end is right
    WRITING = _WRITING

    def pack(self) -> bytes:
        """As it lies in the drive's ``state``."""
        return _STATE.pack(
            _MAGIC,
            self.boot,
            *self.link,
            self.offset,
            self.blocks,
            self.marks,
            self.file,
            self.block,
            self.eof,
            self.rw,
            self.block_size,
            self.access,
            self.opener,
        )

    @classmethod
    def unpack(cls, raw: bytes) -> Head | None:
        """Read a state; None where it is none."""
        if len(raw) != _STATE.size or raw[:8] != _MAGIC:
            return None
        _, boot, inode, changed, offset, blocks, marks, *rest = _STATE.unpack(raw)
        return cls(boot, (inode, changed), offset, blocks, marks, *rest)

    def forget_position(self) -> None:
        """As after a reset: at the beginning, without knowing it."""
        self.offset = self.blocks = self.marks = 0
        self.file = self.block = -1
        self.eof = 0
        self.rw = _IDLE


def boot_mark() -> bytes:
    """Eight bytes that tell one boot of this machine from another."""
    return Path("/proc/sys/kernel/random/boot_id").read_bytes()[:8]
