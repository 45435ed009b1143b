"""A drive's raw calls, and the one place where their answers are understood.

A :class:`TapeDevice` answers as the Linux ``st`` driver does, errors included: the driver itself, or an image that
behaves like it. :class:`DeviceDrive` makes a :class:`~custody.tape.drives.protocol.Drive` of either, so that what
ENOSPC, EIO or two empty reads mean is decided once for all drives.
"""

from __future__ import annotations

import errno
from types import TracebackType
from typing import NoReturn, Protocol, Self

from custody.faults import Fault, FaultKind
from custody.tape.drives.mtio import MAX_BLOCK_BYTES, Flag, MtGet, Op
from custody.tape.drives.protocol import DriveHealth, DriveStatus, EndOfData, EndOfTape


class TapeDevice(Protocol):
    """A drive as the kernel shows it. Every call raises OSError with the driver's own error numbers."""

    name: str

    def read(self, buffer: memoryview) -> int:
        """Read one block: its length, 0 at a filemark and for the first look at end of data; ENOMEM if too small."""
        ...

    def write(self, block: memoryview | bytes) -> int:
        """Write one block; its length."""
        ...

    def operate(self, op: Op, count: int = 1) -> None:
        """MTIOCTOP."""
        ...

    def get(self) -> MtGet:
        """MTIOCGET."""
        ...

    def health(self) -> DriveHealth:
        """Whatever can be learnt without moving the tape."""
        ...

    def close(self) -> None:
        """Give the drive back; the driver ends a file that was being written with a filemark."""
        ...


class DeviceDrive:
    """A drive on a :class:`TapeDevice`; see :class:`~custody.tape.drives.protocol.Drive` for its methods.

    It is a context manager that closes itself.
    """

    def __init__(self, device: TapeDevice, *, writable: bool) -> None:
        self.name = device.name
        self.device: TapeDevice = device
        self.writable = writable
        self._is_full = False
        self._has_open_file = False
        self._is_closed = False
        self._file_at_last_mark: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def status(self) -> DriveStatus:
        """Where the head is and in what state drive and cartridge are."""
        return self._get().as_status()

    def rewind(self) -> None:
        """Go to file 0, block 0."""
        self._move(Op.REW, 1, "rewind")

    def forward_files(self, count: int) -> None:
        """Space over ``count`` filemarks; :class:`EndOfData` where there are fewer."""
        if count < 0:
            raise self._fault(FaultKind.CONFIG, f"cannot space over {count} filemarks")
        if count:
            self._move(Op.FSF, count, f"space over {count} filemarks")

    def to_end_of_data(self) -> None:
        """Go behind the last thing recorded; do not trust the file number afterwards."""
        self._move(Op.EOM, 1, "space to the end of data")

    def read_block(self, buffer: memoryview) -> int:
        """Read one block; 0 at a filemark. :class:`EndOfData`, or a DATA fault, where there is none to read."""
        if not len(buffer):
            raise self._fault(FaultKind.CONFIG, "cannot read into an empty buffer")
        try:
            length = self.device.read(buffer)
        except OSError as error:
            self._raise_for_read(error, len(buffer))
        if length:
            self._file_at_last_mark = None
            return length
        got = self._get()
        # Some drives raise no end-of-data flag: then a second empty read that moved on by no file is the end.
        if got.flags & Flag.EOD or (got.fileno >= 0 and got.fileno == self._file_at_last_mark):
            raise EndOfData(f"{self.name}: nothing is recorded behind file {got.fileno}")
        self._file_at_last_mark = got.fileno if got.fileno >= 0 else None
        return 0

    def _raise_for_read(self, error: OSError, buffer_bytes: int) -> NoReturn:
        if error.errno == errno.ENOMEM:
            raise self._fault(
                FaultKind.DATA,
                f"a block is larger than the {buffer_bytes} bytes it was to be read into; the drive has skipped it",
                "read with the block size the tape was written with, or a larger one",
            ) from error
        if error.errno == errno.EIO and self._is_blank_here():
            raise EndOfData(f"{self.name}: nothing is recorded from here on") from error
        self._raise_for(error, "read")

    def _is_blank_here(self) -> bool:
        """Tell a blank check from a bad spot: both are EIO, and only spacing over a block says which.

        The driver notes a blank check as end of data; after a bad spot the position is lost anyway.
        """
        if self._get().flags & Flag.EOD:
            return True
        try:
            self.device.operate(Op.FSR, 1)
        except OSError:
            return bool(self._get().flags & Flag.EOD)
        return False

    def write_block(self, block: memoryview | bytes) -> None:
        """Write one block; :class:`EndOfTape` where the drive refuses it, and for every later one."""
        if self._is_full:
            raise EndOfTape(f"{self.name}: it has refused a block before: nothing more is tried")
        length = block.nbytes if isinstance(block, memoryview) else len(block)
        if not 0 < length <= MAX_BLOCK_BYTES:
            raise self._fault(FaultKind.CONFIG, f"a block has 1 to {MAX_BLOCK_BYTES} bytes, not {length}")
        self._need_writable()
        try:
            written = self.device.write(block)
        except OSError as error:
            self._raise_for_write(error)
        if not written:
            self._refuse("it took nothing of a block")
        self._has_open_file = True
        if written != length:
            raise self._fault(FaultKind.DATA, f"only {written} of {length} bytes of a block went to the tape")

    def _raise_for_write(self, error: OSError) -> NoReturn:
        # Some drives and adapters answer EIO at the end of the tape; the driver has then raised its flag.
        if error.errno == errno.ENOSPC or (error.errno == errno.EIO and self._get().flags & Flag.EOT):
            self._refuse("end of tape")
        if error.errno == errno.EINVAL:
            size = self._get().as_status().block_size_bytes
            raise self._fault(
                FaultKind.CONFIG, f"takes blocks of {size} bytes only", "set its block size to 0"
            ) from error
        self._raise_for(error, "write")

    def _refuse(self, reason: str) -> NoReturn:
        self._is_full = True
        raise EndOfTape(f"{self.name}: {reason}")

    def write_filemarks(self, count: int = 1) -> None:
        """Write filemarks and flush what the drive holds; 0 only flushes."""
        if count < 0:
            raise self._fault(FaultKind.CONFIG, f"cannot write {count} filemarks")
        self._need_writable()
        try:
            self.device.operate(Op.WEOF, count)
        except OSError as error:
            self._raise_for(error, "write a filemark" if count else "flush")
        if count:
            self._has_open_file = False
            self._file_at_last_mark = None

    def set_block_size(self, size_bytes: int) -> None:
        """0 for variable mode; it stays for the next user."""
        try:
            self.device.operate(Op.SETBLK, size_bytes)
        except OSError as error:
            self._raise_for(error, f"take a block size of {size_bytes}")

    def set_compression(self, on: bool) -> bool:
        """Switch compression; False where the drive cannot."""
        try:
            self.device.operate(Op.COMPRESSION, int(on))
        except OSError as error:
            if error.errno in {errno.EIO, errno.EINVAL, errno.ENOSYS, errno.ENOTTY}:
                return False
            self._raise_for(error, "switch compression")
        return True

    def health(self) -> DriveHealth:
        """Alerts, counters, encryption; reading alerts clears them in the drive."""
        return self.device.health()

    def unload(self) -> None:
        """Rewind and put the cartridge out."""
        self._move(Op.OFFL, 1, "unload")

    def close(self) -> None:
        """End a tape file that is being written, give the drive back. DATA where the last of it may not be on tape."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            # Asked for here, and not left to the driver: its error at close is easily lost.
            if self._has_open_file:
                self.write_filemarks(1)
        finally:
            device, self.device = self.device, _Closed(self.name)
            try:
                device.close()
            except OSError as error:
                self._raise_for(error, "be closed: the last of what was written may not be on the tape")

    def _move(self, op: Op, count: int, verb: str) -> None:
        if self._has_open_file:
            self.write_filemarks(1)  # the driver would write it before some moves and forget it before others
        self._is_full = False
        self._file_at_last_mark = None
        try:
            self.device.operate(op, count)
        except OSError as error:
            if op is Op.FSF and error.errno == errno.EIO and self._get().flags & Flag.EOD:
                raise EndOfData(f"{self.name}: there are fewer than {count} filemarks from here on") from error
            self._raise_for(error, verb)

    def _need_writable(self) -> None:
        # The driver itself lets a filemark, which ends the tape behind it, be written through a descriptor for reading.
        if not self.writable:
            raise self._fault(FaultKind.CONFIG, "was opened for reading only", "open it for writing")

    def _get(self) -> MtGet:
        try:
            return self.device.get()
        except OSError as error:
            self._raise_for(error, "tell its state")

    def _raise_for(self, error: OSError, verb: str) -> NoReturn:
        raise device_fault(self.name, error, verb) from error

    def _fault(self, kind: FaultKind, reason: str, next_command: str | None = None) -> Fault:
        return Fault(kind, self.name, reason, next_command=next_command)


class _Closed:
    """What a drive holds once it was given back: its old descriptor's number may by now be another file's."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _refuse(self) -> NoReturn:
        raise Fault(FaultKind.CONFIG, self.name, "was closed already")

    def read(self, buffer: memoryview) -> int:
        self._refuse()

    def write(self, block: memoryview | bytes) -> int:
        self._refuse()

    def operate(self, op: Op, count: int = 1) -> None:
        self._refuse()

    def get(self) -> MtGet:
        self._refuse()

    def health(self) -> DriveHealth:
        self._refuse()

    def close(self) -> None:
        """Again."""


