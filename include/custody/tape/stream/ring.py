"""The buffer between a source and a tape: it keeps the drive streaming, and lets every byte be looked at on its way.

Bytes go through three hands. The **filler** puts them in (:meth:`Ring.reserve`, :meth:`Ring.commit`), the **inspector**
looks at them (:meth:`Ring.inspect`, :meth:`Ring.pass_on`), the **taker** gets them in whole tape blocks
(:meth:`Ring.take`, :meth:`Ring.give_back`). Each may be a thread of its own. Positions are counted in bytes of the
stream, from 0.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from custody.faults import Fault, FaultKind

_LOOK_EVERY_S = 0.2
_INSPECT_BYTES = 8 << 20
_LEAST_INSPECT_BYTES = 2 << 20
_MOMENT_S = 0.02
_LEAST_BLOCKS = 4
_TRAILING_BYTES = 64 << 20


class Abandoned(Exception):
    """Another hand has failed or ended the work: stop quietly, its error is the one that counts."""


@dataclass
class RingCounts:
    """How the taker fared.

    :ivar underruns: how often it wanted a block and had to wait for the source after it had begun.
    :ivar waited_s: how long it waited for the source, the beginning included.
    """

    underruns: int = 0
    waited_s: float = 0.0


class Ring:
    """A ring of whole tape blocks in one piece of memory, which is taken up only as far as it is used.

    :param size_bytes: rounded down to whole blocks; at least four.
    :param high_water: the taker starts, and starts again after an under-run, when this share is full or the input has
        ended.
    :param stop: when set, every hand gets a CANCELLED fault at its next call, and within 0.2 s when it waits.

    The first error that is put in with :meth:`fail` is kept in :attr:`error`; every waiting hand gets
    :class:`Abandoned`.
    """

    def __init__(
        self, size_bytes: int, *, block_bytes: int, high_water: float = 0.9, stop: threading.Event | None = None
    ) -> None:
        blocks = size_bytes // block_bytes
        if blocks < _LEAST_BLOCKS:
            reason = f"{size_bytes} bytes are less than {_LEAST_BLOCKS} tape blocks of {block_bytes} bytes"
            raise Fault(FaultKind.CONFIG, "tape buffer", reason, next_command="raise the buffer size")
        self.size_bytes = blocks * block_bytes
        self.counts = RingCounts()
        self.error: BaseException | None = None
        self._block_bytes = block_bytes
        self._memory = memoryview(mmap.mmap(-1, self.size_bytes))
        self._least = min(_LEAST_INSPECT_BYTES, self.size_bytes // 8)
        self._high_water = min(int(high_water * self.size_bytes), self.size_bytes)
        self._stop = stop or threading.Event()
        self._changed = threading.Condition()
        self._filled = self._inspected = self._ready = self._taken = 0
        self._is_cut = False
        self._trailing = 0
        self._input_ended = self._all_passed = False
        self._is_flowing = False
        self._scratch: memoryview | None = None

    # -- any hand ----------------------------------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """End the work for all hands; the first error is kept, later ones are noted on it."""
        with self._changed:
            if self.error is None:
                self.error = error
            elif error is not self.error and not isinstance(error, Abandoned):
                self.error.add_note(f"and then: {error}")
            self._changed.notify_all()

    def start_hand(self, work: Callable[[], None], name: str) -> threading.Thread:
        """Let a thread do the work of a hand; what it raises is put in with :meth:`fail`."""

        def guarded() -> None:
            try:
                work()
            except Abandoned:
                return
            except BaseException as error:
                self.fail(error)

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread

    def check(self) -> None:
        """Raise :class:`Abandoned` where another hand has failed, a CANCELLED fault where a stop is asked for."""
        if self.error is not None:
            raise Abandoned
        if self._stop.is_set():
            raise Fault(FaultKind.CANCELLED, "tape stream", "was asked to stop")

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        self.check()
        while not condition():
            self._changed.wait(_LOOK_EVERY_S)
            self.check()

    # -- the filler --------------------------------------------------------------------------------------------------

    def reserve(self) -> memoryview:
        """Free memory in one piece, at least one byte, for :meth:`commit`; waits while the ring is full."""
        with self._changed:
            self._wait_for(lambda: self._is_cut or self._filled - self._taken < self.size_bytes)
            if self._is_cut:
                self._scratch = self._scratch or memoryview(bytearray(self._block_bytes))
                return self._scratch
            return self._free()

    def _free(self) -> memoryview:
        start = self._filled % self.size_bytes
        room = self.size_bytes - (self._filled - self._taken)
        return self._memory[start : min(start + room, self.size_bytes)]

    def commit(self, count: int) -> None:
        """Say that the first ``count`` bytes of what was reserved are filled. After :meth:`cut` they are dropped."""
        with self._changed:
            self.check()
            if self._is_cut:
                self._trailing += count
                if self._trailing > _TRAILING_BYTES:
                    raise Fault(FaultKind.DATA, "tar stream", "does not end after the zeros that end an archive")
                return
            self._filled += count
            self._changed.notify_all()

    def append(self, piece: memoryview | bytes) -> int:
        """Copy as much of a piece in as there is room for, without waiting for more than one byte; how much it was."""
        with self._changed:
            self._wait_for(lambda: self._filled - self._taken < self.size_bytes)
            free = self._free()
            count = min(len(free), len(piece))
            free[:count] = piece[:count]
            self._filled += count
            self._changed.notify_all()
            return count

    def end_input(self) -> None:
        """Say that the source is at its end."""
        with self._changed:
            self._input_ended = True
            self._changed.notify_all()

    # -- the inspector -----------------------------------------------------------------------------------------------

    def inspect(self) -> memoryview | None:
        """What has come and was not looked at yet, at most 8 MiB; None at the end of the input.

        Where little has come, it waits a moment for a piece that is worth looking at.
        """
        with self._changed:
            self._wait_for(lambda: self._filled > self._inspected or self._input_ended)
            if not self._is_worth_a_look():
                self._changed.wait_for(self._is_worth_a_look, _MOMENT_S)
                self.check()
            return self._fresh()

    def _is_worth_a_look(self) -> bool:
        if self._input_ended or self.error is not None:
            return True
        return self._filled - self._inspected >= self._least or self._filled - self._taken == self.size_bytes

    def inspect_now(self) -> memoryview | None:
        """As :meth:`inspect`, without waiting: None where nothing has come."""
        with self._changed:
            return self._fresh()

    def _fresh(self) -> memoryview | None:
        start = self._inspected % self.size_bytes
        count = min(self._filled - self._inspected, self.size_bytes - start, _INSPECT_BYTES)
        return self._memory[start : start + count] if count else None

    def pass_on(self, count: int, *, hold_from: int | None = None) -> None:
        """Say that ``count`` bytes were looked at; the taker may have them, up to the position ``hold_from``."""
        with self._changed:
            self._inspected += count
            ready = self._inspected if hold_from is None else min(hold_from, self._inspected)
            self._ready = max(self._ready, ready)
            self._changed.notify_all()

    def cut(self, position: int) -> None:
        """Drop everything from a position on, which the taker has not got; what still comes in is dropped too."""
        with self._changed:
            self._is_cut = True
            self._filled = self._inspected = self._ready = position
            self._changed.notify_all()

    def wait_for_input_end(self) -> None:
        """Wait until the filler has ended, so that its memory is free for :meth:`append`."""
        with self._changed:
            self._wait_for(lambda: self._input_ended)

    def end(self) -> None:
        """Say that all is passed on: the taker gets what is left, and then None."""
        with self._changed:
            self._all_passed = True
            self._changed.notify_all()

    # -- the taker ---------------------------------------------------------------------------------------------------

    def take(self) -> memoryview | None:
        """The next whole block, or at the end a shorter one, or None. It is the taker's until :meth:`give_back`."""
        with self._changed:
            self.check()
            if not self._all_passed and self._ready - self._taken < self._block_bytes:
                self.counts.underruns += self._is_flowing
                self._is_flowing = False
            if not self._is_flowing:
                began = time.monotonic()
                self._wait_for(lambda: self._all_passed or self._ready - self._taken >= self._high_water)
                self.counts.waited_s += time.monotonic() - began
                self._is_flowing = True
            start = self._taken % self.size_bytes
            count = min(self._block_bytes, self._ready - self._taken)
            return self._memory[start : start + count] if count else None

    def give_back(self, count: int) -> None:
        """Say that a block of ``count`` bytes is on the tape: its memory is free again."""
        with self._changed:
            self._taken += count
            self._changed.notify_all()
