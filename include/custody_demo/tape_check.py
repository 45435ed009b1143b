"""What lies on virtual cartridges, read with nothing but the public formats: SIMH tape images of tar archives."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CUSTODYS_OWN = ".custody/"


@dataclass(frozen=True)
class OnTape:
    """One file of one tape file."""

    tape: str
    file_number: int
    path: str
    md5: str
    size_bytes: int


def tape_files(image: Path) -> Iterator[bytes]:
    """The content of every tape file of an image; what has no filemark behind it is not one."""
    found = bytearray()
    with image.open("rb") as stream:
        while len(head := stream.read(4)) == 4:
            length = int.from_bytes(head, "little")
            if length == 0:
                yield bytes(found)
                found.clear()
                continue
            found += stream.read(length)
            stream.seek(length % 2 + 4, 1)


def files_on(image: Path) -> Iterator[OnTape]:
    """Every regular file on an image with its md5. A tape file that the end of the tape cut off is left out."""
    tape = image.name.removesuffix(".tap")
    for number, content in enumerate(tape_files(image)):
        if not content.endswith(bytes(1024)):
            continue
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isreg() else None
                if stream is not None and not member.name.startswith(CUSTODYS_OWN):
                    read = stream.read()
                    yield OnTape(tape, number, f"/{member.name}", hashlib.md5(read).hexdigest(), len(read))  # noqa: S324
