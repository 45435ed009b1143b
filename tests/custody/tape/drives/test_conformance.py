"""What every drive shows, whichever it is: the same file runs on images, through the shim and on a kernel's st driver.

CUSTODY_TAPE_RIG=shim or vm chooses; test_shim.py and bin/test-tape-vm do so. This file needs no conftest.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from custody.faults import Fault, FaultKind
from custody.tape.drives import Drive, EndOfData, EndOfTape, look_at_drive
from custody.tape.drives.device import TapeDevice
from custody.tape.drives.mtio import Flag, Op
from services.tape_shim.rig import ImageRig, Rig

BLOCK = 65536
BUFFER = 1 << 20
MANY = 200  # blocks; no tape here holds as many


def _rig(home: Path) -> Rig:
    match os.environ.get("CUSTODY_TAPE_RIG", "image"):
        case "vm":
            from tape_vm.rig import VmRig

            return VmRig()
        case "shim":
            drive = Path(os.environ["CUSTODY_TAPE_DRIVE"])  # the shim has read it when this process began
            (drive / "state").unlink(missing_ok=True)
            return ImageRig(home, drive, Path(os.environ["CUSTODY_TAPE_NODE"]))
        case _:
            return ImageRig(home)


@pytest.fixture
def rig(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A drive with a blank cartridge. What it is known to show wrongly is a strict xfail with the reason."""
    made = _rig(tmp_path)
    name = request.node.originalname
    if name in made.differences:
        reason = made.differences[name]
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True, run=name not in made.unsafe))
    made.blank()
    yield made
    made.unload()


