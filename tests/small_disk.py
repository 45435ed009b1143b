"""A small disk of a test's own: one that is full, read-only, or another than the one beside it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.need import need


@contextmanager
def mounted(directory: Path, *options: str) -> Iterator[Path]:
    """A file system of its own on a directory: ``size=8m``, ``ro``. Only root may make one."""
    argv = [need("mount"), "-t", "tmpfs", "-o", ",".join(options) or "size=8m", "custody-test", str(directory)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"may not mount a disk: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run([need("umount"), "-l", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Write until not a byte more fits; the file that took the room is returned."""
    path = directory / "fills-the-disk"
    with path.open("wb", buffering=0) as stream:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while stream.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
    return path
