"""How much memory a job uses: all of its processes together, looked at from outside.

The kernel limits each process; what they use together it limits by cgroups, which a worker seldom may make. So somebody
looks, several times a second. What is shared is counted once (PSS) before anybody is ended for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

LOOK_EVERY_S = 0.2
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def family(pid: int) -> Iterator[int]:
    """A process and all that descend from it, as far as they are there still."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = thread.read_text().split()
        except OSError:
            continue  # that thread ended meanwhile
        for child in children:
            yield from family(int(child))


def resident_bytes(pids: list[int]) -> int:
    """What they hold in memory; what several share is counted for each. Quick."""
    return sum(_resident(pid) for pid in pids)


def own_bytes(pids: list[int]) -> int:
    """What they hold in memory, a page of several in equal shares. Slow for big ones."""
    return sum(_own(pid) for pid in pids)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def _own(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass  # one that hides it is counted as a whole
    return _resident(pid)
