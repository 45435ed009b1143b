"""Looking at disks for a page: all at once, never longer than a page may take.

A disk that does not answer (a dead NFS server) holds one thread of ours and no page. What was seen is kept for some
seconds, so that many open pages are one look.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from custody.drain.view import DiskLook
from custody.faults import Fault, FaultKind, from_os_error

KEEP_S = 10.0
WAIT_S = 2.0

Key = tuple[str, Path]
"""A configuration and its directory."""

Look = Callable[[], DiskLook | None]
"""Looks at one disk; None where it lies on another machine."""


@dataclass
class _Looking:
    done: threading.Event = field(default_factory=threading.Event)
    ended_at: float = 0.0
    found: DiskLook | Fault | None = None


_lock = threading.Lock()
_looking: dict[Key, _Looking] = {}


def look_at_all(looks: Mapping[Key, Look]) -> dict[Key, DiskLook | Fault | None]:
    """Look at every disk; a fault stands for the one that could not be looked at."""
    begun = {key: _begin(key, look) for key, look in looks.items()}
    deadline = time.monotonic() + WAIT_S
    found: dict[Key, DiskLook | Fault | None] = {}
    for key, looking in begun.items():
        if looking.done.wait(max(0.0, deadline - time.monotonic())):
            found[key] = looking.found
        else:
            reason = f"has not answered within {WAIT_S:.0f} s: a dead disk or server?"
            found[key] = Fault(FaultKind.TRANSIENT, str(key[1]), reason, next_command=f"ls -ld {key[1]}")
    return found


def _begin(key: Key, look: Look) -> _Looking:
    with _lock:
        known = _looking.get(key)
        if known and (not known.done.is_set() or time.monotonic() - known.ended_at < KEEP_S):
            return known
        looking = _looking[key] = _Looking()
    threading.Thread(target=_look, args=(looking, look), name="custody disk", daemon=True).start()
    return looking


def _look(looking: _Looking, look: Look) -> None:
    try:
        looking.found = look()
    except Fault as fault:
        looking.found = fault
    except OSError as error:
        looking.found = from_os_error(error)
    finally:
        looking.ended_at = time.monotonic()
        looking.done.set()
