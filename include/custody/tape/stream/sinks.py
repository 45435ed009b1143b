"""Who else wants the content of a file while it passes."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Protocol

from custody.faults import os_errors_as_faults


class ContentSink(Protocol):
    """Who else wants the content of a file while it passes."""

    def write_at(self, offset_bytes: int, piece: memoryview) -> None:
        """Take a piece; what no piece covers is a hole. The piece is reused once this returns."""
        ...


class FileSink:
    """Puts a content into a file."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self._path = path

    def write_at(self, offset_bytes: int, piece: memoryview) -> None:
        """See ContentSink."""
        with os_errors_as_faults(str(self._path)):
            self._stream.seek(offset_bytes)
            self._stream.write(piece)

    def close(self) -> None:
        """Close it."""
        with os_errors_as_faults(str(self._path)):
            self._stream.close()


class MemorySink:
    """Keeps a small content."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write_at(self, offset_bytes: int, piece: memoryview) -> None:
        """See ContentSink."""
        self.content[offset_bytes : offset_bytes + len(piece)] = piece
