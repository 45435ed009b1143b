"""A real drive through the Linux ``st`` driver: one descriptor of the non-rewinding node, from opening to close.

A call that the drive does not answer cannot be interrupted, not even by SIGKILL: the process sleeps in the kernel until
the driver's own time-out (900 s; for spacing and rewinding 14000 s) turns it into EIO. So no shorter time-out is laid
over these calls. They let other threads run, and ``in_flight`` in ``/sys/class/scsi_tape/stN/stats`` tells anyone who
looks from outside that a call is out.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from custody.faults import Fault, FaultKind, from_os_error
from custody.tape.drives.device import DeviceDrive, device_fault
from custody.tape.drives.health import ask_health
from custody.tape.drives.mtio import (
    MTIOCGET,
    MTIOCTOP,
    NO_REWIND_BIT,
    OPERATION,
    SCSI_TAPE_MAJOR,
    STATUS,
    MtGet,
    Op,
)
from custody.tape.drives.protocol import DriveHealth, DriveStatus

_COMMON = os.O_CLOEXEC | os.O_NOCTTY


class KernelDevice:
    """The raw calls of the driver on one held descriptor; see :class:`~custody.tape.drives.device.TapeDevice`.

    :param is_look: open without waiting for a cartridge, only to ask for the state.
    """

    def __init__(self, name: str, *, writable: bool = False, is_look: bool = False) -> None:
        self.name = name
        access = os.O_RDWR if writable else os.O_RDONLY
        self._descriptor = os.open(name, access | _COMMON | (os.O_NONBLOCK if is_look else 0))
        try:
            self._device_number = _check_node(name, os.fstat(self._descriptor))
            # The driver admits one opener; a descriptor that a child inherited would still be that opener.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name) from error
        except BaseException:
            os.close(self._descriptor)
            raise

    def read(self, buffer: memoryview) -> int:
        """One block."""
        return os.readv(self._descriptor, [buffer])

    def write(self, block: memoryview | bytes) -> int:
        """One block."""
        return os.write(self._descriptor, block)

    def operate(self, op: Op, count: int = 1) -> None:
        """MTIOCTOP."""
        fcntl.ioctl(self._descriptor, MTIOCTOP, OPERATION.pack(op, count))

    def get(self) -> MtGet:
        """MTIOCGET."""
        return MtGet.unpack(fcntl.ioctl(self._descriptor, MTIOCGET, bytes(STATUS.size)))

    def health(self) -> DriveHealth:
        """What its generic node and the kernel's statistics tell."""
        return ask_health(self._device_number)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)


class StDrive(DeviceDrive):
    """A drive at a non-rewinding node such as ``/dev/tape/by-id/…-nst``.

    Faults on opening: CONFIG where the node is missing, is a plain file, is no tape drive, or rewinds at close;
    CONFLICT where another process has it; NEEDS_HUMAN without a cartridge or, when ``writable``, at a write-protected
    one; TRANSIENT while the drive is still loading.
    """

    def __init__(self, name: str, *, writable: bool = False) -> None:
        seen = look_at_st(name)
        if not seen.has_cartridge:
            raise device_fault(name, OSError(errno.ENOMEDIUM, os.strerror(errno.ENOMEDIUM)), "open")
        if not seen.online:
            raise Fault(FaultKind.TRANSIENT, name, "is not ready yet: it loads, or initialises a new cartridge")
        if writable and seen.write_protected:
            raise device_fault(name, OSError(errno.EROFS, os.strerror(errno.EROFS)), "open")
        try:
            device = KernelDevice(name, writable=writable)
        except OSError as error:
            raise _open_fault(name, error) from error
        super().__init__(device, writable=writable)


def look_at_st(name: str) -> DriveStatus:
    """Open a node without waiting, ask for its state, give it back. Faults: CONFIG and CONFLICT as :class:`StDrive`."""
    try:
        node = os.stat(name)  # noqa: PTH116 - before it is opened: opening the rewinding node rewinds it
    except FileNotFoundError as error:
        raise Fault(
            FaultKind.CONFIG,
            name,
            "there is no such node",
            next_command="switch the drive on and load the st module; then ls -l /dev/tape/by-id",
        ) from error
    except OSError as error:
        raise from_os_error(error, name) from error
    _check_node(name, node)
    try:
        device = KernelDevice(name, is_look=True)
        try:
            got = device.get()
        finally:
            device.close()
    except OSError as error:
        raise _open_fault(name, error) from error
    return got.as_status()


def _open_fault(name: str, error: OSError) -> Fault:
    if error.errno == errno.EIO:
        return Fault(FaultKind.TRANSIENT, name, "is not ready: it loads, or its cartridge cannot be used")
    return device_fault(name, error, "open")


def _check_node(name: str, node: os.stat_result) -> int:
    """Return the device number of a non-rewinding tape node; anything else is a CONFIG fault."""
    next_step = "ls -l /dev/tape/by-id, and name the -nst node"
    if not stat.S_ISCHR(node.st_mode):
        reason = "is no tape drive, and a plain file is never written to as if it were one"
        raise Fault(FaultKind.CONFIG, name, reason, next_command=next_step)
    if os.major(node.st_rdev) != SCSI_TAPE_MAJOR:
        raise Fault(FaultKind.CONFIG, name, "is a device, but no SCSI tape drive", next_command=next_step)
    if not os.minor(node.st_rdev) & NO_REWIND_BIT:
        reason = "is the node that rewinds at every close, so that the next write would be over file 0"
        raise Fault(FaultKind.CONFIG, name, reason, next_command=next_step)
    return node.st_rdev
