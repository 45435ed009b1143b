"""A cartridge under the head of an embedded drive: single blocks and filemarks, and what the driver would answer."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

from custody.faults import os_errors_as_faults
from custody.tape.drives import spacing
from custody.tape.drives.cartridges import Cartridge, change_cartridge
from custody.tape.drives.spacing import Eof
from custody.tape.drives.tap import FILEMARK, LENGTH, Head, Record, record_at, record_before, record_bytes

_PAD = b"\0"


def os_error(number: int) -> OSError:
    """What the driver would answer with this number."""
    return OSError(number, os.strerror(number))


class Medium:
    """An image, its sidecar, and the head that stands in it.

    Errors are OSErrors with the driver's numbers, which speak of the tape. What goes wrong with the disk below is a
    :class:`~custody.faults.Fault` that names the image: a full disk is not a full tape.

    ``save`` is called whenever the head has to be remembered before something is done.
    """

    def __init__(self, image: Path, descriptor: int, cartridge: Cartridge, is_read_only: bool) -> None:
        self.image = image
        self.descriptor = descriptor
        self.cartridge = cartridge
        self.is_protected = is_read_only or cartridge.write_protected
        self.head = Head(b"", (0, 0))
        self.save: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return os.fstat(self.descriptor).st_size

    def _disk(self) -> AbstractContextManager[None]:
        return os_errors_as_faults(f"the disk with {self.image}")

    # -- reading -------------------------------------------------------------------------------------------------

    def peek(self) -> Record | None:
        """What is next."""
        return record_at(self.descriptor, self.head.offset, self.size)

    def read_one(self, buffer: memoryview) -> int:
        """Read a block: its length; 0 at a mark, and at the first look at end of data behind one."""
        head, plan, record = self.head, self.cartridge.faults, self.peek()
        if record is None:
            return self._read_nothing()
        if record.is_mark:
            head.offset, head.eof, head.block = record.end, Eof.MARK, 0
            head.marks += 1
            head.file += head.file >= 0
            return 0
        block = head.blocks
        if plan.read_error_at_block == block:
            head.block = -1
            raise os_error(errno.EIO)
        head.offset, head.blocks, head.eof = record.end, block + 1, Eof.NONE
        head.block += head.block >= 0
        if record.length > len(buffer):
            raise os_error(errno.ENOMEM)
        self._fill(buffer[: record.length], record.start + LENGTH.size)
        if plan.flip_bit_at_block == block:
            buffer[record.length // 2] ^= 1
        return record.length

    def _fill(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            got = os.preadv(self.descriptor, [buffer[done:]], offset + done)
            if not got:
                raise os_error(errno.EIO)
            done += got

    def _read_nothing(self) -> int:
        """A blank check: an empty read right behind a filemark, an error anywhere else and from then on."""
        is_first = self.head.eof == Eof.MARK
        self.head.block = -1
        if not is_first:
            raise os_error(errno.EIO)
        self.head.eof = Eof.EOD
        return 0

    # -- writing -------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """What lies behind the head is gone with the first write."""
        self.head.rw = Head.CUTTING
        self.save()
        if self.cartridge.power_cut:
            self.cartridge = change_cartridge(self.image, power_cut=False)
        if self.size > self.head.offset:
            with self._disk():
                os.ftruncate(self.descriptor, self.head.offset)
        self.head.rw = Head.WRITING
        self.save()

    def write_one(self, view: memoryview) -> None:
        """Write a block, or say why not."""
        head, plan, capacity = self.head, self.cartridge.faults, self.cartridge.capacity_bytes
        if head.eof == Eof.EARLY or (plan.no_space_at_block == head.blocks and head.eof != Eof.EOD_1):
            head.eof = Eof.EOD_1  # which lets the next one through, and shows as end of data: the driver's own way
            raise os_error(errno.ENOSPC)
        end = head.offset + record_bytes(len(view))
        if capacity is not None and end > capacity:
            head.eof = Eof.EARLY
            raise os_error(errno.ENOSPC)
        if plan.write_error_at_block == head.blocks:
            head.eof, head.block = Eof.NONE, -1
            raise os_error(errno.EIO)
        self._put(view, end)
        block = head.blocks
        head.offset, head.blocks = end, block + 1
        head.block += head.block >= 0
        is_early = capacity is not None and end > capacity - self.cartridge.early_warning_bytes
        head.eof = Eof.EARLY if is_early or head.eof == Eof.EOD_1 else Eof.NONE
        self.save()
        if block in (plan.kill_after_block, plan.power_cut_after_block):
            self._die(block == plan.power_cut_after_block)

    def _put(self, view: memoryview, end: int) -> None:
        header = LENGTH.pack(len(view))
        parts: list[bytes | memoryview] = [header, view, _PAD, header] if len(view) % 2 else [header, view, header]
        offset = self.head.offset
        with self._disk():
            try:
                done = os.pwritev(self.descriptor, parts, offset)
                if done != end - offset:  # the disk took a part: once more, to learn why
                    rest = b"".join(parts)
                    while done < len(rest):
                        done += os.pwrite(self.descriptor, memoryview(rest)[done:], offset + done)
            except OSError:
                os.ftruncate(self.descriptor, offset)
                raise

    def _die(self, is_power_cut: bool) -> NoReturn:
        if is_power_cut:
            self.head.forget_position()
            self.save()
            change_cartridge(self.image, power_cut_after_block=None, power_cut=True)
        else:
            change_cartridge(self.image, kill_after_block=None)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("SIGKILL does not return")

    def write_marks(self, count: int) -> None:
        """Write filemarks and flush the image; 0 only flushes."""
        head, capacity = self.head, self.cartridge.capacity_bytes
        if self.is_protected:
            raise os_error(errno.EACCES)
        if count:
            end = head.offset + count * LENGTH.size
            if capacity is not None and end > capacity:
                head.eof, head.block = Eof.EARLY, 0
                raise os_error(errno.EIO)
            if head.rw != Head.WRITING:
                self.cut()
            with self._disk():
                os.pwrite(self.descriptor, FILEMARK * count, head.offset)
            head.offset = end
            head.marks += count
            head.file += count if head.file >= 0 else 0
        with self._disk():
            os.fdatasync(self.descriptor)  # a file is recorded when its mark is on the medium
        head.block, head.eof, head.rw = 0, Eof.NONE, Head.IDLE

    def settle(self) -> None:
        """End a file that a killed writer left open: the kernel closes the drive for it, which writes a filemark."""
        head, size = self.head, self.size
        was_writing, head.rw = head.rw == Head.WRITING, Head.IDLE
        if was_writing:
            spacing.to_end(self.descriptor, head, size)
        if self.is_protected or self._is_cut_by_power():
            return
        if was_writing:
            last = record_before(self.descriptor, head.offset)
            if last is not None and not last.is_mark:
                self._mark_at(head.offset)
                head.offset += LENGTH.size
                head.marks += 1
                head.file += head.file >= 0
                head.block, head.eof = 0, Eof.MARK
        elif head.file < 0 and not head.offset and spacing.ends_with_a_block(self.descriptor, size):
            # A cartridge that comes from another drive. A torn record at its end would be the work of a dead host, not
            # of a killed process: that file got no filemark.
            self._mark_at(size)

    def _is_cut_by_power(self) -> bool:
        """Whether the host lost power while the last file was written: no kernel was left to end it."""
        return self.cartridge.power_cut or self.cartridge.faults.power_cut_after_block is not None

    def _mark_at(self, offset: int) -> None:
        with self._disk():
            os.ftruncate(self.descriptor, offset)
            os.pwrite(self.descriptor, FILEMARK, offset)
            os.fdatasync(self.descriptor)
