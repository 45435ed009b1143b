"""Tape drives: one protocol, several ways to have one. See docs/tape-drives.md."""

from __future__ import annotations

import stat
from pathlib import Path

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.tape.drives.image import ImageDrive, look_at_image
from custody.tape.drives.null import NullDrive
from custody.tape.drives.protocol import Drive, DriveHealth, DriveStatus, EndOfData, EndOfTape
from custody.tape.drives.st import StDrive, look_at_st

__all__ = [
    "Drive",
    "DriveHealth",
    "DriveStatus",
    "EndOfData",
    "EndOfTape",
    "ImageDrive",
    "NullDrive",
    "StDrive",
    "look_at_drive",
    "open_drive",
]

NULL = "null:"


def open_drive(device: str, *, writable: bool = False) -> Drive:
    """Open what ``device`` names: a non-rewinding tape node, the directory of an image drive, or ``null:``.

    Faults: CONFIG for anything else (a plain file is never taken for a tape), CONFLICT where another process has the
    drive, NEEDS_HUMAN without a cartridge or, with ``writable``, for a write-protected one.
    """
    if device == NULL:
        return NullDrive()
    return ImageDrive(device, writable=writable) if _is_directory(device) else StDrive(device, writable=writable)


def look_at_drive(device: str) -> DriveStatus:
    """Ask a drive for its state without needing a cartridge and without moving the tape.

    ``online`` is False while there is none, or while the drive still loads it. Faults: as :func:`open_drive`.
    """
    if device == NULL:
        return NullDrive().status()
    return look_at_image(device) if _is_directory(device) else look_at_st(device)


def _is_directory(device: str) -> bool:
    """Whether it is an image drive; CONFIG where it is neither that nor a character device."""
    try:
        with os_errors_as_faults(device):
            mode = Path(device).stat().st_mode
    except ValueError as error:  # a NUL in the name
        raise Fault(FaultKind.CONFIG, ascii(device), "is no name of a device") from error
    except Fault as fault:
        if isinstance(fault.__cause__, FileNotFoundError):
            raise _no_such_drive(device) from fault
        raise
    if stat.S_ISDIR(mode):
        return True
    if not stat.S_ISCHR(mode):
        reason = "is no tape drive, and a plain file is never written to as if it were one"
        raise Fault(FaultKind.CONFIG, device, reason, next_command="ls -l /dev/tape/by-id, and name the -nst node")
    return False


def _no_such_drive(device: str) -> Fault:
    return Fault(
        FaultKind.CONFIG,
        device,
        "there is no such drive",
        next_command="switch it on and load the st module; then ls -l /dev/tape/by-id",
    )
