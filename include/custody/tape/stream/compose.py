"""Members of our own in a tar stream: small files that tell what a tape file holds."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from custody.faults import os_errors_as_faults
from custody.tape.stream.headers import BLOCK_BYTES

OPENING_NAME = ".custody/target.json"
OPENING_FORMAT = 1
"""Of what the opening member says; a later Custody may say more."""
MANIFEST_NAME = ".custody/manifest.jsonl"
END_OF_ARCHIVE = bytes(2 * BLOCK_BYTES)
_PIECE_BYTES = 1 << 20


def member_blocks(name: str, content: bytes | Path) -> Iterator[bytes]:
    """A file as it stands in a tar stream: header, content, padding. ``content`` is bytes or the file that has them.

    Faults: as the operating system has them; DATA where the file grows or shrinks meanwhile.
    """
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    info.mtime = int(time.time())
    if isinstance(content, bytes):
        info.size = len(content)
        yield info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % BLOCK_BYTES)
        return
    with os_errors_as_faults(str(content)), content.open("rb") as stream:
        info.size = content.stat().st_size
        yield info.tobuf(tarfile.GNU_FORMAT)
        left = info.size
        while left and (piece := stream.read(min(_PIECE_BYTES, left))):
            left -= len(piece)
            yield piece
        yield bytes(left + -info.size % BLOCK_BYTES)
