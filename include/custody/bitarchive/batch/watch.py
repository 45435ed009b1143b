"""Looks after a running job: takes what it says, and tells when it has to be ended."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from dataclasses import dataclass
from typing import IO

from custody.bitarchive.batch import memory
from custody.bitarchive.batch.inside import Result
from custody.bitarchive.config import Isolation, Limits
from custody.digests import Hasher
from custody.units import format_size

STDERR_TAIL_BYTES = 8000
RESULT_BYTES = 64 << 20


@dataclass(frozen=True)
class Ended:
    """How it ended.

    :param stopped: why we ended it, or empty.
    :param output_sha256: of the bytes written to the output file.
    :param memory_peak_bytes: the most that was seen in use by all its processes together.
    """

    returncode: int
    stopped: str
    output_bytes: int
    output_sha256: str
    stderr_tail: str
    result: Result | None
    wall_s: float
    memory_peak_bytes: int = 0


class Watch:
    """Reads what a job says until it ends, or has to be ended; limits are in bytes, the deadline is monotonic."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        result: IO[bytes],
        out: IO[bytes],
        limits: Limits,
        timeout_s: float,
        isolation: Isolation,
    ) -> None:
        self._process = process
        self._out = out
        self._limits = limits
        self._timeout_s = timeout_s
        self._isolation = isolation
        self._next_look = 0.0
        self._peak_bytes = 0
        self._hasher = Hasher(("sha256",))
        self._stderr = bytearray()
        self._result = bytearray()
        self._stopped = ""
        self._selector = selectors.DefaultSelector()
        assert process.stdout and process.stderr
        for stream, take in (
            (process.stdout, self._take_output),
            (process.stderr, self._take_stderr),
            (result, self._take_result),
        ):
            self._selector.register(stream, selectors.EVENT_READ, take)

    def give(self, line: bytes) -> None:
        """Hand the order in."""
        assert self._process.stdin
        try:
            self._process.stdin.write(line)
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it could not even start; its standard error says why

    def follow(self, deadline: float) -> None:
        """Read until it ends, or until there is a reason to end it."""
        with self._selector:
            while self._selector.get_map() and not self._stopped:
                left = deadline - time.monotonic()
                if left <= 0:
                    self._stopped = f"did not end within {self._timeout_s:g} s"
                    return
                self._look_at_memory()
                for key, _ in self._selector.select(min(left, memory.LOOK_EVERY_S)):
                    block = os.read(key.fd, 1 << 18)
                    if block:
                        key.data(block)
                    else:
                        self._selector.unregister(key.fileobj)
                if self._process.poll() is not None and self._isolation is Isolation.WEAK:
                    deadline = min(deadline, time.monotonic() + 2)  # what it left behind may hold the pipes open
            if not self._stopped:
                try:
                    self._process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    self._stopped = f"did not end within {self._timeout_s:g} s"

    def _look_at_memory(self) -> None:
        if time.monotonic() < self._next_look:
            return
        family = list(memory.family(self._process.pid))
        used, most = memory.resident_bytes(family), self._limits.memory_all or self._limits.memory
        if used > most:
            used = memory.own_bytes(family)
        self._peak_bytes = max(self._peak_bytes, used)
        self._next_look = time.monotonic() + memory.LOOK_EVERY_S
        if used > most:
            self._stopped = f"used {format_size(used)} of memory in {len(family)} processes (limit {format_size(most)})"

    def _take_output(self, block: bytes) -> None:
        if self._hasher.size_bytes + len(block) > self._limits.output:
            self._stopped = f"wrote more than {self._limits.output} bytes of output"
            return
        self._hasher.update(block)
        self._out.write(block)

    def _take_stderr(self, block: bytes) -> None:
        self._stderr += block
        del self._stderr[:-STDERR_TAIL_BYTES]

    def _take_result(self, block: bytes) -> None:
        if len(self._result) + len(block) > RESULT_BYTES:
            self._stopped = "said more of itself than can be kept"
            return
        self._result += block

    def ended(self, wall_s: float) -> Ended:
        """The account, when it has ended."""
        fixity = self._hasher.fixity()
        return Ended(
            self._process.returncode,
            self._stopped,
            fixity.size_bytes,
            fixity.digests["sha256"],
            self._stderr.decode("utf-8", "replace"),
            _parse(bytes(self._result)),
            wall_s,
            self._peak_bytes,
        )


def _parse(text: bytes) -> Result | None:
    """A job may write anything here: what is no result of ours is none."""
    try:
        values = json.loads(text)
        result = Result(**values)
    except (ValueError, TypeError, RecursionError):
        return None
    expected = (bool, bool, int, list, list, int, bool)
    given = (
        result.ok,
        result.keep_output,
        result.records,
        result.damages,
        result.exceptions,
        result.exceptions_dropped,
        result.made_output,
    )
    if not all(isinstance(value, kind) for value, kind in zip(given, expected, strict=True)):
        return None
    places = [*result.damages, *result.exceptions]
    if not all(isinstance(place, dict) and isinstance(place.get("offset_bytes"), int) for place in places):
        return None
    return result
