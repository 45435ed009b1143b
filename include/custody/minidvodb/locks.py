"""Does a process of this machine write to a database? DVO's soft locks are fcntl locks on its files."""

from __future__ import annotations

import os
from pathlib import Path

from custody.minidvodb.codes import CopyFault, FaultCode
from custody.minidvodb.manifest import FILE, Snapshot, join, printable

_PROC_LOCKS = Path("/proc/locks")


def refuse_writers(root: Path, entries: Snapshot) -> None:
    """Faults: SOURCE_LOCKED where a process holds a write lock on one of the files.

    The kernel's own list is read once, whatever the number of files; it knows the locks of this machine only, so the
    task has to run on the machine whose disk it is.
    """
    status = root.stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    held = _write_locked(device)
    if not held:
        return
    for path, entry in entries.items():
        if entry.kind == FILE and entry.inode in held:
            raise CopyFault(
                FaultCode.SOURCE_LOCKED,
                printable(join(os.fsencode(root), path)),
                f"process {held[entry.inode]} holds a write lock on it",
                next_command="let it finish; it is tried again",
            )


def _write_locked(device: str) -> dict[int, str]:
    """Processes by the inode they hold a write lock on, on one device."""
    try:
        lines = _PROC_LOCKS.read_text().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        words = line.split()
        if "->" in words or len(words) < 6 or words[3] != "WRITE":
            continue
        major_minor, _, inode = words[5].rpartition(":")
        if major_minor == device:
            found[int(inode)] = words[4]
    return found
