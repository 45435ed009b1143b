"""What the tests of the stream share: a directory with everything that a tar can hold, and a drive in memory."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from custody.tape.drives.protocol import DriveStatus, EndOfData, EndOfTape

ODD_NAMES = [
    b"plain",
    b"two words",
    b"new\nline",
    b"back\\slash \\n \\001",
    b"tab\t and \x07",
    b"\xff\xfe not utf-8",
    "größe \U0001f4fc".encode(),
    "line\u2028separator".encode(),
    b"-rf",
    b"*",
    b"c[1]",
    b"c1",
    b"?",
    b"'\"$(id)`id`",
    b" leading and trailing ",
    b"x" * 255,
    b"y" * 100,
    b"z" * 101,
]


@dataclass
class MemoryDrive:
    """One tape file in memory, by the rules of a drive: blocks keep their sizes, a refused block is not there."""

    blocks: list[bytes] = field(default_factory=list)
    marks: int = 0
    capacity_blocks: int | None = None
    position: int = 0
    refused: int = 0
    name: str = "memory"
    before_write: Callable[[int], None] = lambda number: None
    before_read: Callable[[int], None] = lambda number: None

    def write_block(self, block: memoryview | bytes) -> None:
        assert self.marks == 0, "a block behind the filemark"
        assert not self.refused, "a block after one was refused"
        self.before_write(len(self.blocks))
        if self.capacity_blocks is not None and len(self.blocks) >= self.capacity_blocks:
            self.refused += 1
            raise EndOfTape(self.name)
        self.blocks.append(bytes(block))

    def write_filemarks(self, count: int = 1) -> None:
        self.marks += count

    def read_block(self, buffer: memoryview) -> int:
        self.before_read(self.position)
        if self.position < len(self.blocks):
            block = self.blocks[self.position]
            buffer[: len(block)] = block
            self.position += 1
            return len(block)
        if self.marks and self.position == len(self.blocks):
            self.position += 1
            return 0
        raise EndOfData(self.name)

    def status(self) -> DriveStatus:
        return DriveStatus(0, self.position, 0, True, False, self.position == 0, False, False)

    @property
    def content(self) -> bytes:
        return b"".join(self.blocks)

    @classmethod
    def holding(cls, content: bytes, block_bytes: int = 1 << 16) -> MemoryDrive:
        blocks = [content[at : at + block_bytes] for at in range(0, len(content), block_bytes)]
        return cls(blocks=blocks, marks=1)


@pytest.fixture
def memory_drive() -> type[MemoryDrive]:
    """The class of drives in memory."""
    return MemoryDrive


@pytest.fixture
def odd_names() -> list[bytes]:
    """Names that have broken somebody's script."""
    return ODD_NAMES


def make_tree(top: Path) -> Path:
    """Make a target with members of every kind; returns it."""
    target = top / "target"
    target.mkdir()
    raw = os.fsencode(target)
    for number, name in enumerate(ODD_NAMES):
        with open(raw + b"/" + name, "wb") as stream:
            stream.write(os.urandom(37 * number * number))
    deep = target / "/".join(["d" * 60] * 5)
    deep.mkdir(parents=True)
    (deep / ("n" * 90)).write_bytes(b"deep")
    (target / "empty directory").mkdir(mode=0o1777)
    (target / "empty directory").chmod(0o1777)
    (target / "large").write_bytes(os.urandom(2_500_000))
    os.link(target / "large", target / "zz second name")
    os.link(target / "plain", deep / "linked from afar")
    os.symlink("plain", target / "link")
    os.symlink("/nowhere/" + "l" * 300, target / "long dangling link")
    os.symlink(b"\xff\n\\", raw + b"/odd link")
    os.mkfifo(target / "fifo", 0o640)
    if os.geteuid() == 0:
        os.mknod(target / "character", 0o600 | 0o020000, os.makedev(1, 300))
        os.mknod(target / "block", 0o600 | 0o060000, os.makedev(259, 70000))
        os.chown(target / "c1", 3_000_000, 70_000)
    (target / "c[1]").chmod(0o4711)
    _make_sparse(target)
    os.utime(target / "plain", ns=(0, -1_500_000_000))
    os.utime(target / "two words", ns=(0, 5_000_000_000 * 10**9 + 1))
    return target


def _make_sparse(target: Path) -> None:
    with (target / "sparse").open("wb") as stream:  # holes at both ends, and more extents than one header holds
        for number in range(1, 121):
            stream.seek(number * 20_000)
            stream.write(bytes([number]) * 4096)
        stream.truncate(120 * 20_000 + 100_000)
    with (target / "all hole").open("wb") as stream:
        stream.truncate(1_000_001)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A target with members of every kind."""
    return make_tree(tmp_path)


@pytest.fixture(scope="session")
def shared_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, for tests that only read it."""
    return make_tree(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def tar() -> Callable[..., bytes]:
    """Run GNU tar on a directory's content; its output."""

    def run(target: Path, *options: str) -> bytes:
        argv = ["tar", "-c", "-f", "-", *options, "-C", "/", "--", str(target).lstrip("/")]
        return subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout

    return run


@pytest.fixture
def soon() -> Callable[[threading.Event], None]:
    """Wait for an event that must come."""

    def wait(event: threading.Event) -> None:
        assert event.wait(20), "it does not come"

    return wait
