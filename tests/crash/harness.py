"""Kill a step at every system call that changes something, run it again, and look whether anything is lost.

Everything is imported once, in the test's process; every part of a visit (prepare, step, the same step again, check)
runs in a child forked from it. The child that is to die waits until strace is attached to it, then runs the step, and
strace kills it as it enters the N-th call of one kind, before the kernel has done anything of that call.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

from crash.summary import REPORTS, CrashReport
from services.need import need

T = TypeVar("T")

SYSCALLS = (
    *("write", "pwrite64", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat"),
    *("fsync", "fdatasync", "ftruncate", "mkdir", "mkdirat", "sendto"),
)
CHILD_TIMEOUT_S = 60.0
ALL_POINTS = os.environ.get("CUSTODY_CRASH_POINTS") == "all"
ATTACH_TIMEOUT_S = 20.0
RERUNS = 3
_PR_SET_PTRACER = 0x59616D61


class DeletedWithoutProof(AssertionError):
    """A check raises this where a copy is gone and no other one is proven; it is counted apart."""


@dataclass(frozen=True)
class CrashPoint:
    """Before the ``number``-th call of one system call (from 1)."""

    syscall: str
    number: int

    def __str__(self) -> str:
        return f"{self.syscall} #{self.number}"


@dataclass(frozen=True)
class _Outcome:
    """How a child ended: its value, or what it raised as text."""

    value: Any = None
    error: str | None = None
    unproven_deletion: bool = False
    killed: bool = False


def enumerate_crash_points(
    prepare: Callable[[Path], T],
    step: Callable[[T], object],
    check: Callable[[T], object],
    *,
    check_after_kill: Callable[[T], object] | None = None,
    syscalls: Sequence[str] = SYSCALLS,
    limit_per_syscall: int | None = None,
    every: int = 1,
    at_most: int | None = None,
    name: str | None = None,
) -> CrashReport:
    """Visit the crash points of a step; a test asserts that ``losses`` of the report is empty.

    :param prepare: gets a fresh, empty directory and returns what the step needs: plain data that can be pickled
        (paths, URLs, numbers; no open ledger, connection or file).
    :param step: what is killed, and then run again until it succeeds, at most three times.
    :param check: the invariants, after the step has succeeded; raises where one does not hold.
    :param check_after_kill: invariants that must hold between the kill and the next run.
    :param syscalls: the kinds of call to kill at; those that the step never makes cost nothing.
    :param limit_per_syscall: no more than this many points of each kind.
    :param every: visit only each ``every``-th point.
    :param at_most: visit no more than this many, spread over the whole step; all with CUSTODY_CRASH_POINTS=all.
    :param name: of the step, for the report.
    """
    visit = _Visit(prepare, step, check, check_after_kill)
    points = _points_of(visit, syscalls)
    chosen = [point for point in points if limit_per_syscall is None or point.number <= limit_per_syscall][::every]
    if at_most is not None and not ALL_POINTS:
        chosen = [chosen[index] for index in _spread(len(chosen))[:at_most]]
    visited = killed = unproven = 0
    losses: list[str] = []
    for point in chosen:
        was_killed, loss = visit.kill_and_run_again(point)
        visited += 1
        killed += was_killed
        if loss:
            losses.append(f"{point}: {loss.error}")
            unproven += loss.unproven_deletion
    report = CrashReport(
        name or str(getattr(step, "__name__", "step")), len(points), visited, killed, tuple(losses), unproven
    )
    REPORTS.append(report)
    print(f"crash points: {report}, {killed} killed, {len(losses)} lost")
    return report


def _points_of(visit: _Visit[T], syscalls: Sequence[str]) -> list[CrashPoint]:
    """Every point of the step, learned from one run that is traced and not killed."""
    counts = visit.count_calls(syscalls)
    return [CrashPoint(syscall, number) for syscall in syscalls for number in range(1, counts[syscall] + 1)]


def _spread(count: int) -> list[int]:
    """The numbers below ``count``, each next one far from those before it, always in the same order."""
    bits = max(1, (count - 1).bit_length())
    reversed_bits = (int(f"{index:0{bits}b}"[::-1], 2) for index in range(1 << bits))
    return [index for index in reversed_bits if index < count]


class _Visit(Generic[T]):
    """One step with its surroundings; each method runs it in a directory of its own."""

    def __init__(
        self,
        prepare: Callable[[Path], T],
        step: Callable[[T], object],
        check: Callable[[T], object],
        check_after_kill: Callable[[T], object] | None,
    ) -> None:
        self.prepare, self.step, self.check, self.check_after_kill = prepare, step, check, check_after_kill

    def count_calls(self, syscalls: Sequence[str]) -> Counter[str]:
        """How often the undisturbed step makes each call: what its busiest thread does, for strace counts by thread."""
        with self._prepared() as (prepared, scratch):
            log = scratch / "calls"
            outcome = _run_traced(self.step, prepared, ["-o", str(log), "-e", f"trace={','.join(syscalls)}"], scratch)
            assert outcome.error is None, f"the step fails without any kill:\n{outcome.error}"
            checked = _run_in_child(self.check, prepared)
            assert checked.error is None, f"the invariants do not hold without any kill:\n{checked.error}"
            by_thread = Counter(re.findall(r"^(\d+) +(\w+)\(", log.read_text(errors="replace"), re.MULTILINE))
        counts: Counter[str] = Counter()
        for (_thread, syscall), count in by_thread.items():
            counts[syscall] = max(counts[syscall], count)
        return counts

    def kill_and_run_again(self, point: CrashPoint) -> tuple[bool, _Outcome | None]:
        """Visit one point: whether the step died there, and what went wrong."""
        inject = f"inject={point.syscall}:signal=KILL:when={point.number}"
        options = ["-o", "/dev/null", "-e", f"trace={point.syscall}", "-e", inject]
        with self._prepared() as (prepared, scratch):
            first = _run_traced(self.step, prepared, options, scratch)
            if first.error:
                return False, _Outcome(error=f"the step raised instead of dying:\n{first.error}")
            if self.check_after_kill:
                outcome = _run_in_child(self.check_after_kill, prepared)
                if outcome.error:
                    return first.killed, outcome
            for _ in range(RERUNS):
                outcome = _run_in_child(self.step, prepared)
                if not outcome.error:
                    break
            else:
                return first.killed, _Outcome(error=f"after the kill the step does not succeed:\n{outcome.error}")
            outcome = _run_in_child(self.check, prepared)
            return first.killed, outcome if outcome.error else None

    @contextmanager
    def _prepared(self) -> Iterator[tuple[T, Path]]:
        scratch = Path(tempfile.mkdtemp(prefix="custody-crash-"))
        try:
            directory = scratch / "work"
            directory.mkdir()
            outcome = _run_in_child(self.prepare, directory)
            assert outcome.error is None, f"prepare fails:\n{outcome.error}"
            yield outcome.value, scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _run_in_child(function: Callable[[Any], object], argument: object) -> _Outcome:
    """Call a function in a forked child and bring its value back."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        outcome = _outcome_of(function, argument)
        try:
            content = pickle.dumps(outcome)
        except Exception as error:  # whatever pickle raises: the author must hear of it
            content = pickle.dumps(_Outcome(error=f"its value is no plain data: {error!r}"))
        with os.fdopen(writer, "wb") as stream:
            stream.write(content)
        os._exit(0)
    os.close(writer)
    deadline = time.monotonic() + CHILD_TIMEOUT_S
    received = bytearray()
    with os.fdopen(reader, "rb", buffering=0) as stream:
        while _is_readable(stream.fileno(), deadline - time.monotonic()) and (block := stream.read(1 << 16)):
            received += block
    status = _end(child, deadline - time.monotonic())
    if not received or status != 0:
        return _Outcome(error=f"ended with status {status}, killed after {CHILD_TIMEOUT_S:g} s if that is -9")
    outcome = pickle.loads(received)
    assert isinstance(outcome, _Outcome)
    return outcome


