"""What a tape drive can do, whichever one it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


class EndOfTape(Exception):
    """The drive refused a block (first ENOSPC): nothing of it is on the tape, and nothing more may be tried."""


class EndOfData(Exception):
    """Nothing is recorded from here on (a blank check)."""


@dataclass(frozen=True)
class DriveStatus:
    """What a drive says of itself (MTIOCGET).

    :param file_number: tape files before the head, from 0; None where the drive has lost count: rewind first.
    :param block_number: blocks before the head within the file; None where unknown.
    :param block_size_bytes: 0 in variable mode.
    :param online: a cartridge is in and ready; while one is being loaded, ``has_cartridge`` only.
    """

    file_number: int | None
    block_number: int | None
    block_size_bytes: int
    online: bool
    write_protected: bool
    at_beginning: bool
    at_filemark: bool
    at_end_of_data: bool
    density: int = 0
    has_cartridge: bool = True


@dataclass(frozen=True)
class DriveHealth:
    """What a drive reports of its own state; everything is optional, as drives differ.

    :param alerts: TapeAlert flags that are up, by number (1 to 64) with their names.
    :param counters: error counters and volume statistics by name.
    :param remaining_bytes: native room left on the cartridge.
    :param encryption: "on" or "off"; None where the drive cannot say.
    :param encryption_key: description of the key (never the key).
    """

    alerts: Mapping[int, str] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    remaining_bytes: int | None = None
    serial: str | None = None
    encryption: str | None = None
    encryption_key: str | None = None


class Drive(Protocol):
    """One open drive, held by one process from its opening to :meth:`close`.

    Every method raises a :class:`~custody.faults.Fault` that names the device: CONFLICT where another process has it,
    NEEDS_HUMAN without a cartridge or at a write-protected one, DATA at an I/O error, CONFIG at a wrong call.
    """

    name: str

    def status(self) -> DriveStatus:
        """Ask where the head is and what state drive and cartridge are in."""
        ...

    def rewind(self) -> None:
        """Go to file 0, block 0."""
        ...

    def forward_files(self, count: int) -> None:
        """Space over ``count`` filemarks, ending behind the last. Raises :class:`EndOfData` where there are fewer."""
        ...

    def to_end_of_data(self) -> None:
        """Go behind the last thing recorded; the file number may be unknown (None) or wrong afterwards."""
        ...

    def read_block(self, buffer: memoryview) -> int:
        """Read one block into ``buffer``; its length, or 0 at a filemark (the head is then behind it).

        Raises :class:`EndOfData` where nothing is recorded; DATA where the block is larger than the buffer (it is
        then skipped by the drive).
        """
        ...

    def write_block(self, block: memoryview | bytes) -> None:
        """Write one block. Raises :class:`EndOfTape` where the drive refuses it at early warning or later."""
        ...

    def write_filemarks(self, count: int = 1) -> None:
        """Write filemarks and flush what the drive holds; allowed behind early warning. 0 only flushes."""
        ...

    def set_block_size(self, size_bytes: int) -> None:
        """0 for variable mode, which Custody uses; it stays for the next user, so every session sets it."""
        ...

    def set_compression(self, on: bool) -> bool:
        """Switch compression; False where the drive cannot."""
        ...

    def health(self) -> DriveHealth:
        """Alerts, counters and encryption state; reading alerts clears them in the drive."""
        ...

    def unload(self) -> None:
        """Rewind and put the cartridge out."""
        ...

    def close(self) -> None:
        """Give the drive back. A tape file that was being written is ended by a filemark first."""
        ...
