"""Ours, and Python's tarfile, for bench/tape.py.

``tape_ours.py archive DIRECTORY``, ``tape_ours.py tarfile DIRECTORY``, ``tape_ours.py confirm FILE``,
``tape_ours.py evict DIRECTORY``.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO

BLOCK_BYTES = 1 << 20
BUFFER_BYTES = 256 << 20


def archive(directory: str) -> None:
    """Every member with md5 and sha256, to a drive that forgets."""
    from custody.host import LocalHost
    from custody.tape.drives.null import NullDrive
    from custody.tape.stream.source import TarSource
    from custody.tape.stream.write import write_tape_file

    with (
        tempfile.TemporaryDirectory() as home,
        NullDrive() as drive,
        TarSource(LocalHost(), os.fsencode(directory)) as source,
    ):
        written = write_tape_file(
            drive,
            source.stream,
            spool_path=Path(home) / "manifest",
            head=[(".custody/target.json", b"{}")],
            buffer_bytes=BUFFER_BYTES,
            source_ended=source.ended,
        )
        print(written.members, written.size_bytes, f"{written.rate_bytes_s / 1e6:.0f} MB/s")


class _HashedFile:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._md5 = hashlib.md5(usedforsecurity=False)

    def read(self, size: int = -1) -> bytes:
        piece = self._stream.read(size)
        self._md5.update(piece)
        return piece


def with_tarfile(directory: str) -> None:
    """Every file with md5, as one would write it."""
    with open(os.devnull, "wb") as out, tarfile.open(fileobj=out, mode="w|", bufsize=BLOCK_BYTES) as made:
        for path in sorted(Path(directory).rglob("*")):
            info = made.gettarinfo(path)
            if info.isreg():
                with path.open("rb") as stream:
                    made.addfile(info, _HashedFile(stream))  # type: ignore[arg-type]
            else:
                made.addfile(info)


class FileDrive:
    """A tape file that lies in a file."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def read_block(self, buffer: memoryview) -> int:
        """The next block."""
        return os.readv(self._descriptor, [buffer])


def confirm(path: str) -> None:
    """Every member with md5 and sha256, from a drive."""
    from custody.tape.stream.read import read_tape_file

    members: list[object] = []
    read = read_tape_file(FileDrive(path), members.append, limit_bytes=Path(path).stat().st_size)  # type: ignore[arg-type]
    if not read.is_complete:
        raise SystemExit(str(read.damage))


def evict(directory: str) -> None:
    """Put the files out of the cache."""
    for path in Path(directory).rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


if __name__ == "__main__":
    {"archive": archive, "tarfile": with_tarfile, "confirm": confirm, "evict": evict}[sys.argv[1]](sys.argv[2])