def content(number: int, length: int = BLOCK) -> bytes:
    """Bytes that say which block they are."""
    return (b"%08d." % number * (length // 9 + 1))[:length]


def rewound(rig: Rig, *, writable: bool = False) -> TapeDevice:
    device = rig.raw(writable=writable)
    device.operate(Op.REW)
    return device


def write_files(rig: Rig, *blocks: int, length: int = BLOCK) -> None:
    """Files of so many blocks each, one opening for each file as `tar > /dev/nst0` does it; rewound first."""
    with closing(rewound(rig, writable=True)):
        pass
    number = 0
    for count in blocks:
        with closing(rig.raw(writable=True)) as device:
            for _ in range(count):
                assert device.write(content(number, length)) == length
                number += 1


def read_blocks(device: TapeDevice, buffer_bytes: int = BUFFER) -> list[bytes]:
    """All blocks up to the next empty read."""
    return _gather(device.read, buffer_bytes)


def _gather(read: Callable[[memoryview], int], buffer_bytes: int = BUFFER) -> list[bytes]:
    buffer = memoryview(bytearray(buffer_bytes))
    found: list[bytes] = []
    while length := read(buffer):
        found.append(bytes(buffer[:length]))
        assert len(found) < MANY, "the drive reads on and on"
    return found


def position(device: TapeDevice) -> tuple[int, int]:
    got = device.get()
    return got.fileno, got.blkno


def refusal(call: Callable[[], object]) -> int | None:
    """The error number that a raw call is refused with."""
    with pytest.raises(OSError) as caught:
        call()
    return caught.value.errno


# -- blocks ----------------------------------------------------------------------------------------------------------


def test_each_write_is_a_block_of_its_own_length(rig: Rig) -> None:
    lengths = [512, 10240, 4097, 262144, 5, BLOCK]
    with closing(rewound(rig, writable=True)) as device:
        for number, length in enumerate(lengths):
            assert device.write(content(number, length)) == length
        assert position(device) == (0, len(lengths))
    with closing(rewound(rig)) as device:
        assert read_blocks(device) == [content(number, length) for number, length in enumerate(lengths)]


def test_a_block_of_a_mebibyte_goes_there_and_back(rig: Rig) -> None:
    block = os.urandom(1 << 20)
    with closing(rewound(rig, writable=True)) as device:
        assert device.write(block) == len(block)
    with closing(rewound(rig)) as device:
        assert read_blocks(device) == [block]


def test_a_buffer_that_is_too_small_is_enomem_and_the_block_is_skipped(rig: Rig) -> None:
    write_files(rig, 2)
    with closing(rewound(rig)) as device:
        assert refusal(lambda: device.read(memoryview(bytearray(4096)))) == errno.ENOMEM
        assert position(device) == (0, 1)
        assert read_blocks(device) == [content(1)]


def test_fixed_mode_refuses_an_odd_size_and_cuts_a_write_into_blocks(rig: Rig) -> None:
    with closing(rewound(rig, writable=True)) as device:
        device.operate(Op.SETBLK, BLOCK)
        assert refusal(lambda: device.write(bytes(10240))) == errno.EINVAL
        assert device.write(content(0, 4 * BLOCK)) == 4 * BLOCK
        assert position(device) == (0, 4)
        assert device.get().as_status().block_size_bytes == BLOCK
    with closing(rig.raw()) as device:
        assert device.get().as_status().block_size_bytes == BLOCK, "it stays for the next user"
        device.operate(Op.SETBLK, 0)
        device.operate(Op.REW)
        assert [len(block) for block in read_blocks(device)] == [BLOCK] * 4


# -- filemarks and positions -----------------------------------------------------------------------------------------


def test_a_rewound_tape_is_at_file_0_block_0(rig: Rig) -> None:
    with closing(rewound(rig)) as device:
        assert position(device) == (0, 0)
        flags = device.get().flags
        assert Flag.BOT in flags and Flag.ONLINE in flags and Flag.EOF not in flags


def test_closing_after_a_write_leaves_one_filemark(rig: Rig) -> None:
    write_files(rig, 1, 3, 1)
    with closing(rig.raw()) as device:
        assert position(device) == (3, 0)
        assert Flag.EOF in device.get().flags


def test_a_session_without_a_write_leaves_no_filemark(rig: Rig) -> None:
    write_files(rig, 1, 0, 0)
    with closing(rig.raw()) as device:
        assert position(device) == (1, 0)


def test_explicit_filemarks_are_counted_and_closing_adds_none(rig: Rig) -> None:
    with closing(rewound(rig, writable=True)) as device:
        device.write(content(0))
        device.operate(Op.WEOF, 2)
        assert position(device) == (2, 0)
    with closing(rig.raw()) as device:
        assert position(device) == (2, 0)
        device.operate(Op.REW)
        assert read_blocks(device) == [content(0)]
        assert read_blocks(device) == [], "the second mark makes an empty file"
        assert position(device) == (2, 0)


def test_rewinding_after_a_write_ends_the_file(rig: Rig) -> None:
    with closing(rewound(rig, writable=True)) as device:
        device.write(content(0))
        device.operate(Op.REW)
        assert read_blocks(device) == [content(0)]
        assert position(device) == (1, 0)


def test_spacing_over_files_ends_behind_the_mark(rig: Rig) -> None:
    write_files(rig, 2, 2, 2)
    with closing(rewound(rig)) as device:
        device.operate(Op.FSF, 2)
        assert position(device) == (2, 0)
        assert Flag.EOF in device.get().flags
        assert read_blocks(device)[0] == content(4)


def test_spacing_back_ends_before_the_mark_with_the_block_unknown(rig: Rig) -> None:
    write_files(rig, 2, 2, 2)
    with closing(rewound(rig)) as device:
        device.operate(Op.FSF, 2)
        device.operate(Op.BSF, 1)
        assert position(device) == (1, -1)


def test_after_spacing_back_the_mark_is_next(rig: Rig) -> None:
    write_files(rig, 2, 2, 2)
    with closing(rewound(rig)) as device:
        device.operate(Op.FSF, 2)
        device.operate(Op.BSF, 1)
        assert read_blocks(device) == []
        assert position(device) == (2, 0)


def test_bsfm_enters_the_start_of_the_file_again(rig: Rig) -> None:
    write_files(rig, 2, 3, 2)
    with closing(rewound(rig)) as device:
        device.operate(Op.FSF, 1)
        device.read(memoryview(bytearray(BUFFER)))
        assert position(device) == (1, 1)
        device.operate(Op.BSFM, 1)
        assert position(device) == (1, 0)
        assert read_blocks(device)[0] == content(2)


def test_bsfm_past_the_beginning_is_eio(rig: Rig) -> None:
    write_files(rig, 1, 1)
    with closing(rewound(rig)) as device:
        assert refusal(lambda: device.operate(Op.BSFM, 5)) == errno.EIO
        device.operate(Op.REW)
        assert position(device) == (0, 0)


def test_spacing_over_blocks_forth_and_back(rig: Rig) -> None:
    write_files(rig, 4, 1)
    with closing(rewound(rig)) as device:
        device.operate(Op.FSR, 3)
        assert position(device) == (0, 3)
        device.operate(Op.BSR, 2)
        assert position(device) == (0, 1)
        assert read_blocks(device) == [content(1), content(2), content(3)]


def test_spacing_over_blocks_stops_behind_a_mark(rig: Rig) -> None:
    write_files(rig, 4, 1)
    with closing(rewound(rig)) as device:
        assert refusal(lambda: device.operate(Op.FSR, 9)) == errno.EIO
        assert position(device) == (1, 0)
        assert read_blocks(device) == [content(4)]


def test_reading_to_the_mark_moves_to_the_next_file(rig: Rig) -> None:
    write_files(rig, 3, 1)
    with closing(rewound(rig)) as device:
        assert len(read_blocks(device)) == 3
        assert position(device) == (1, 0)
        assert Flag.EOF in device.get().flags
    with closing(rig.raw()) as device:
        assert position(device) == (1, 0)


def test_a_reader_that_stops_early_leaves_the_head_in_the_file(rig: Rig) -> None:
    write_files(rig, 5, 1)
    with closing(rewound(rig)) as device:
        for _ in range(2):
            device.read(memoryview(bytearray(BUFFER)))
    with closing(rig.raw()) as device:
        assert position(device) == (0, 2)


def test_the_position_is_unknown_after_a_change_of_cartridge(rig: Rig) -> None:
    write_files(rig, 1, 1)
    rig.blank()
    with closing(rig.raw()) as device:
        status = device.get().as_status()
        assert (status.file_number, status.block_number) == (None, None)
        assert not status.at_beginning and not status.at_filemark
        device.operate(Op.REW)
        assert position(device) == (0, 0)


# -- end of data -----------------------------------------------------------------------------------------------------


def test_end_of_data_is_a_second_empty_read_and_then_eio(rig: Rig) -> None:
    write_files(rig, 1)
    buffer = memoryview(bytearray(BUFFER))
    with closing(rewound(rig)) as device:
        assert device.read(buffer) == BLOCK
        assert device.read(buffer) == 0
        assert Flag.EOD not in device.get().flags
        assert device.read(buffer) == 0
        assert Flag.EOD in device.get().flags
        assert refusal(lambda: device.read(buffer)) == errno.EIO


def test_a_blank_tape_is_eio_at_once(rig: Rig) -> None:
    with closing(rewound(rig)) as device:
        assert refusal(lambda: device.read(memoryview(bytearray(BUFFER)))) == errno.EIO


def test_spacing_past_the_end_of_data_is_eio_and_says_so(rig: Rig) -> None:
    write_files(rig, 1, 1)
    with closing(rewound(rig)) as device:
        assert refusal(lambda: device.operate(Op.FSF, 9)) == errno.EIO
        assert Flag.EOD in device.get().flags


def test_eom_goes_to_the_end_of_data(rig: Rig) -> None:
    write_files(rig, 1, 1)
    with closing(rewound(rig, writable=True)) as device:
        device.operate(Op.EOM)
        assert Flag.EOD in device.get().flags
        device.write(content(77))
    with closing(rewound(rig)) as device:
        device.operate(Op.FSF, 2)
        assert read_blocks(device) == [content(77)]


def test_eom_knows_the_file_number(rig: Rig) -> None:
    write_files(rig, 1, 1)
    with closing(rewound(rig)) as device:
        device.operate(Op.EOM)
        assert position(device) == (2, -1)


def test_writing_at_a_file_destroys_all_behind_it(rig: Rig) -> None:
    write_files(rig, 2, 2, 2)
    with closing(rewound(rig, writable=True)) as device:
        device.operate(Op.FSF, 1)
        device.write(content(99))
    with closing(rewound(rig)) as device:
        assert read_blocks(device) == [content(0), content(1)]
        assert read_blocks(device) == [content(99)]
        device.operate(Op.REW)
        assert refusal(lambda: device.operate(Op.FSF, 3)) == errno.EIO


def test_writing_within_a_file_keeps_what_is_before(rig: Rig) -> None:
    write_files(rig, 3, 1)
    with closing(rewound(rig, writable=True)) as device:
        device.operate(Op.FSR, 1)
        device.write(content(99))
    with closing(rewound(rig)) as device:
        assert read_blocks(device) == [content(0), content(99)]
        assert position(device) == (1, 0)


def test_a_file_is_appended_at_the_end_of_data(rig: Rig) -> None:
    write_files(rig, 1, 1)
    with closing(rewound(rig, writable=True)) as device:
        device.operate(Op.FSF, 2)
        assert position(device) == (2, 0)
        device.write(content(2))
    with closing(rewound(rig)) as device:
        assert [read_blocks(device) for _ in range(3)] == [[content(0)], [content(1)], [content(2)]]


def test_a_damaged_bit_is_read_as_it_is(rig: Rig) -> None:
    write_files(rig, 2)
    rig.damage(content(1))
    with closing(rewound(rig)) as device:
        first, second = read_blocks(device)
    assert first == content(0)
    assert second != content(1) and len(second) == BLOCK


# -- end of tape -----------------------------------------------------------------------------------------------------

MEGABYTES = 8


def _fill(device: TapeDevice) -> tuple[list[int], int]:
    """Write until the first refusal: numbers of the blocks taken, and the error number."""
    taken: list[int] = []
    for number in range(10 * MEGABYTES << 20 >> 16):
        try:
            device.write(content(number))
        except OSError as error:
            assert error.errno is not None
            return taken, error.errno
        taken.append(number)
    raise AssertionError("the tape has no end")


def test_behind_early_warning_every_second_block_is_refused(rig: Rig) -> None:
    rig.blank(MEGABYTES << 20, early_warning_bytes=1 << 20)
    with closing(rewound(rig, writable=True)) as device:
        taken, refused = _fill(device)
        assert refused == errno.ENOSPC
        after = len(taken) + 1
        assert device.write(content(after)) == BLOCK
        assert refusal(lambda: device.write(content(after + 1))) == errno.ENOSPC
        assert device.write(content(after + 2)) == BLOCK
    with closing(rewound(rig)) as device:
        assert read_blocks(device) == [content(number) for number in [*taken, after, after + 2]], (
            "refused is not on tape"
        )
        assert position(device) == (1, 0), "the mark at close found room"


def test_the_early_warning_is_flagged(rig: Rig) -> None:
    """The last block taken shows end of tape; after the refusal the driver shows end of data."""
    rig.blank(MEGABYTES << 20, early_warning_bytes=1 << 20)
    with closing(rewound(rig, writable=True)) as device:
        before = Flag(0)
        for number in range(10 * MEGABYTES << 20 >> 16):
            before = device.get().flags
            try:
                device.write(content(number))
            except OSError:
                break
        assert Flag.EOT in before and Flag.EOD not in before
        after = device.get().flags
        assert Flag.EOD in after and Flag.EOT not in after


def test_the_physical_end_is_enospc_again_and_again(rig: Rig) -> None:
    rig.blank(1 << 20, early_warning_bytes=BLOCK)
    with closing(rewound(rig, writable=True)) as device:
        taken, refused = _fill(device)
        assert refused == errno.ENOSPC
        more = [_is_taken(device, number) for number in range(len(taken) + 1, len(taken) + 40)]
        assert not any(more[-20:]), "it ends at last"
        assert not any(first and second for first, second in itertools.pairwise(more))


def _is_taken(device: TapeDevice, number: int) -> bool:
    try:
        return bool(device.write(content(number)))
    except OSError as error:
        assert error.errno == errno.ENOSPC
        return False


def test_a_filemark_behind_the_physical_end_is_eio(rig: Rig) -> None:
    rig.blank(16 * (BLOCK + 8) + 3)
    device = rewound(rig, writable=True)
    with pytest.raises(OSError) as caught, closing(device):
        _fill(device)
        for _ in range(2000):
            device.operate(Op.WEOF, 1)
    assert caught.value.errno == errno.EIO


# -- cartridge, opener, process ---------------------------------------------------------------------------------------


def test_a_second_opener_is_refused(rig: Rig) -> None:
    with closing(rewound(rig)):
        assert refusal(lambda: rig.raw()) == errno.EBUSY if _is_kernel(rig) else _conflict(lambda: rig.raw())
        assert _conflict(lambda: rig.drive())
        assert _conflict(lambda: look_at_drive(rig.device))


def _is_kernel(rig: Rig) -> bool:
    return not os.path.isdir(rig.device)


def _conflict(call: Callable[[], object]) -> bool:
    with pytest.raises(Fault) as caught:
        call()
    return caught.value.kind is FaultKind.CONFLICT


def test_an_empty_drive(rig: Rig) -> None:
    rig.unload()
    assert refusal(lambda: rig.raw()) == errno.ENOMEDIUM
    with closing(rig.raw(is_look=True)) as device:
        assert Flag.DR_OPEN in device.get().flags
        assert position(device) == (-1, -1)
    seen = look_at_drive(rig.device)
    assert not seen.online and not seen.has_cartridge
    with pytest.raises(Fault, match="has no cartridge in it") as caught:
        rig.drive()
    assert caught.value.kind is FaultKind.NEEDS_HUMAN


def test_a_write_protected_cartridge_can_only_be_read(rig: Rig) -> None:
    write_files(rig, 1)
    rig.protect(True)
    assert refusal(lambda: rig.raw(writable=True)) == errno.EROFS
    with closing(rewound(rig)) as device:
        assert Flag.WR_PROT in device.get().flags
        assert read_blocks(device) == [content(0)]
    assert look_at_drive(rig.device).write_protected
    with pytest.raises(Fault, match="flip the tab") as caught:
        rig.drive(writable=True)
    assert caught.value.kind is FaultKind.NEEDS_HUMAN
    rig.protect(False)


_KILLED = """
import os, signal, sys
from services.tape_shim.rig import ImageRig
from custody.tape.drives.st import KernelDevice
from custody.tape.drives.image import ImageDevice
device = (ImageDevice if os.path.isdir(sys.argv[1]) else KernelDevice)(sys.argv[1], writable=True)
for number in range(3):
    device.write((b"%08d." % number * 7282)[:65536])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_file_of_a_killed_writer_is_ended_by_a_filemark(rig: Rig) -> None:
    with closing(rewound(rig)):
        pass
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", _KILLED, rig.device], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    with closing(rig.raw()) as device:
        assert position(device) == (1, 0)
        device.operate(Op.REW)
        assert read_blocks(device) == [content(0), content(1), content(2)]


# -- the drive, as the house uses it ----------------------------------------------------------------------------------


def _read_all(drive: Drive) -> list[bytes]:
    return _gather(drive.read_block)


def _recorded(rig: Rig) -> None:
    """Two files, written through the drive."""
    with closing(rig.drive(writable=True)) as drive:
        drive.rewind()
        drive.set_block_size(0)
        for number in (0, 1):
            drive.write_block(content(number))
            drive.write_filemarks()
        status = drive.status()
        assert (status.file_number, status.block_number) == (2, 0)
        assert status.at_filemark and status.online and status.has_cartridge


def test_a_drive_reads_what_it_wrote_and_knows_where_it_ends(rig: Rig) -> None:
    _recorded(rig)
    with closing(rig.drive()) as drive:
        drive.rewind()
        assert _read_all(drive) == [content(0)]
        assert _read_all(drive) == [content(1)]
        for _ in range(3):
            with pytest.raises(EndOfData):
                _read_all(drive)
        drive.rewind()
        drive.forward_files(2)
        assert drive.status().file_number == 2
        with pytest.raises(EndOfData):
            _read_all(drive)
        drive.rewind()
        with pytest.raises(EndOfData):
            drive.forward_files(3)
        drive.rewind()
        assert _read_all(drive) == [content(0)]


def test_a_blank_tape_is_end_of_data_and_no_error(rig: Rig) -> None:
    with closing(rig.drive()) as drive:
        drive.rewind()
        with pytest.raises(EndOfData):
            _read_all(drive)


def test_an_empty_tape_file_is_not_the_end_of_data(rig: Rig) -> None:
    with closing(rig.drive(writable=True)) as drive:
        drive.rewind()
        drive.write_block(content(0))
        drive.write_filemarks(2)
        drive.write_block(content(1))
    with closing(rig.drive()) as drive:
        drive.rewind()
        assert [_read_all(drive) for _ in range(3)] == [[content(0)], [], [content(1)]]
        with pytest.raises(EndOfData):
            _read_all(drive)


def test_closing_a_drive_ends_the_file_it_was_writing(rig: Rig) -> None:
    with closing(rig.drive(writable=True)) as drive:
        drive.rewind()
        drive.write_block(content(0))
        drive.write_filemarks(0)
        drive.write_block(content(1))
        drive.write_filemarks(0)
    with closing(rig.drive()) as drive:
        assert drive.status().file_number == 1
        drive.rewind()
        assert _read_all(drive) == [content(0), content(1)]


def test_a_drive_stops_at_the_first_refusal(rig: Rig) -> None:
    rig.blank(MEGABYTES << 20, early_warning_bytes=1 << 20)
    with closing(rig.drive(writable=True)) as drive:
        drive.rewind()
        taken = 0
        with pytest.raises(EndOfTape):
            while True:
                drive.write_block(content(taken))
                taken += 1
        for _ in range(2):
            with pytest.raises(EndOfTape):
                drive.write_block(content(0))
        drive.write_filemarks()
        assert drive.status().file_number == 1
    with closing(rig.drive()) as drive:
        drive.rewind()
        assert _read_all(drive) == [content(number) for number in range(taken)]


def test_a_block_larger_than_the_buffer_is_a_fault_that_says_so(rig: Rig) -> None:
    _recorded(rig)
    with closing(rig.drive()) as drive:
        drive.rewind()
        with pytest.raises(Fault, match="larger than the 512 bytes") as caught:
            drive.read_block(memoryview(bytearray(512)))
        assert caught.value.kind is FaultKind.DATA
        assert drive.status().block_number == 1


def test_a_drive_for_reading_writes_nothing(rig: Rig) -> None:
    _recorded(rig)
    with closing(rig.drive()) as drive:
        drive.rewind()
        for attempt in (lambda: drive.write_block(content(9)), lambda: drive.write_filemarks()):
            with pytest.raises(Fault, match="for reading only") as caught:
                attempt()
            assert caught.value.kind is FaultKind.CONFIG
        assert _read_all(drive) == [content(0)]
        assert _read_all(drive) == [content(1)]


def test_the_end_of_data_can_be_written_on(rig: Rig) -> None:
    _recorded(rig)
    with closing(rig.drive(writable=True)) as drive:
        drive.rewind()
        drive.to_end_of_data()
        assert drive.status().at_end_of_data
        drive.write_block(content(2))
    with closing(rig.drive()) as drive:
        drive.rewind()
        drive.forward_files(2)
        assert _read_all(drive) == [content(2)]


def test_compression_is_switched_or_refused_and_never_an_error(rig: Rig) -> None:
    with closing(rig.drive(writable=True)) as drive:
        assert drive.set_compression(False) in {True, False}
        drive.rewind()
        drive.write_block(content(0))
        assert drive.health().alerts == {}


def test_an_unloaded_drive_is_empty(rig: Rig) -> None:
    with closing(rig.drive(writable=True)) as drive:
        drive.rewind()
        drive.write_block(content(0))
        drive.unload()
    assert not look_at_drive(rig.device).online