def _run_traced(function: Callable[[T], object], argument: T, options: Sequence[str], scratch: Path) -> _Outcome:
    """Call a function in a forked child under strace; its error, or that it was killed."""
    report = scratch / "error"
    go_reader, go_writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go_writer)
        # where only ancestors may trace (yama), this child says that anybody of this user may
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1 & (1 << 64) - 1), 0, 0, 0)
        os.read(go_reader, 1)
        outcome = _outcome_of(function, argument)
        if outcome.error:
            report.write_text(outcome.error)
        os._exit(1 if outcome.error else 0)
    os.close(go_reader)
    try:
        with _attached(child, options):
            os.write(go_writer, b"!")
            status = _end(child, CHILD_TIMEOUT_S)
    finally:
        os.close(go_writer)
        if _is_running(child):
            _end(child, 0)
    if status == -signal.SIGKILL:
        return _Outcome(killed=True)
    return _Outcome(error=report.read_text() if report.exists() else None if status == 0 else f"ended with {status}")


@contextmanager
def _attached(child: int, options: Sequence[str]) -> Iterator[None]:
    """Have strace attached to a process and all that it starts, until the end of the block."""
    argv = [need("strace"), "-f", "-e", "signal=none", *options, "-p", str(child)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as strace:
        assert strace.stderr is not None
        try:
            said = b""
            deadline = time.monotonic() + ATTACH_TIMEOUT_S
            while b" attached" not in said:
                assert _is_readable(strace.stderr.fileno(), deadline - time.monotonic()), "strace does not attach"
                block = os.read(strace.stderr.fileno(), 4096)
                said += block
                if not block:
                    pytest.skip(f"strace may not trace here: {said.decode(errors='replace').strip()}")
            yield
        finally:
            try:
                strace.wait(5)  # it ends with the last process it traces
            except subprocess.TimeoutExpired:
                strace.terminate()


def _outcome_of(function: Callable[[Any], object], argument: object) -> _Outcome:
    try:
        return _Outcome(value=function(argument))
    except BaseException as error:  # an exit or a skip in a child must not run on in the copy of the test
        return _Outcome(error=traceback.format_exc(), unproven_deletion=isinstance(error, DeletedWithoutProof))


def _is_readable(descriptor: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0, timeout_s) * 1000))


def _is_running(child: int) -> bool:
    return Path(f"/proc/{child}").exists()


def _end(child: int, timeout_s: float) -> int:
    """Wait for a child, kill it after the time; its exit code, or minus the signal that ended it."""
    descriptor = os.pidfd_open(child)
    try:
        if not _is_readable(descriptor, timeout_s):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
