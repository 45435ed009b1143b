"""How fast files are sent: within a cap that all processes of a machine keep together, and above a floor."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from custody.faults import Fault, FaultKind, os_errors_as_faults

_WINDOW = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])-([01]?[0-9]|2[0-4]):([0-5][0-9])")
_FREE_AT = struct.Struct("d")
_TURN_S = 0.1  # what a sender takes at a time: small enough that several share a line evenly
_LATE_S = 0.5  # a sender that comes so little too late makes up for it; after longer the line was idle
_MAX_QUEUE_S = 60.0  # a longer one was left by a machine that has been started anew since
_MIN_TURN_BYTES = 4096


@dataclass(frozen=True)
class DayWindow:
    """A part of the day in UTC; it may span midnight. Minutes since midnight, the end not included."""

    start_min: int
    end_min: int

    @classmethod
    def parse(cls, text: str) -> DayWindow:
        """Read ``08:00-20:00``. ValueError for anything else."""
        found = _WINDOW.fullmatch(text.strip())
        start, end = (int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])) if found else (0, 0)
        if not found or start == end or end > 24 * 60:
            raise ValueError(f"{text!r} is no part of a day; write it as 08:00-20:00 (UTC)")
        return cls(start, end)

    def contains(self, moment: datetime) -> bool:
        """Whether a moment lies in it."""
        at = moment.astimezone(UTC)
        minute = at.hour * 60 + at.minute
        if self.start_min < self.end_min:
            return self.start_min <= minute < self.end_min
        return minute >= self.start_min or minute < self.end_min


@dataclass(frozen=True)
class Pacing:
    """What a configuration says of speed.

    :param max_rate_bytes_s: cap for all that this machine sends to one host; None for none.
    :param window: the part of the day in which the cap holds; None for the whole day.
    :param min_rate_bytes_s: a connection that is slower than this for ``min_rate_over_s`` is given up; 0 for never.
    """

    max_rate_bytes_s: int | None = None
    window: DayWindow | None = None
    min_rate_bytes_s: int = 0
    min_rate_over_s: float = 900.0

    def turn_bytes(self, most: int) -> int:
        """How much to send at a time, at most ``most``."""
        if not self.max_rate_bytes_s:
            return most
        return min(most, max(_MIN_TURN_BYTES, int(self.max_rate_bytes_s * _TURN_S)))


class Cap:
    """The line to one host. Whoever sends takes turns on it, whichever process or thread it is.

    The time at which the line is free again stands in a file that all processes of this user share; a turn moves it on
    and then waits for its own beginning.
    """

    def __init__(self, host: str, pacing: Pacing, directory: Path | None = None) -> None:
        self._pacing = pacing
        name = re.sub(r"[^A-Za-z0-9.-]", "_", host)
        self._path = (directory or Path(tempfile.gettempdir())) / f"custody-line-{os.getuid()}-{name}"

    def wait(self, count: int) -> float:
        """Wait until ``count`` bytes may be sent; returns how many seconds that took."""
        rate = self._pacing.max_rate_bytes_s
        window = self._pacing.window
        if not rate or (window and not window.contains(datetime.now(UTC))):
            return 0.0
        waits_s = max(0.0, self._take_turn(count / rate) - time.monotonic())
        time.sleep(waits_s)
        return waits_s

    def _take_turn(self, lasts_s: float) -> float:
        """Book the next turn; returns its beginning on the monotonic clock, which all processes share."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os_errors_as_faults(str(self._path)):
            descriptor = os.open(self._path, flags, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                now = time.monotonic()
                content = os.pread(descriptor, _FREE_AT.size, 0)
                free_at = _FREE_AT.unpack(content)[0] if len(content) == _FREE_AT.size else now
                is_in_use = now - _LATE_S <= free_at <= now + _MAX_QUEUE_S + lasts_s
                start_at = free_at if is_in_use else now
                os.pwrite(descriptor, _FREE_AT.pack(start_at + lasts_s), 0)
                return float(start_at)
            finally:
                os.close(descriptor)


class Floor:
    """Watches one sending; what the cap made it wait does not count against it."""

    def __init__(self, host: str, pacing: Pacing) -> None:
        self._host = host
        self._pacing = pacing
        self._since = time.monotonic()
        self._sent = 0

    def count(self, sent: int, waited_s: float = 0.0) -> None:
        """Note that bytes were sent. Faults: TRANSIENT where it has been too slow for too long."""
        self._sent += sent
        self._since += waited_s
        took_s = time.monotonic() - self._since
        if took_s < self._pacing.min_rate_over_s:
            return
        rate = self._sent / took_s
        if rate < self._pacing.min_rate_bytes_s:
            wanted = self._pacing.min_rate_bytes_s
            reason = f"took {rate:.0f} bytes a second for {took_s:.0f} s, less than min_rate ({wanted}); given up"
            raise Fault(FaultKind.TRANSIENT, self._host, reason)
        self._since, self._sent = time.monotonic(), 0
