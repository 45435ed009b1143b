"""A tape file written and read: what is on the tape is what tar made, with our members around it."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from custody.faults import Fault, FaultKind
from custody.tape.drives import cartridges, changer, open_drive
from custody.tape.members import Member
from custody.tape.stream.read import read_tape_file
from custody.tape.stream.spool import ManifestSpool
from custody.tape.stream.write import OwnMember, Written, write_tape_file

BLOCK = 1 << 16
HEAD = [(".custody/target.json", b'{"target": "x"}\n')]


class Writer:
    """Writes with what the tests have in common."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, drive: Any, source: Any, **options: Any) -> Written:
        options = {"head": HEAD, "block_bytes": BLOCK, "buffer_bytes": 8 * BLOCK} | options
        source = io.BytesIO(source) if isinstance(source, bytes) else source
        return write_tape_file(drive, source, spool_path=self.directory / "manifest", **options)


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


def read(drive: Any, limit_bytes: int | None, **options: Any) -> tuple[Any, list[Member]]:
    found: list[Member] = []
    options = {"block_bytes": BLOCK} | options
    return read_tape_file(drive, found.append, limit_bytes=limit_bytes, **options), found


def test_what_is_written_is_what_tar_made(
    shared_tree: Path, tar: Any, write: Writer, memory_drive: Any, tmp_path: Path
) -> None:
    stream = tar(shared_tree, "--format=gnu", "--sparse", "-b", "2048")
    drive = memory_drive()
    seen: list[int] = []
    written = write(drive, stream, progress=seen.append)
    content = drive.content
    assert written.size_bytes == len(content) == sum(seen)
    assert written.blocks == len(drive.blocks)
    assert all(len(block) == BLOCK for block in drive.blocks[:-1])
    assert len(drive.blocks[-1]) % 512 == 0
    assert (drive.marks, written.is_end_of_tape) == (1, False)
    payload = stream.rstrip(b"\0")
    assert content.find(payload) == 1024  # behind the opening member, byte for byte
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        names = archive.getnames()
        manifest = archive.extractfile(".custody/manifest.jsonl")
        assert manifest is not None
        assert manifest.read() == written.manifest.path.read_bytes()
    assert (names[0], names[-1]) == (".custody/target.json", ".custody/manifest.jsonl")
    assert written.members == len(names) - 1
    assert content.endswith(bytes(1024))
    difference = subprocess.run(["tar", "-d", "-f", "-", "-C", "/"], input=content, capture_output=True, check=False)
    complaints = [
        line for line in difference.stderr.splitlines() if b".custody" not in line and b"previous" not in line
    ]
    assert complaints == []
    assert [line for line in difference.stdout.splitlines() if b".custody" not in line] == []

    result, found = read(drive, written.size_bytes, manifest_path=tmp_path / "from tape")
    assert result.is_complete
    assert result.damage is None
    assert result.opening == HEAD[0][1]
    assert result.manifest is not None
    assert list(result.manifest) == list(written.manifest) == found[:-1]
    assert (result.size_bytes, result.blocks, result.members) == (len(content), len(drive.blocks), len(names))


def test_a_real_image_gives_back_what_it_was_given(shared_tree: Path, tar: Any, write: Writer, tmp_path: Path) -> None:
    stream = tar(shared_tree, "--format=gnu", "--sparse")
    image = tmp_path / "TAPE01.tap"
    cartridges.make_cartridge(image)
    cartridges.make_drive(tmp_path / "drive")
    changer.load(tmp_path / "drive", image)
    drive = open_drive(str(tmp_path / "drive"), writable=True)
    drive.set_block_size(0)
    drive.rewind()
    written = write(drive, stream)
    drive.rewind()
    result, found = read(drive, None)
    assert result.is_complete
    assert result.ended_at_filemark
    assert found[:-1] == list(written.manifest)
    drive.close()


def test_an_image_that_is_full_ends_the_tape(shared_tree: Path, tar: Any, write: Writer, tmp_path: Path) -> None:
    image = tmp_path / "TAPE01.tap"
    cartridges.make_cartridge(image, capacity_bytes=20 * BLOCK, early_warning_bytes=4 * BLOCK)
    cartridges.make_drive(tmp_path / "drive")
    changer.load(tmp_path / "drive", image)
    drive = open_drive(str(tmp_path / "drive"), writable=True)
    drive.set_block_size(0)
    drive.rewind()
    written = write(drive, tar(shared_tree, "--format=gnu"))
    assert written.is_end_of_tape
    drive.rewind()
    result, _ = read(drive, written.size_bytes)
    assert (result.size_bytes, result.blocks) == (written.size_bytes, written.blocks)
    assert not result.is_complete
    drive.close()


