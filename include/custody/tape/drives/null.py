"""A drive that forgets: for benchmarks of everything in front of a drive."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from custody.tape.drives.protocol import DriveHealth, DriveStatus, EndOfData


class NullDrive:
    """``/dev/null`` with positions: takes every block, has nothing to read."""

    def __init__(self, name: str = "null:") -> None:
        self.name = name
        self.written_bytes = 0
        self._file = 0
        self._block = 0
        self._block_size_bytes = 0
        self._descriptor = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def status(self) -> DriveStatus:
        """Where the head would be."""
        at_beginning = self._file == self._block == 0
        at_filemark = self._block == 0 and not at_beginning
        return DriveStatus(
            self._file, self._block, self._block_size_bytes, True, False, at_beginning, at_filemark, self._block == 0
        )

    def rewind(self) -> None:
        """Go to file 0, block 0."""
        self._file = self._block = 0

    def forward_files(self, count: int) -> None:
        """Always goes: nobody knows what is there."""
        self._file += count
        self._block = 0

    def to_end_of_data(self) -> None:
        """It is always there."""

    def read_block(self, buffer: memoryview) -> int:
        """Raise :class:`EndOfData`."""
        raise EndOfData(f"{self.name}: nothing is ever recorded here")

    def write_block(self, block: memoryview | bytes) -> None:
        """Take a block and forget it."""
        self.written_bytes += os.write(self._descriptor, block)
        self._block += 1

    def write_filemarks(self, count: int = 1) -> None:
        """Count filemarks."""
        if count:
            self._file += count
            self._block = 0

    def set_block_size(self, size_bytes: int) -> None:
        """Remember it."""
        self._block_size_bytes = size_bytes

    def set_compression(self, on: bool) -> bool:
        """It cannot: False."""
        return False

    def health(self) -> DriveHealth:
        """Nothing to report."""
        return DriveHealth()

    def unload(self) -> None:
        """Rewind."""
        self.rewind()

    def close(self) -> None:
        """Give it back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
