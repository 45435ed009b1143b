"""The embedded drive: a SIMH image that behaves as the Linux ``st`` driver does, errors and flags included.

It is what the demo, the tests and a site without a drive use; see :mod:`~custody.tape.drives.cartridges` for the files
and :mod:`~custody.tape.drives.medium` for single blocks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import ExitStack
from pathlib import Path

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.tape.drives import spacing
from custody.tape.drives.cartridges import (
    LOADED,
    STATE,
    change_cartridge,
    held_drive,
    loaded_image,
    read_cartridge,
    read_drive,
)
from custody.tape.drives.device import DeviceDrive, device_fault
from custody.tape.drives.health import name_alert
from custody.tape.drives.medium import Medium, os_error
from custody.tape.drives.mtio import MAX_BLOCK_BYTES, Flag, MtGet, Op
from custody.tape.drives.protocol import DriveHealth, DriveStatus
from custody.tape.drives.spacing import Eof
from custody.tape.drives.tap import Head, boot_mark

_SCSI_2_TAPE = 0x72


class ImageDevice:
    """The raw calls of the driver on an image; see :class:`~custody.tape.drives.device.TapeDevice`.

    :param is_look: open without a cartridge too, only to ask for the state.
    """

    def __init__(self, name: str, *, writable: bool = False, is_look: bool = False) -> None:
        self.name = name
        self._directory = Path(name)
        self._writable = writable
        self._medium: Medium | None = None
        read_drive(self._directory)
        with ExitStack() as opened:
            opened.enter_context(held_drive(self._directory))
            image = loaded_image(self._directory)
            if image is None and not is_look:
                raise os_error(errno.ENOMEDIUM)
            with os_errors_as_faults(str(self._directory / STATE)):
                self._state = os.open(self._directory / STATE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            opened.callback(os.close, self._state)
            if image is not None:
                self._medium = self._put_in(image, opened)
            self.head = self._recall(self._medium)
            if self._medium is not None:
                self._medium.head, self._medium.save = self.head, self._save
                self._medium.settle()
            self._save()
            self._held = opened.pop_all()

    def _put_in(self, image: Path, opened: ExitStack) -> Medium:
        is_read_only = False
        if not image.is_file():
            raise Fault(FaultKind.CONFIG, str(image), "is no cartridge: it is no plain file", next_command="unload it")
        try:
            descriptor = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EROFS, errno.EPERM}:
                raise
            descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
            is_read_only = True
        opened.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise os_error(errno.EBUSY) from error  # no cartridge is in two drives
        medium = Medium(image, descriptor, read_cartridge(image), is_read_only)
        if self._writable and medium.is_protected:
            raise os_error(errno.EROFS)
        return medium

    def _recall(self, medium: Medium | None) -> Head:
        """The head as the last user left it; without its position after a change of cartridge or a reboot."""
        boot = boot_mark()
        try:
            link = os.lstat(self._directory / LOADED)
            present = (link.st_ino, link.st_ctime_ns)
        except FileNotFoundError:
            present = (0, 0)
        head = Head.unpack(os.pread(self._state, 4096, 0))
        if head is None:
            return Head(boot, present)
        if head.boot != boot or head.link != present or head.offset > (medium.size if medium else 0):
            if head.boot != boot and head.link == present and head.rw == Head.WRITING and medium is not None:
                medium.cartridge = change_cartridge(medium.image, power_cut=True)
            head.forget_position()
            if head.boot != boot:
                head.block_size = 0
            head.boot, head.link = boot, present
        return head

    def _save(self) -> None:
        with os_errors_as_faults(str(self._directory / STATE)):
            os.pwrite(self._state, self.head.pack(), 0)

    def _loaded(self) -> Medium:
        if self._medium is None:
            raise os_error(errno.ENOMEDIUM)
        return self._medium

    def read(self, buffer: memoryview) -> int:
        """One block; in fixed mode as many as fit."""
        medium, head = self._loaded(), self.head
        head.rw = Head.READING
        if Eof.EOD_1 <= head.eof <= Eof.EOD:
            if head.eof == Eof.EOD:
                raise os_error(errno.EIO)
            head.eof += 1
            self._save()
            return 0
        _pause(medium)
        try:
            return self._read_fixed(medium, buffer) if head.block_size else medium.read_one(buffer)
        finally:
            self._save()

    def _read_fixed(self, medium: Medium, buffer: memoryview) -> int:
        size, total = self.head.block_size, 0
        if len(buffer) % size:
            raise os_error(errno.EINVAL)
        while total < len(buffer):
            record = medium.peek()
            if total and (record is None or record.length != size):
                break
            if record is not None and not record.is_mark and record.length != size:
                raise os_error(errno.EIO)
            length = medium.read_one(buffer[total : total + size])
            total += length
            if not length:
                break
        return total

    def write(self, block: memoryview | bytes) -> int:
        """One block; in fixed mode as many as it holds."""
        medium = self._loaded()
        if not self._writable:
            raise os_error(errno.EBADF)
        view = memoryview(block).cast("B")
        size = self.head.block_size or len(view)
        if not size or size > MAX_BLOCK_BYTES or len(view) % size:
            raise os_error(errno.EINVAL)
        _pause(medium)
        if self.head.rw != Head.WRITING:
            medium.cut()
        written = 0
        while written < len(view):
            try:
                medium.write_one(view[written : written + size])
            except OSError:
                self._save()
                if written:
                    break
                raise
            written += size
        return written

    def operate(self, op: Op, count: int = 1) -> None:
        """MTIOCTOP."""
        medium, head = self._loaded(), self.head
        if count < 0:
            raise os_error(errno.EINVAL)
        try:
            if head.rw == Head.WRITING and op in {Op.REW, Op.OFFL, Op.BSF, Op.BSFM, Op.SEEK}:
                self._write_marks(medium, 1)
                head.eof = Eof.MARK
                count += op in {Op.BSF, Op.BSFM}
            self._operate(medium, op, count)
        finally:
            self._save()

    def _operate(self, medium: Medium, op: Op, count: int) -> None:
        head = self.head
        match op:
            case Op.WEOF:
                self._write_marks(medium, count)
                return
            case Op.OFFL:
                head.forget_position()
                self._medium = None
                (self._directory / LOADED).unlink(missing_ok=True)
            case Op.SETBLK:
                if count > MAX_BLOCK_BYTES:
                    raise os_error(errno.EINVAL)
                head.block_size = count
                return
            case Op.ERASE:
                if medium.is_protected or not self._writable:
                    raise os_error(errno.EACCES)
                medium.cut()
            case Op.COMPRESSION:
                raise os_error(errno.EIO)  # an image has none, and a drive without says so like this
            case Op.NOP | Op.LOCK | Op.UNLOCK | Op.SETDRVBUFFER:
                return
            case _:
                is_there = spacing.space(medium.descriptor, head, medium.size, op, count)
                head.rw = Head.IDLE
                if not is_there:
                    raise os_error(errno.EIO)
        head.rw = Head.IDLE

    def _write_marks(self, medium: Medium, count: int) -> None:
        if not self._writable:
            raise os_error(errno.EBADF)
        medium.write_marks(count)

    def get(self) -> MtGet:
        """MTIOCGET."""
        head, medium = self.head, self._medium
        if medium is None:
            return MtGet(_SCSI_2_TAPE, 0, head.block_size, int(Flag.DR_OPEN | Flag.IM_REP_EN), 0, -1, -1)
        flags = Flag.ONLINE | Flag.IM_REP_EN
        if head.block == 0:
            flags |= Flag.BOT if head.file == 0 else Flag.EOF
        if head.eof == Eof.EARLY:
            flags |= Flag.EOT
        elif head.eof >= Eof.EOD_1:
            flags |= Flag.EOD
        if medium.is_protected:
            flags |= Flag.WR_PROT
        dsreg = medium.cartridge.density << 24 | head.block_size
        return MtGet(_SCSI_2_TAPE, 0, dsreg, int(flags), 0, head.file, head.block)

    def health(self) -> DriveHealth:
        """What the sidecar says; its alerts are struck out, as a drive clears what was read."""
        if self._medium is None:
            return DriveHealth()
        cartridge = read_cartridge(self._medium.image)
        if cartridge.alerts:
            change_cartridge(self._medium.image, alerts=())
        capacity, size = cartridge.capacity_bytes, self._medium.size
        return DriveHealth(
            alerts={number: name_alert(number) for number in cartridge.alerts},
            counters={"recorded_bytes": size},
            remaining_bytes=None if capacity is None else max(0, capacity - size),
            serial=cartridge.serial,
            encryption=cartridge.encryption,
            encryption_key=cartridge.encryption_key,
        )

    def close(self) -> None:
        """Give the drive back; a file that was being written is ended by a filemark."""
        with self._held:
            try:
                if self._medium is not None and self.head.rw == Head.WRITING:
                    self._write_marks(self._medium, 1)
                    self.head.eof = Eof.MARK
            finally:
                self.head.rw = Head.IDLE
                self._save()


class ImageDrive(DeviceDrive):
    """A drive directory with a cartridge in it.

    Faults on opening: CONFIG where the directory is no drive, CONFLICT where another process has it, NEEDS_HUMAN
    without a cartridge or, when ``writable``, at a write-protected one.
    """

    def __init__(self, name: str, *, writable: bool = False) -> None:
        try:
            device = ImageDevice(name, writable=writable)
        except OSError as error:
            raise device_fault(name, error, "open") from error
        super().__init__(device, writable=writable)


def look_at_image(name: str) -> DriveStatus:
    """The state of an image drive, with or without a cartridge. Faults: CONFIG and CONFLICT as :class:`ImageDrive`."""
    try:
        device = ImageDevice(name, is_look=True)
    except OSError as error:
        raise device_fault(name, error, "open") from error
    try:
        return device.get().as_status()
    finally:
        device.close()


def _pause(medium: Medium) -> None:
    if medium.cartridge.faults.slow_ms:
        time.sleep(medium.cartridge.faults.slow_ms / 1000)