@pytest.mark.parametrize("size", [0, 1, 511, 512, 63_000, 64_000, 65_536, 130_000])
def test_every_place_that_the_end_can_fall_on(write: Writer, memory_drive: Any, size: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("file")
        info.size = size
        archive.addfile(info, io.BytesIO(os.urandom(size)))
    drive = memory_drive()
    written = write(drive, out.getvalue())
    result, found = read(drive, written.size_bytes)
    assert result.is_complete
    assert found[1].size_bytes == size


def test_zeros_without_end_behind_an_archive_block_nobody(
    tar: Any, write: Writer, memory_drive: Any, tree: Path
) -> None:
    stream = tar(tree, "--format=gnu", "--sparse")
    drive = memory_drive()
    written = write(drive, stream + bytes(40 * BLOCK))
    assert read(drive, written.size_bytes)[0].is_complete


def test_at_the_end_of_tape_it_stops_at_the_first_refusal(
    shared_tree: Path, tar: Any, write: Writer, memory_drive: Any
) -> None:
    stream = tar(shared_tree, "--format=gnu")
    for capacity in (0, 1, 20):
        drive = memory_drive(capacity_blocks=capacity)
        written = write(drive, stream)
        assert written.is_end_of_tape
        assert (written.blocks, written.size_bytes) == (capacity, capacity * BLOCK)
        assert (drive.refused, drive.marks) == (1, 1)
        assert not read(drive, None)[0].is_complete


def test_a_source_that_ends_early_is_damage_and_the_reason_of_its_program_comes_first(
    shared_tree: Path, tar: Any, write: Writer, memory_drive: Any
) -> None:
    stream = tar(shared_tree, "--format=gnu")
    drive = memory_drive()
    with pytest.raises(Fault, match="ends") as caught:
        write(drive, stream[: len(stream) // 2])
    assert caught.value.kind is FaultKind.DATA
    assert drive.marks == 0

    def ended() -> None:
        raise Fault(FaultKind.TRANSIENT, "host", "the connection broke")

    with pytest.raises(Fault, match="connection broke"):
        write(memory_drive(), stream[: len(stream) // 2], source_ended=ended)
    with pytest.raises(Fault, match="connection broke"):
        write(memory_drive(), stream, source_ended=ended)


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(("tape-", "digest"))}


def test_a_drive_that_fails_ends_all_threads(shared_tree: Path, tar: Any, write: Writer, memory_drive: Any) -> None:
    def fail(number: int) -> None:
        if number == 7:
            raise Fault(FaultKind.DATA, "drive", "broke")

    with pytest.raises(Fault, match="broke"):
        write(memory_drive(before_write=fail), tar(shared_tree, "--format=gnu"))
    assert not _threads()


def test_a_silent_source_can_be_stopped(write: Writer, memory_drive: Any) -> None:
    reading, writing = os.pipe()
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    with os.fdopen(reading, "rb") as source, pytest.raises(Fault) as caught:
        write(memory_drive(), source, stop=stop)
    os.close(writing)
    assert caught.value.kind is FaultKind.CANCELLED
    assert time.monotonic() - began < 5
    assert not _threads()


def test_a_slow_source_is_an_under_run_not_a_failure(tree: Path, tar: Any, write: Writer, memory_drive: Any) -> None:
    stream = tar(tree, "--format=gnu")
    reading, writing = os.pipe()

    def trickle() -> None:
        with os.fdopen(writing, "wb") as out:
            out.write(stream[: 20 * BLOCK])
            out.flush()
            time.sleep(0.3)
            out.write(stream[20 * BLOCK :])

    thread = threading.Thread(target=trickle)
    thread.start()
    drive = memory_drive()
    with os.fdopen(reading, "rb") as source:
        written = write(drive, source)
    thread.join()
    assert written.underruns >= 1
    assert read(drive, written.size_bytes)[0].is_complete


def test_a_tail_of_ones_own(tree: Path, tar: Any, write: Writer, memory_drive: Any, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(30 * BLOCK + 5))

    def tail(spool: ManifestSpool) -> Iterable[OwnMember]:
        yield ".custody/note", b"members: %d" % spool.members
        yield ".custody/large", large

    drive = memory_drive()
    written = write(drive, tar(tree, "--format=gnu"), tail=tail)
    with tarfile.open(fileobj=io.BytesIO(drive.content)) as archive:
        note, copy = archive.extractfile(".custody/note"), archive.extractfile(".custody/large")
        assert note is not None and copy is not None
        assert note.read() == b"members: %d" % written.members
        assert copy.read() == large.read_bytes()


# -- reading --------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_tape(tree: Path, tar: Any, write: Writer, memory_drive: Any) -> Iterator[bytes]:
    """The bytes of a good tape file."""
    drive = memory_drive()
    write(drive, tar(tree, "--format=gnu", "--sparse"))
    yield drive.content


@pytest.mark.parametrize("block_bytes", [512, 10_240, BLOCK])
def test_blocks_of_any_size_are_read(on_tape: bytes, memory_drive: Any, block_bytes: int) -> None:
    drive = memory_drive.holding(on_tape, block_bytes)
    result, _ = read(drive, len(on_tape))
    assert result.is_complete
    assert not result.ended_at_filemark  # nothing behind the stated bytes is asked for
    assert drive.position == len(drive.blocks)


def test_a_tape_file_that_is_too_short_or_too_long_is_not_complete(on_tape: bytes, memory_drive: Any) -> None:
    short, found = read(memory_drive.holding(on_tape[: -3 * BLOCK]), len(on_tape))
    assert not short.is_complete
    assert short.damage is not None and short.damage.kind is FaultKind.DATA
    assert found
    longer, _ = read(memory_drive.holding(on_tape), len(on_tape) + 512)
    assert longer.damage is not None and "where the catalogue has" in str(longer.damage)
    longer, _ = read(memory_drive.holding(on_tape), len(on_tape) - 512)
    assert longer.damage is not None
    unmarked = memory_drive.holding(on_tape)
    unmarked.marks = 0
    result, _ = read(unmarked, None)
    assert result.is_complete
    assert not result.ended_at_filemark


def test_members_before_the_damage_are_told(on_tape: bytes, memory_drive: Any) -> None:
    whole = read(memory_drive.holding(on_tape), None)[1]
    broken = bytearray(on_tape)
    broken[whole[10].offset_bytes + 5] ^= 1
    result, found = read(memory_drive.holding(bytes(broken)), len(on_tape))
    assert found == whole[:10]
    assert result.damage is not None and f"at byte {whole[10].offset_bytes}" in str(result.damage)
    assert result.manifest is None


def test_a_fault_of_the_drive_or_of_the_caller_is_raised(on_tape: bytes, memory_drive: Any) -> None:
    def fail(number: int) -> None:
        if number == 5:
            raise Fault(FaultKind.DATA, "drive", "cannot read block 5")

    with pytest.raises(Fault, match="block 5"):
        read(memory_drive(blocks=memory_drive.holding(on_tape).blocks, before_read=fail), None)

    def refuse(member: Member) -> None:
        raise Fault(FaultKind.CONFLICT, "lease", "is lost")

    with pytest.raises(Fault, match="is lost"):
        read_tape_file(memory_drive.holding(on_tape), refuse, limit_bytes=None, block_bytes=BLOCK)
    assert not _threads()


def test_reading_can_be_stopped(on_tape: bytes, memory_drive: Any, soon: Callable[[threading.Event], None]) -> None:
    stop = threading.Event()

    def stop_at_five(number: int) -> None:
        if number == 5:
            stop.set()

    drive = memory_drive.holding(on_tape)
    drive.before_read = stop_at_five
    with pytest.raises(Fault) as caught:
        read(drive, None, stop=stop)
    assert caught.value.kind is FaultKind.CANCELLED


def test_a_manifest_that_is_not_the_last_member_is_none(memory_drive: Any, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in (".custody/manifest.jsonl", "other"):
            archive.addfile(tarfile.TarInfo(name))
    result, _ = read(memory_drive.holding(out.getvalue()), None, manifest_path=tmp_path / "m")
    assert result.is_complete
    assert result.manifest is None
