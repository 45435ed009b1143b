"""The embedded drive: a SIMH image that behaves as the Linux ``st`` driver does, errors and flags included.

It is what the demo, the tests and a site without a drive use; see :mod:`~custody.tape.drives.cartridges` for the files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from custody.faults import from_os_error
from custody.tape.drives import spacing
from custody.tape.drives.cartridges import (
    LOADED,
    STATE,
    Cartridge,
    change_cartridge,
    held_drive,
    loaded_image,
    read_cartridge,
    read_drive,
)
from custody.tape.drives.device import DeviceDrive, device_fault
from custody.tape.drives.health import name_alert
from custody.tape.drives.mtio import MAX_BLOCK_BYTES, Flag, MtGet, Op
from custody.tape.drives.protocol import DriveHealth, DriveStatus
from custody.tape.drives.spacing import Eof
from custody.tape.drives.tap import FILEMARK, LENGTH, Head, boot_mark, record_at, record_before, record_bytes

_PAD = b"\0"
_SCSI_2_TAPE = 0x72


class ImageDevice:
    """The raw calls of the driver on an image; see :class:`~custody.tape.drives.device.TapeDevice`.

    :param is_look: open without a cartridge too, only to ask for the state.
    """

    def __init__(self, name: str, *, writable: bool = False, is_look: bool = False) -> None:
        self.name = name
        self._directory = Path(name)
        self._writable = writable
        read_drive(self._directory)
        with ExitStack() as opened:
            opened.enter_context(held_drive(self._directory))
            self._image = loaded_image(self._directory)
            if self._image is None and not is_look:
                raise _error(errno.ENOMEDIUM)
            self._state = os.open(self._directory / STATE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            opened.callback(os.close, self._state)
            self._descriptor = -1
            self._cartridge: Cartridge | None = None
            if self._image is not None:
                self._open_image(self._image, opened)
            self.head = self._recall()
            if self._image is not None:
                self._settle()
            self._save()
            self._held = opened.pop_all()

    def _open_image(self, image: Path, opened: ExitStack) -> None:
        self._cartridge = read_cartridge(image)
        try:
            self._descriptor = os.open(image, os.O_RDWR | os.O_CLOEXEC)
            self.is_protected = self._cartridge.write_protected
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EROFS, errno.EPERM}:
                raise
            self._descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
            self.is_protected = True
        opened.callback(os.close, self._descriptor)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _error(errno.EBUSY) from error  # no cartridge is in two drives
        if self._writable and self.is_protected:
            raise _error(errno.EROFS)

    # -- what the driver remembers -------------------------------------------------------------------------------

    def _recall(self) -> Head:
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
        if head.boot != boot or head.link != present or head.offset > self._size():
            if head.boot != boot and head.link == present and head.rw == Head.WRITING and self._image is not None:
                self._cartridge = change_cartridge(self._image, power_cut=True)
            head.forget_position()
            head.boot, head.link = boot, present
        return head

    def _settle(self) -> None:
        """End a file that a killed writer left open: the kernel closes the drive for it, which writes a filemark."""
        head, size = self.head, self._size()
        was_writing, head.rw = head.rw == Head.WRITING, Head.IDLE
        if was_writing:
            spacing.to_end(self._descriptor, head, size)
            last = record_before(self._descriptor, head.offset)
            if last is not None and not last.is_mark and not self.is_protected and not self._is_cut_by_power():
                self._mark_at(head.offset)
                head.offset += LENGTH.size
                head.marks += 1
                head.file += head.file >= 0
                head.block, head.eof = 0, Eof.MARK
        elif head.file < 0 and not head.offset and not self.is_protected and not self._is_cut_by_power():
            # A cartridge that comes from another drive. A torn record at its end is the work of a dead host, not of a
            # killed process: that file got no filemark.
            if spacing.ends_with_a_block(self._descriptor, size):
                self._mark_at(size)

    def _is_cut_by_power(self) -> bool:
        """Whether the host lost power while the last file was written: no kernel was left to end it."""
        cartridge = self._loaded()
        return cartridge.power_cut or cartridge.faults.power_cut_after_block is not None

    def _mark_at(self, offset: int) -> None:
        os.ftruncate(self._descriptor, offset)
        os.pwrite(self._descriptor, FILEMARK, offset)
        os.fdatasync(self._descriptor)

    def _save(self) -> None:
        os.pwrite(self._state, self.head.pack(), 0)

    def _size(self) -> int:
        return os.fstat(self._descriptor).st_size if self._descriptor >= 0 else 0

    def _loaded(self) -> Cartridge:
        if self._cartridge is None:
            raise _error(errno.ENOMEDIUM)
        return self._cartridge

    # -- reading -------------------------------------------------------------------------------------------------

    def read(self, buffer: memoryview) -> int:
        """One block; in fixed mode as many as fit."""
        cartridge, head = self._loaded(), self.head
        head.rw = Head.READING
        if Eof.EOD_1 <= head.eof <= Eof.EOD:
            if head.eof == Eof.EOD:
                raise _error(errno.EIO)
            head.eof += 1
            self._save()
            return 0
        if cartridge.faults.slow_ms:
            time.sleep(cartridge.faults.slow_ms / 1000)
        try:
            return self._read_fixed(buffer) if head.block_size else self._read_one(buffer, cartridge)
        finally:
            self._save()

    def _read_fixed(self, buffer: memoryview) -> int:
        head, total = self.head, 0
        if len(buffer) % head.block_size:
            raise _error(errno.EINVAL)
        while total < len(buffer):
            record = record_at(self._descriptor, head.offset, self._size())
            if total and (record is None or record.length != head.block_size):
                break
            if record is not None and not record.is_mark and record.length != head.block_size:
                raise _error(errno.EIO)
            length = self._read_one(buffer[total : total + head.block_size], self._loaded())
            total += length
            if not length:
                break
        return total

    def _read_one(self, buffer: memoryview, cartridge: Cartridge) -> int:
        head = self.head
        record = record_at(self._descriptor, head.offset, self._size())
        if record is None:
            return self._read_nothing()
        if record.is_mark:
            head.offset, head.eof, head.block = record.end, Eof.MARK, 0
            head.marks += 1
            head.file += head.file >= 0
            return 0
        if cartridge.faults.read_error_at_block == head.blocks:
            head.block = -1
            raise _error(errno.EIO)
        block = head.blocks
        head.offset, head.blocks, head.eof = record.end, head.blocks + 1, Eof.NONE
        head.block += head.block >= 0
        if record.length > len(buffer):
            raise _error(errno.ENOMEM)
        self._fill(buffer[: record.length], record.start + LENGTH.size)
        if cartridge.faults.flip_bit_at_block == block:
            buffer[record.length // 2] ^= 1
        return record.length

    def _fill(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            got = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            if not got:
                raise _error(errno.EIO)
            done += got

    def _read_nothing(self) -> int:
        """A blank check: an empty read right behind a filemark, an error anywhere else and from then on."""
        is_first = self.head.eof == Eof.MARK
        self.head.block = -1
        if not is_first:
            raise _error(errno.EIO)
        self.head.eof = Eof.EOD
        return 0

    # -- writing -------------------------------------------------------------------------------------------------

    def write(self, block: memoryview | bytes) -> int:
        """One block; in fixed mode as many as it holds."""
        cartridge, head = self._loaded(), self.head
        if not self._writable:
            raise _error(errno.EBADF)
        view = memoryview(block).cast("B")
        size = head.block_size or len(view)
        if not size or size > MAX_BLOCK_BYTES or len(view) % size:
            raise _error(errno.EINVAL)
        if cartridge.faults.slow_ms:
            time.sleep(cartridge.faults.slow_ms / 1000)
        if head.rw != Head.WRITING:
            self._cut()
        written = 0
        while written < len(view):
            try:
                self._write_one(view[written : written + size], cartridge)
            except OSError:
                self._save()
                if written:
                    break
                raise
            written += size
        return written

    def _cut(self) -> None:
        """What lies behind the head is gone with the first write."""
        assert self._image is not None
        self.head.rw = Head.CUTTING
        self._save()
        if self._loaded().power_cut:
            self._cartridge = change_cartridge(self._image, power_cut=False)
        if self._size() > self.head.offset:
            os.ftruncate(self._descriptor, self.head.offset)
        self.head.rw = Head.WRITING
        self._save()

    def _write_one(self, view: memoryview, cartridge: Cartridge) -> None:
        head, plan = self.head, cartridge.faults
        if head.eof == Eof.EARLY or plan.no_space_at_block == head.blocks:
            head.eof = Eof.REFUSED
            raise _error(errno.ENOSPC)
        length = len(view)
        end = head.offset + record_bytes(length)
        if cartridge.capacity_bytes is not None and end > cartridge.capacity_bytes:
            head.eof, head.block = Eof.REFUSED, -1
            raise _error(errno.EIO)
        if plan.write_error_at_block == head.blocks:
            head.eof, head.block = Eof.NONE, -1
            raise _error(errno.EIO)
        self._put(view, end)
        block = head.blocks
        head.offset, head.blocks = end, block + 1
        head.block += head.block >= 0
        is_early = (
            cartridge.capacity_bytes is not None and end > cartridge.capacity_bytes - cartridge.early_warning_bytes
        )
        head.eof = Eof.EARLY if is_early else Eof.NONE
        self._save()
        if block in (plan.kill_after_block, plan.power_cut_after_block):
            self._die(block == plan.power_cut_after_block)

    def _put(self, view: memoryview, end: int) -> None:
        header = LENGTH.pack(len(view))
        parts: list[bytes | memoryview] = [header, view, _PAD, header] if len(view) % 2 else [header, view, header]
        offset = self.head.offset
        try:
            done = os.pwritev(self._descriptor, parts, offset)
            if done != end - offset:  # the disk below took a part: once more, to learn why
                rest = b"".join(parts)
                while done < len(rest):
                    done += os.pwrite(self._descriptor, memoryview(rest)[done:], offset + done)
        except OSError as error:
            os.ftruncate(self._descriptor, offset)
            # Not the end of this tape: its disk is full or broken, which is another thing to mend.
            raise from_os_error(error, f"{self.name}: the disk with {self._image}") from error

    def _die(self, is_power_cut: bool) -> NoReturn:
        assert self._image is not None
        if is_power_cut:
            self.head.forget_position()
            self._save()
            change_cartridge(self._image, power_cut_after_block=None, power_cut=True)
        else:
            change_cartridge(self._image, kill_after_block=None)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("SIGKILL does not return")

    def _write_marks(self, count: int) -> None:
        head, cartridge = self.head, self._loaded()
        if self.is_protected:
            raise _error(errno.EACCES)
        if not self._writable:
            raise _error(errno.EBADF)
        if count:
            end = head.offset + count * LENGTH.size
            if cartridge.capacity_bytes is not None and end > cartridge.capacity_bytes:
                head.eof, head.rw = Eof.REFUSED, Head.IDLE
                raise _error(errno.EIO)
            if head.rw != Head.WRITING:
                self._cut()
            self._put_marks(count)
            head.offset = end
            head.marks += count
            head.file += count if head.file >= 0 else 0
        os.fdatasync(self._descriptor)  # a file is recorded when its mark is on the medium
        head.block, head.eof, head.rw = 0, Eof.NONE, Head.IDLE

    def _put_marks(self, count: int) -> None:
        try:
            os.pwrite(self._descriptor, FILEMARK * count, self.head.offset)
        except OSError as error:
            raise from_os_error(error, f"{self.name}: the disk with {self._image}") from error

    # -- everything else -----------------------------------------------------------------------------------------

    def operate(self, op: Op, count: int = 1) -> None:
        """MTIOCTOP."""
        self._loaded()
        if count < 0:
            raise _error(errno.EINVAL)
        head = self.head
        if head.rw == Head.WRITING and op in {Op.REW, Op.OFFL, Op.BSF, Op.BSFM, Op.SEEK}:
            self._write_marks(1)
            head.eof = Eof.MARK
            count += op in {Op.BSF, Op.BSFM}
        try:
            self._operate(op, count)
        finally:
            self._save()

    def _operate(self, op: Op, count: int) -> None:
        head = self.head
        match op:
            case Op.WEOF:
                self._write_marks(count)
                return
            case Op.OFFL:
                self._put_out()
            case Op.SETBLK:
                if count > MAX_BLOCK_BYTES:
                    raise _error(errno.EINVAL)
                head.block_size = count
                return
            case Op.ERASE:
                if self.is_protected or not self._writable:
                    raise _error(errno.EACCES)
                self._cut()
            case Op.COMPRESSION:
                raise _error(errno.EIO)  # an image has none, and a drive without says so like this
            case Op.NOP | Op.LOCK | Op.UNLOCK | Op.SETDRVBUFFER:
                return
            case _:
                if not spacing.space(self._descriptor, head, self._size(), op, count):
                    head.rw = Head.IDLE
                    raise _error(errno.EIO)
        head.rw = Head.IDLE

    def _put_out(self) -> None:
        self.head.forget_position()
        self._cartridge = self._image = None
        (self._directory / LOADED).unlink(missing_ok=True)

    def get(self) -> MtGet:
        """MTIOCGET."""
        head = self.head
        if self._cartridge is None:
            return MtGet(_SCSI_2_TAPE, 0, head.block_size, int(Flag.DR_OPEN | Flag.IM_REP_EN), 0, -1, -1)
        flags = Flag.ONLINE | Flag.IM_REP_EN
        if head.block == 0:
            flags |= Flag.BOT if head.file == 0 else Flag.EOF
        if head.eof in {Eof.EARLY, Eof.REFUSED}:
            flags |= Flag.EOT
        elif head.eof >= Eof.EOD_1:
            flags |= Flag.EOD
        if self.is_protected:
            flags |= Flag.WR_PROT
        dsreg = self._cartridge.density << 24 | head.block_size
        return MtGet(_SCSI_2_TAPE, 0, dsreg, int(flags), 0, head.file, head.block)

    def health(self) -> DriveHealth:
        """What the sidecar says; its alerts are struck out, as a drive clears what was read."""
        if self._cartridge is None or self._image is None:
            return DriveHealth()
        cartridge = read_cartridge(self._image)
        if cartridge.alerts:
            change_cartridge(self._image, alerts=())
        capacity, size = cartridge.capacity_bytes, self._size()
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
            if self._cartridge is not None and self.head.rw == Head.WRITING:
                self._write_marks(1)
                self.head.eof = Eof.MARK
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


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
