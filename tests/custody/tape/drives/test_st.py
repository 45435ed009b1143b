"""What a real drive's node must be before it is opened, and how its answers are understood."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from custody.faults import Fault, FaultKind
from custody.tape.drives import EndOfData, EndOfTape, StDrive, look_at_drive, open_drive
from custody.tape.drives.device import DeviceDrive, device_fault
from custody.tape.drives.mtio import MTIOCGET, MTIOCPOS, MTIOCTOP, OPERATION, STATUS, TELL, Flag, MtGet, Op
from custody.tape.drives.protocol import DriveHealth


def fault_of(call: Callable[[], object]) -> Fault:
    with pytest.raises(Fault) as caught:
        call()
    return caught.value


def test_the_calls_have_the_numbers_of_the_driver() -> None:
    """_IOW('m', 1, struct mtop), _IOR('m', 2, struct mtget), _IOR('m', 3, struct mtpos)."""
    assert 1 << 30 | OPERATION.size << 16 | ord("m") << 8 | 1 == MTIOCTOP
    assert 2 << 30 | STATUS.size << 16 | ord("m") << 8 | 2 == MTIOCGET
    assert 2 << 30 | TELL.size << 16 | ord("m") << 8 | 3 == MTIOCPOS


def test_a_missing_node_is_named(tmp_path: Path) -> None:
    for opening in (StDrive, open_drive, look_at_drive):
        fault = fault_of(lambda opening=opening: opening(str(tmp_path / "nst0")))
        assert fault.kind is FaultKind.CONFIG and "nst0" in str(fault)
    assert not (tmp_path / "nst0").exists(), "nothing was made there"


def test_a_plain_file_is_never_a_tape(tmp_path: Path) -> None:
    (tmp_path / "nst0").write_bytes(b"what tar wrote when the node was missing")
    fault = fault_of(lambda: StDrive(str(tmp_path / "nst0"), writable=True))
    assert fault.kind is FaultKind.CONFIG and "plain file" in str(fault)
    assert (tmp_path / "nst0").read_bytes() == b"what tar wrote when the node was missing"


def test_another_device_is_no_tape() -> None:
    fault = fault_of(lambda: open_drive("/dev/null"))
    assert fault.kind is FaultKind.CONFIG and "no SCSI tape drive" in str(fault)


def make_node(path: Path, minor: int) -> Path:
    try:
        os.mknod(path, 0o20600, os.makedev(9, minor))
    except PermissionError:
        pytest.skip("needs the right to make a device node")
    return path


@pytest.mark.parametrize("minor", [0, 32, 256])
def test_the_rewinding_node_is_refused_before_it_is_opened(tmp_path: Path, minor: int) -> None:
    fault = fault_of(lambda: open_drive(str(make_node(tmp_path / "st0", minor))))
    assert fault.kind is FaultKind.CONFIG and "rewinds at every close" in str(fault)


def test_a_node_without_a_drive_behind_it(tmp_path: Path) -> None:
    node = make_node(tmp_path / "nst31", 128 + 31)
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        if error.errno not in {errno.ENXIO, errno.ENODEV}:
            pytest.skip(f"this machine lets no device be opened there: {error.strerror}")
    else:
        pytest.skip("this machine has that many tape drives")
    fault = fault_of(lambda: open_drive(str(node)))
    assert fault.kind is FaultKind.CONFIG and "no drive behind it" in str(fault)


def test_a_link_to_a_node_is_followed(tmp_path: Path) -> None:
    """As /dev/tape/by-id does it."""
    (tmp_path / "by-id-nst").symlink_to(make_node(tmp_path / "st0", 0))
    assert "rewinds" in str(fault_of(lambda: open_drive(str(tmp_path / "by-id-nst"))))


# -- answers ---------------------------------------------------------------------------------------------------------


class Answers:
    """A device that answers as it is told; for what no drive at hand will do."""

    name = "answers"

    def __init__(self, *answers: int | OSError, flags: Flag = Flag.ONLINE, blank: bool = False) -> None:
        self.answers = list(answers)
        self.flags = flags
        self.blank = blank
        self.file = 0
        self.asked: list[str] = []

    def _answer(self) -> int:
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def read(self, buffer: memoryview) -> int:
        self.asked.append("read")
        return self._answer()

    def write(self, block: memoryview | bytes) -> int:
        self.asked.append("write")
        return self._answer()

    def operate(self, op: Op, count: int = 1) -> None:
        self.asked.append(op.name)
        if op is Op.FSR and self.blank:
            self.flags |= Flag.EOD
            raise error(errno.EIO)

    def get(self) -> MtGet:
        return MtGet(0x72, 0, 0, int(self.flags), 0, self.file, -1)

    def health(self) -> DriveHealth:
        return DriveHealth()

    def close(self) -> None:
        self.asked.append("close")
        if self.answers:
            self._answer()


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_an_error_at_the_end_of_tape_flag_is_the_end_of_tape() -> None:
    device = Answers(10, error(errno.EIO), flags=Flag.ONLINE | Flag.EOT)
    drive = DeviceDrive(device, writable=True)
    drive.write_block(bytes(10))
    with pytest.raises(EndOfTape):
        drive.write_block(bytes(10))
    with pytest.raises(EndOfTape):
        drive.write_block(bytes(10))
    assert device.asked == ["write", "write"], "nothing more is tried"


def test_an_error_elsewhere_is_a_data_fault() -> None:
    drive = DeviceDrive(Answers(error(errno.EIO)), writable=True)
    assert fault_of(lambda: drive.write_block(bytes(10))).kind is FaultKind.DATA


def test_a_write_of_nothing_is_the_end_of_tape_and_half_a_block_is_a_fault() -> None:
    with pytest.raises(EndOfTape):
        DeviceDrive(Answers(0), writable=True).write_block(bytes(10))
    fault = fault_of(lambda: DeviceDrive(Answers(4), writable=True).write_block(bytes(10)))
    assert fault.kind is FaultKind.DATA and "4 of 10" in str(fault)


def test_blank_tape_and_bad_spot_are_told_apart() -> None:
    buffer = memoryview(bytearray(10))
    with pytest.raises(EndOfData):
        DeviceDrive(Answers(error(errno.EIO), blank=True), writable=False).read_block(buffer)
    fault = fault_of(lambda: DeviceDrive(Answers(error(errno.EIO)), writable=False).read_block(buffer))
    assert fault.kind is FaultKind.DATA


def test_a_second_empty_read_in_one_place_is_the_end_without_a_flag() -> None:
    device = Answers(0, 0, 0)
    drive = DeviceDrive(device, writable=False)
    buffer = memoryview(bytearray(10))
    device.file = 1
    assert drive.read_block(buffer) == 0
    device.file = 2
    assert drive.read_block(buffer) == 0, "an empty file"
    with pytest.raises(EndOfData):
        drive.read_block(buffer)


def test_an_error_at_close_is_not_lost() -> None:
    drive = DeviceDrive(Answers(10, error(errno.EIO)), writable=True)
    drive.write_block(bytes(10))
    fault = fault_of(drive.close)
    assert fault.kind is FaultKind.DATA and "may not be on the tape" in str(fault)
    drive.close()


@pytest.mark.parametrize("length", [0, 1 << 24])
def test_a_block_that_no_drive_can_take(length: int) -> None:
    device = Answers()
    fault = fault_of(lambda: DeviceDrive(device, writable=True).write_block(bytes(length)))
    assert fault.kind is FaultKind.CONFIG and not device.asked


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOMEDIUM, FaultKind.NEEDS_HUMAN),
        (errno.EACCES, FaultKind.NEEDS_HUMAN),
        (errno.EBADF, FaultKind.CONFIG),
        (errno.ENXIO, FaultKind.CONFIG),
        (errno.EINVAL, FaultKind.CONFIG),
        (errno.ECOMM, FaultKind.TRANSIENT),
    ],
)
def test_other_errors_of_a_write(number: int, kind: FaultKind) -> None:
    fault = fault_of(lambda: DeviceDrive(Answers(error(number)), writable=True).write_block(bytes(10)))
    assert fault.kind is kind and "answers" in str(fault)


def test_who_may_not_use_the_drive_is_told_how() -> None:
    fault = device_fault("/dev/nst0", error(errno.EACCES), "open")
    assert fault.kind is FaultKind.CONFIG and "tape" in str(fault.next_command)
