"""The embedded drive: its files, its planned faults, and what is left after a death at any instant."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from crash.summary import REPORTS, CrashReport
from custody.faults import Fault, FaultKind
from custody.tape.drives import EndOfData, EndOfTape, ImageDrive, NullDrive, look_at_drive, open_drive
from custody.tape.drives.cartridges import (
    FaultPlan,
    change_cartridge,
    flip_bit,
    list_cartridges,
    loaded_image,
    make_cartridge,
    make_drive,
    read_cartridge,
    sidecar_of,
)
from custody.tape.drives.changer import load, unload
from services.need import need

ROOT = Path(__file__).parents[4]
BLOCK = 4096


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A drive with a blank cartridge `A.tap` in it, rewound."""
    make_drive(tmp_path / "drive0")
    make_cartridge(tmp_path / "A.tap")
    load(tmp_path / "drive0", tmp_path / "A.tap")
    with ImageDrive(str(tmp_path / "drive0")) as opened:
        opened.rewind()
    return tmp_path / "drive0"


def image_of(drive: Path) -> Path:
    image = loaded_image(drive)
    assert image is not None
    return image


def block(number: int, length: int = BLOCK) -> bytes:
    return (b"%07d|" % number * (length // 8 + 1))[:length]


def read_tape(drive: Path, buffer_bytes: int = 1 << 20) -> list[list[bytes]]:
    """Every file of the tape as its blocks; a last one without a filemark is there too, unless it is empty."""
    buffer = memoryview(bytearray(buffer_bytes))
    files: list[list[bytes]] = [[]]
    with ImageDrive(str(drive)) as opened:
        opened.rewind()
        try:
            while True:
                if length := opened.read_block(buffer):
                    files[-1].append(bytes(buffer[:length]))
                else:
                    files.append([])
        except EndOfData:
            return files if files[-1] else files[:-1]


def fault_of(call: Callable[[], object]) -> Fault:
    with pytest.raises(Fault) as caught:
        call()
    return caught.value


# -- the format ------------------------------------------------------------------------------------------------------


def test_an_image_is_the_public_format_byte_for_byte(drive: Path) -> None:
    with ImageDrive(str(drive), writable=True) as opened:
        opened.write_block(b"abc")
        opened.write_block(b"wxyz")
        opened.write_filemarks()
    assert image_of(drive).read_bytes() == b"\3\0\0\0abc\0\3\0\0\0" + b"\4\0\0\0wxyz\4\0\0\0" + b"\0\0\0\0"


def test_a_tape_written_elsewhere_is_read(drive: Path) -> None:
    other = drive.parent / "other.tap"
    other.write_bytes(b"\1\0\0\0x\0\1\0\0\0" + b"\0\0\0\0" + b"\2\0\0\0yz\2\0\0\0" + b"\0\0\0\0")
    unload(drive)
    load(drive, other)
    assert read_tape(drive) == [[b"x"], [b"yz"]]


@pytest.mark.parametrize("cut", range(1, BLOCK + 8, 97))
def test_a_torn_record_is_the_end_of_data(drive: Path, cut: int) -> None:
    with ImageDrive(str(drive), writable=True) as opened:
        opened.write_block(block(0))
        opened.write_filemarks()
    whole = image_of(drive).stat().st_size
    with ImageDrive(str(drive), writable=True) as opened:
        opened.write_block(block(1))
    unload(drive)
    os.truncate(image_of_name(drive), whole + cut)
    load(drive, image_of_name(drive))
    before = image_of(drive).read_bytes()
    assert read_tape(drive) == [[block(0)]]
    assert image_of(drive).read_bytes() == before, "reading changes nothing"
    with ImageDrive(str(drive), writable=True) as opened:
        opened.rewind()
        opened.forward_files(1)
        opened.write_block(block(2))
    assert read_tape(drive) == [[block(0)], [block(2)]]


def image_of_name(drive: Path) -> Path:
    return drive.parent / "A.tap"


def test_garbage_is_end_of_data_and_never_a_crash(drive: Path) -> None:
    for garbage in (b"\xff" * 64, b"\x80" * 7, b"\1\0\0\0x\0\2\0\0\0", os.urandom(1000), b"\0\0\0"):
        unload(drive)
        image_of_name(drive).write_bytes(garbage)
        load(drive, image_of_name(drive))
        assert all(not blocks for blocks in read_tape(drive))
        with ImageDrive(str(drive)) as opened:
            opened.to_end_of_data()
            opened.rewind()


# -- cartridges and drives -------------------------------------------------------------------------------------------


def test_cartridges_are_made_loaded_listed_and_taken_out(tmp_path: Path) -> None:
    make_drive(tmp_path / "drive0", serial="X")
    for name in ("B 1", "A\n2"):
        make_cartridge(tmp_path / f"{name}.tap", capacity_bytes=1000)
    assert [cartridge.barcode for cartridge in list_cartridges(tmp_path).values()] == ["A\n2", "B 1"]
    load(tmp_path / "drive0", tmp_path / "B 1.tap")
    load(tmp_path / "drive0", tmp_path / "B 1.tap")
    assert loaded_image(tmp_path / "drive0") == (tmp_path / "B 1.tap").resolve()
    full = fault_of(lambda: load(tmp_path / "drive0", tmp_path / "A\n2.tap"))
    assert full.kind is FaultKind.CONFLICT and "B 1.tap" in str(full)
    assert unload(tmp_path / "drive0") == (tmp_path / "B 1.tap").resolve()
    assert unload(tmp_path / "drive0") is None
    assert not look_at_drive(str(tmp_path / "drive0")).has_cartridge


def test_a_cartridge_is_never_made_over_another(tmp_path: Path) -> None:
    (tmp_path / "A.tap").write_bytes(b"precious")
    assert fault_of(lambda: make_cartridge(tmp_path / "A.tap")).kind is FaultKind.CONFLICT
    assert (tmp_path / "A.tap").read_bytes() == b"precious"


def test_one_cartridge_is_not_in_two_drives(drive: Path) -> None:
    make_drive(drive.parent / "drive1")
    load(drive.parent / "drive1", image_of(drive))
    with ImageDrive(str(drive)):
        assert fault_of(lambda: ImageDrive(str(drive.parent / "drive1"))).kind is FaultKind.CONFLICT


def test_a_drive_in_use_is_neither_loaded_nor_unloaded(drive: Path) -> None:
    with ImageDrive(str(drive)):
        assert fault_of(lambda: unload(drive)).kind is FaultKind.CONFLICT
        assert fault_of(lambda: load(drive, drive.parent / "A.tap")).kind is FaultKind.CONFLICT


@pytest.mark.parametrize("text", ["{", "[]", '{"capacity_bytes": -1}', '{"write_protected": 1}', '{"colour": "red"}'])
def test_a_sidecar_that_makes_no_sense_is_named(drive: Path, text: str) -> None:
    sidecar_of(image_of(drive)).write_text(text)
    fault = fault_of(lambda: open_drive(str(drive)))
    assert fault.kind is FaultKind.CONFIG and "A.tap.json" in str(fault)


def test_a_cartridge_without_a_sidecar_has_no_end(drive: Path) -> None:
    sidecar_of(image_of(drive)).unlink()
    assert read_cartridge(image_of(drive)).capacity_bytes is None
    with ImageDrive(str(drive), writable=True) as opened:
        opened.write_block(block(0))
    assert read_tape(drive) == [[block(0)]]


def test_a_device_is_chosen_by_what_it_is(drive: Path, tmp_path: Path) -> None:
    assert isinstance(open_drive("null:"), NullDrive)
    with closing(open_drive(str(drive))) as opened:
        assert isinstance(opened, ImageDrive)
    (tmp_path / "nst0").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name, words in {
        "nst0": "is no tape drive",
        "empty": "no drive.json",
        "missing": "there is no such drive",
    }.items():
        fault = fault_of(lambda name=name: open_drive(str(tmp_path / name), writable=True))
        assert fault.kind is FaultKind.CONFIG and words in str(fault) and name in str(fault)
    assert (tmp_path / "nst0").read_bytes() == b""


def test_a_null_drive_takes_everything_and_has_nothing() -> None:
    with NullDrive() as drive:
        drive.write_block(bytes(1000))
        drive.write_filemarks()
        assert drive.status().file_number == 1 and drive.written_bytes == 1000
        with pytest.raises(EndOfData):
            drive.read_block(memoryview(bytearray(10)))


def test_what_is_no_image_is_no_cartridge(drive: Path) -> None:
    unload(drive)
    for odd in ("/dev/null", str(drive.parent)):
        (drive / "loaded").symlink_to(odd)
        fault = fault_of(lambda: open_drive(str(drive)))
        assert fault.kind is FaultKind.CONFIG and odd in str(fault)
        unload(drive)
    (drive / "loaded").write_bytes(b"")
    assert "no symbolic link" in str(fault_of(lambda: open_drive(str(drive))))
    assert fault_of(lambda: open_drive("a\0b")).kind is FaultKind.CONFIG


def test_a_state_that_is_rubbish_only_loses_the_position(drive: Path) -> None:
    for rubbish in (b"", b"x", os.urandom(88), b"CUSTAPE1" + os.urandom(80)):
        (drive / "state").write_bytes(rubbish)
        with ImageDrive(str(drive)) as opened:
            assert opened.status().file_number is None


def test_a_drive_that_was_given_back_touches_nothing(drive: Path) -> None:
    opened = ImageDrive(str(drive), writable=True)
    opened.rewind()
    opened.close()
    with (drive.parent / "other").open("wb"):  # has the number that the drive's descriptor had
        for call in (opened.rewind, opened.status, lambda: opened.write_block(b"x"), opened.write_filemarks):
            fault = fault_of(call)
            assert fault.kind is FaultKind.CONFIG and "closed" in str(fault)
    assert (drive.parent / "other").read_bytes() == b""


def test_health_is_what_the_sidecar_says_and_alerts_are_told_once(drive: Path) -> None:
    change_cartridge(image_of(drive), alerts=(20, 3), encryption="on", encryption_key="K1", capacity_bytes=1000)
    with ImageDrive(str(drive)) as opened:
        health = opened.health()
        assert health.alerts == {3: "hard error", 20: "clean now"}
        assert (health.remaining_bytes, health.encryption, health.encryption_key) == (1000, "on", "K1")
        assert opened.health().alerts == {}


# -- planned faults --------------------------------------------------------------------------------------------------


def test_a_bad_spot_is_a_data_fault_and_not_the_end(drive: Path) -> None:
    with ImageDrive(str(drive), writable=True) as opened:
        for number in range(4):
            opened.write_block(block(number))
    change_cartridge(image_of(drive), read_error_at_block=2)
    buffer = memoryview(bytearray(BLOCK))
    with ImageDrive(str(drive)) as opened:
        opened.rewind()
        assert [opened.read_block(buffer) for _ in range(2)] == [BLOCK, BLOCK]
        fault = fault_of(lambda: opened.read_block(buffer))
        assert fault.kind is FaultKind.DATA and str(drive) in str(fault)
        assert opened.status().block_number is None


def test_a_write_error_is_a_data_fault_and_not_the_end_of_tape(drive: Path) -> None:
    change_cartridge(image_of(drive), write_error_at_block=1)
    with ImageDrive(str(drive), writable=True) as opened:
        opened.write_block(block(0))
        assert fault_of(lambda: opened.write_block(block(1))).kind is FaultKind.DATA
    assert read_tape(drive) == [[block(0)]]


def test_a_planned_refusal_is_the_end_of_tape(drive: Path) -> None:
    change_cartridge(image_of(drive), no_space_at_block=1)
    with ImageDrive(str(drive), writable=True) as opened:
        opened.write_block(block(0))
        with pytest.raises(EndOfTape):
            opened.write_block(block(1))
    assert read_tape(drive) == [[block(0)]]


def test_flipped_bits_planned_and_done(drive: Path) -> None:
    with ImageDrive(str(drive), writable=True) as opened:
        for number in range(3):
            opened.write_block(block(number))
            opened.write_filemarks()
    flip_bit(image_of(drive), 2, 10)
    change_cartridge(image_of(drive), flip_bit_at_block=1)
    [[first], [second], [third]] = read_tape(drive)
    assert first == block(0)
    for damaged, intact in ((second, block(1)), (third, block(2))):
        assert sum((a ^ b).bit_count() for a, b in zip(damaged, intact, strict=True)) == 1
    assert third[10] != block(2)[10]


def test_a_full_disk_is_not_a_full_tape(drive: Path) -> None:
    disk = drive.parent / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        [need("mount"), "-t", "tmpfs", "-o", "size=64k", "custody-test", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        unload(drive)
        make_cartridge(disk / "B.tap")
        load(drive, disk / "B.tap")
        with ImageDrive(str(drive), writable=True) as opened:
            opened.rewind()
            taken = 0

            def fill() -> None:
                nonlocal taken
                while True:
                    opened.write_block(block(taken, 10_000))
                    taken += 1

            fault = fault_of(fill)
            assert fault.kind is FaultKind.CAPACITY and "B.tap" in str(fault)
        assert taken > 2
        assert read_tape(drive) == [[block(number, 10_000) for number in range(taken)]], "no half block stays"
        unload(drive)
    finally:
        subprocess.run([need("umount"), str(disk)], check=True)


def test_a_limit_on_files_is_a_fault_too(drive: Path) -> None:
    """RLIMIT_FSIZE cuts a write in the middle, as a quota does."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * BLOCK, 3 * BLOCK))
        status = 1
        try:
            with ImageDrive(str(drive), writable=True) as opened:
                for number in range(9):
                    opened.write_block(block(number))
        except Fault:
            status = 7
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert read_tape(drive) == [[block(0), block(1)]]


# -- death -----------------------------------------------------------------------------------------------------------

_WRITER = """
import sys
from custody.tape.drives import ImageDrive
drive = ImageDrive(sys.argv[1], writable=True)
drive.rewind()
for file in range(2):
    for number in range(2):
        drive.write_block((b"%07d|" % (10 * file + number) * 512))
    drive.write_filemarks()
drive.close()
"""
_WRITTEN = [[block(0), block(1)], [block(10), block(11)]]


def _run_writer(drive: Path, *prefix: str) -> int:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "include")}
    argv = [*prefix, sys.executable, "-c", _WRITER, str(drive)]
    return subprocess.run(argv, env=environment, stderr=subprocess.DEVNULL, check=False).returncode


def test_a_kill_after_a_block_fires_once_and_leaves_a_filemark(drive: Path) -> None:
    change_cartridge(image_of(drive), kill_after_block=2)
    assert _run_writer(drive) == -signal.SIGKILL
    assert read_cartridge(image_of(drive)).faults == FaultPlan()
    assert read_tape(drive) == [_WRITTEN[0], [block(10)]]
    assert image_of(drive).read_bytes().endswith(b"\0\0\0\0")
    assert _run_writer(drive) == 0
    assert read_tape(drive) == _WRITTEN


def test_a_power_cut_leaves_no_filemark_and_no_position(drive: Path) -> None:
    change_cartridge(image_of(drive), power_cut_after_block=2)
    assert _run_writer(drive) == -signal.SIGKILL
    for _ in range(2):
        with ImageDrive(str(drive)) as opened:
            assert opened.status().file_number is None
    assert read_tape(drive) == [_WRITTEN[0], [block(10)]]
    assert image_of(drive).read_bytes().endswith(b"|\0\x10\0\0"), "nobody was left to write a filemark"
    assert _run_writer(drive) == 0
    assert read_tape(drive) == _WRITTEN
    assert not read_cartridge(image_of(drive)).power_cut


def test_a_reboot_is_a_power_cut(drive: Path) -> None:
    assert _run_writer(drive) == 0
    change_cartridge(image_of(drive), kill_after_block=2)
    assert _run_writer(drive) == -signal.SIGKILL
    state = drive / "state"
    raw = state.read_bytes()
    state.write_bytes(raw[:8] + b"otherone" + raw[16:])
    assert read_tape(drive) == [_WRITTEN[0], [block(10)]]
    assert not image_of(drive).read_bytes().endswith(b"\0\0\0\0")


def test_a_tape_from_another_drive_gets_the_filemark_of_its_killed_writer(drive: Path) -> None:
    change_cartridge(image_of(drive), kill_after_block=0)
    assert _run_writer(drive) == -signal.SIGKILL
    image = image_of(drive)
    make_drive(drive.parent / "drive1")
    load(drive.parent / "drive1", image)
    assert read_tape(drive.parent / "drive1") == [[block(0)]]
    assert image.read_bytes().endswith(b"\0\0\0\0")


@pytest.mark.crash
def test_no_kill_at_any_call_leaves_half_a_block(drive: Path) -> None:
    strace = need("strace")
    calls = "pwrite64,pwritev,pwritev2,ftruncate,fdatasync"
    seen = set()
    for number in range(1, 100):
        inject = f"inject={calls}:signal=SIGKILL:when={number}"
        argv = [strace, "-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}", "-e", inject]
        ended = _run_writer(drive, *argv)
        files = read_tape(drive)
        seen.add(json.dumps([len(blocks) for blocks in files]))
        assert files in _allowed(), f"killed at call {number}: {[len(blocks) for blocks in files]}"
        if ended == 0:
            break
    assert ended == 0, "the writer never came to its end"
    REPORTS.append(CrashReport("tape image", total=number - 1, points=number - 1, killed=number - 1))
    assert number > 10
    assert {"[1]", "[2]", "[2, 1]", "[2, 2]"} <= seen
    assert read_tape(drive) == _WRITTEN


def _allowed() -> list[list[list[bytes]]]:
    """What may be found after a death: every beginning of what was to be written."""
    first, second = _WRITTEN
    return [[], [first[:1]], [first], [first, second[:1]], [first, second]]


def test_errors_of_the_disk_below_keep_their_class(drive: Path) -> None:
    (drive / "state").unlink()
    (drive / "state").mkdir()
    fault = fault_of(lambda: ImageDrive(str(drive)))
    assert str(drive) in str(fault) and os.strerror(errno.EISDIR) in str(fault)