_FAULTS: dict[int, tuple[FaultKind, str, str]] = {
    errno.ENOMEDIUM: (FaultKind.NEEDS_HUMAN, "has no cartridge in it", "put the cartridge in, then run again"),
    errno.EROFS: (FaultKind.NEEDS_HUMAN, "its cartridge is write-protected", "flip the tab, put it in and run again"),
    errno.EBUSY: (FaultKind.CONFLICT, "another process has it", "wait for it, or find it with fuser"),
    errno.EBADF: (FaultKind.CONFIG, "was opened for reading only", "open it for writing"),
    errno.EIO: (FaultKind.DATA, "input/output error", "look at dmesg and at the drive's alerts; try another drive"),
    errno.EPERM: (FaultKind.CONFIG, "this user may not use it", "add the user to its group (tape)"),
    errno.ENXIO: (FaultKind.CONFIG, "there is no drive behind it", "check cable and power, then lsscsi -g"),
    errno.EINVAL: (FaultKind.CONFIG, "refuses such a call", "check the call"),
}
_FAULTS[errno.EACCES] = _FAULTS[errno.EPERM]
_FAULTS[errno.ENODEV] = _FAULTS[errno.ENXIO]


def device_fault(name: str, error: OSError, verb: str) -> Fault:
    """Classify what a drive answered when it was to do something."""
    known = _FAULTS.get(error.errno or 0)
    if known is None:
        return Fault(FaultKind.TRANSIENT, name, f"could not {verb}: {error.strerror or error}")
    kind, reason, next_step = known
    if (
        verb.startswith("write") and error.errno == errno.EACCES
    ):  # the driver's word where the tab was flipped meanwhile
        kind, reason, next_step = _FAULTS[errno.EROFS]
    return Fault(kind, name, f"could not {verb}: {reason}", next_command=next_step)
