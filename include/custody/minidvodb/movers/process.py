"""Run a mover's program: with a watch that ends it when nothing moves, when time is over, when it must not go on."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import IO

from custody.faults import Fault, FaultKind, from_os_error
from custody.host import end_group
from custody.minidvodb.codes import CopyFault, FaultCode
from custody.minidvodb.movers import Job

_LOOK_EVERY_S = 0.5
_TAIL_BYTES = 1 << 16


@cache
def _die_with_us() -> tuple[str, ...]:
    """A worker that is killed takes its program along, which would go on writing otherwise."""
    return ("setpriv", "--pdeathsig", "TERM", "--") if shutil.which("setpriv") else ()


class Watch:
    """Looks after a transfer, and ends it when nothing moves, when time is over, when it must not go on.

    :param end: ends it, from another thread.
    """

    def __init__(self, job: Job, end: Callable[[], None]) -> None:
        self.fault: Fault | None = None
        self._job = job
        self._end = end
        self._over = threading.Event()
        job.moved_at = time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            self.fault = self._complaint()
            if self.fault:
                self._end()
                return

    def _complaint(self) -> Fault | None:
        job, at = self._job, time.monotonic()
        try:
            job.check()
        except Fault as fault:
            return fault
        if at > job.deadline:
            return CopyFault(FaultCode.TIMEOUT, job.far.where, "took longer than its size allows; it was ended")
        if at - job.moved_at > job.stall_s:
            reason = f"nothing moved for {job.stall_s:g} s; it was ended"
            return CopyFault(FaultCode.TIMEOUT, job.far.where, reason)
        return None

    def stop(self) -> None:
        """Look no longer."""
        self._over.set()
        self._thread.join()


class Program:
    """A mover's program while it runs."""

    def __init__(self, process: subprocess.Popen[bytes], job: Job, stderr: IO[bytes]) -> None:
        self.process = process
        self._stderr = stderr
        self._watch = Watch(job, lambda: end_group(process))

    @property
    def fault(self) -> Fault | None:
        """Why it was ended."""
        return self._watch.fault

    def end(self) -> None:
        """Stop watching; end the program where it still runs."""
        self._watch.stop()
        if self.process.poll() is None:
            end_group(self.process)

    @property
    def stderr_tail(self) -> str:
        """The end of what it complained."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _TAIL_BYTES))
        return self._stderr.read().decode("utf-8", "replace")


@contextmanager
def running(argv: Sequence[str], job: Job) -> Iterator[Program]:
    """Start a program under watch, in a process group of its own; nothing of it is left behind, here or over there.

    Faults: CONFIG where it is not installed; what the watch found, in place of whatever came of it.
    """
    with tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(
                [*_die_with_us(), *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                process_group=0,
                env={**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError as error:
            raise Fault(
                FaultKind.CONFIG, argv[0], "is not installed here", next_command=f"install {argv[0]}"
            ) from error
        except OSError as error:
            raise from_os_error(error, argv[0]) from error
        program = Program(process, job, stderr)
        whole = False
        try:
            yield program
            whole = program.fault is None
        except BaseException as error:
            if program.fault and isinstance(error, (OSError, Fault)):
                raise program.fault from error
            raise
        finally:
            program.end()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with suppress(BrokenPipeError):
                        pipe.close()
            if not whole or process.returncode:
                job.far.end_writer()
        if program.fault:
            raise program.fault
