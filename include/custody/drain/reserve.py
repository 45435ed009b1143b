"""A little room that is kept for us on the disk, so that a full one can still be drained.

Every step writes some notes beside the data before anything is deleted. On a disk without a free byte that would be the
end of it. So the transfer directory holds a file that takes up the room those notes need; it is given up when nothing
else is left, and made again when there is plenty.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from custody.drain.config import DrainConfig
from custody.faults import Fault
from custody.host import LocalHost
from custody.units import format_size

NAME = ".custody-reserve"
MOST_BYTES = 16 << 20
SHARE = 64
"""Of a small disk no more than one part in so many."""

_log = logging.getLogger(__name__)


def keep(config: DrainConfig) -> None:
    """Make the reserve where it is missing and twice its size is free; a disk that has no room for it is no fault."""
    path = config.xfer_dir / NAME
    try:
        usage = LocalHost().disk_usage(config.xfer_dir)
        size = min(MOST_BYTES, usage.total_bytes // SHARE)
        if os.path.lexists(path) or not size or usage.free_bytes < 2 * size:
            return
        _allocate(path, size)
    except (OSError, Fault) as error:
        _log.warning("no reserve for a full disk: %s", error)


def spend(config: DrainConfig) -> bool:
    """Give the reserve up, where the disk has less room than it holds. Returns whether there is more room now."""
    path = config.xfer_dir / NAME
    try:
        size = path.lstat().st_size
        if LocalHost().disk_usage(config.xfer_dir).free_bytes >= size:
            return False
        path.unlink()
    except (OSError, Fault):
        return False
    _log.warning("the disk is full: the reserve of %s is given up (%s)", format_size(size), path)
    return True


def _allocate(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
