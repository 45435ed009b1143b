"""The words of the Linux tape driver: operations, status flags, and how both look as bytes (``mtio.h``)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from custody.tape.drives.protocol import DriveStatus

MTIOCTOP = 0x40086D01
MTIOCGET = 0x80306D02
MTIOCPOS = 0x80086D03

OPERATION = struct.Struct("hxxi")
STATUS = struct.Struct("lllllii")
TELL = struct.Struct("l")

SCSI_TAPE_MAJOR = 9
NO_REWIND_BIT = 0x80
MAX_BLOCK_BYTES = 0xFFFFFF  # a SCSI transfer length has 24 bits
_BLOCK_SIZE_MASK = 0xFFFFFF
_DENSITY_SHIFT = 24


class Op(IntEnum):
    """Operations of MTIOCTOP that are used here or by people's own tools."""

    WEOF = 5
    REW = 6
    OFFL = 7
    NOP = 8
    FSF = 1
    BSF = 2
    FSR = 3
    BSR = 4
    BSFM = 10
    FSFM = 11
    EOM = 12
    ERASE = 13
    SETBLK = 20
    SETDRVBUFFER = 24
    LOCK = 28
    UNLOCK = 29
    LOAD = 30
    COMPRESSION = 32
    SEEK = 22


class Flag(IntFlag):
    """Flags of ``mt_gstat``."""

    EOF = 0x80000000
    BOT = 0x40000000
    EOT = 0x20000000
    EOD = 0x08000000
    WR_PROT = 0x04000000
    ONLINE = 0x01000000
    DR_OPEN = 0x00040000
    IM_REP_EN = 0x00010000
    CLN = 0x00008000


@dataclass(frozen=True)
class MtGet:
    """What MTIOCGET answers. ``fileno`` and ``blkno`` are -1 where the driver has lost count."""

    kind: int
    resid: int
    dsreg: int
    gstat: int
    erreg: int
    fileno: int
    blkno: int

    @classmethod
    def unpack(cls, answer: bytes) -> MtGet:
        """Read the driver's 48 bytes."""
        return cls(*STATUS.unpack(answer))

    @property
    def flags(self) -> Flag:
        """The general status bits; the driver's long is signed, its flags are not."""
        return Flag(self.gstat & 0xFFFFFFFF)

    @property
    def has_cartridge(self) -> bool:
        """False where the drive is open or empty."""
        return not self.flags & Flag.DR_OPEN

    def as_status(self) -> DriveStatus:
        """Say it in the words of the house."""
        flags = self.flags
        return DriveStatus(
            file_number=self.fileno if self.fileno >= 0 else None,
            block_number=self.blkno if self.blkno >= 0 else None,
            block_size_bytes=self.dsreg & _BLOCK_SIZE_MASK,
            online=bool(flags & Flag.ONLINE) and self.has_cartridge,
            write_protected=bool(flags & Flag.WR_PROT),
            at_beginning=bool(flags & Flag.BOT),
            at_filemark=bool(flags & Flag.EOF),
            at_end_of_data=bool(flags & Flag.EOD),
            density=self.dsreg >> _DENSITY_SHIFT & 0xFF,
            has_cartridge=self.has_cartridge,
        )
