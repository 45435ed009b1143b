"""Running programs joined by pipes.

A pipeline fails when any of its programs fails. Everybody's standard error is read to its end, and its tail is kept.
What is to end is ended with everything it started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from custody.faults import Fault, FaultKind, from_os_error, os_errors_as_faults
from custody.host import STDERR_TAIL_CHARS, end_group

POLL_S = 0.2
_TAIL_BYTES = 16_384
SIGPIPE_CODES = frozenset({-signal.SIGPIPE, 128 + signal.SIGPIPE})

Progress = Callable[[int], None]
"""Told how many bytes the output file has; what it raises stops everything."""


@dataclass(frozen=True)
class Command:
    """One program: its argument vector.

    :param may_end_early: whether its reader may leave before it is done (``zcat | head``): SIGPIPE is success then.
    """

    argv: tuple[str, ...]
    may_end_early: bool = False
    env: Mapping[str, str] | None = None

    def accepts(self, code: int) -> bool:
        """Whether this exit status is success."""
        return code == 0 or (self.may_end_early and code in SIGPIPE_CODES)


@dataclass(frozen=True)
class Pipeline:
    """Programs joined by pipes, the last one writing to a file or to memory.

    :param output: file that takes what the last one writes, made anew (or added to with ``append``).
    :param timeout_s: after which it is ended; None waits as long as there is progress.
    :param no_progress_s: how long the output file may stay as it is.
    :param watched: the file that shows progress, where a program writes one of its own.
    """

    commands: tuple[Command, ...]
    output: Path | None = None
    append: bool = False
    timeout_s: float | None = None
    no_progress_s: float | None = None
    watched: Path | None = None


@dataclass(frozen=True)
class Exit:
    """How one program of a pipeline ended."""

    argv: tuple[str, ...]
    code: int
    stderr_tail: str


@dataclass
class Result:
    """How a pipeline ended: every program's exit, and what the last one wrote where no file took it."""

    exits: list[Exit] = field(default_factory=list)
    stdout: bytes = b""


def run(pipeline: Pipeline, *, progress: Progress | None = None, stop: threading.Event | None = None) -> Result:
    """Run a pipeline to its end.

    Faults: CONFIG for a program that is not installed, DATA where one failed (with its code and last words), TRANSIENT
    when it took too long or did not go on, CANCELLED by ``stop``, those of ``progress``.
    """
    with ExitStack() as stack:
        running = _Running(pipeline, stack)
        try:
            running.watch(progress, stop)
        except BaseException:
            running.end()
            raise
        return running.result()


class Feed:
    """A pipeline that we write into: a file that ends with programs behind it.

    Use it as a context manager; leaving the block without an error closes it and checks every exit.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._stack = ExitStack()
        self._running = _Running(pipeline, self._stack, fed=True)
        stdin = self._running.processes[0].stdin
        assert stdin is not None
        self._stdin: IO[bytes] = stdin

    def write(self, data: bytes) -> int:
        """Write. Faults: those of the program that left, where the pipe is broken."""
        try:
            return self._stdin.write(data)
        except BrokenPipeError as error:
            self._fail(error)
            raise

    def close(self) -> Result:
        """End the input, wait for every program and check it. Faults: see :func:`run`."""
        try:
            try:
                self._stdin.close()
            except BrokenPipeError as error:
                self._fail(error)
            self._running.watch(None, None)
            return self._running.result()
        except BaseException:
            self._running.end()
            raise
        finally:
            self._stack.close()

    def abort(self) -> None:
        """End everything at once."""
        self._running.end()
        self._stack.close()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _fail(self, error: BrokenPipeError) -> None:
        """Say who left, not only that the pipe is broken."""
        self._running.wait_a_little()
        self._running.end()
        self._running.result()
        raise Fault(FaultKind.DATA, self._running.name, "left before its input was over") from error


class _Running:
    def __init__(self, pipeline: Pipeline, stack: ExitStack, *, fed: bool = False) -> None:
        self.pipeline = pipeline
        self.processes: list[subprocess.Popen[bytes]] = []
        self._stack = stack
        self._readers: list[threading.Thread] = []
        self._tails: list[deque[bytes]] = []
        self._stdout: list[bytes] = []
        self._began = time.monotonic()
        self._target: int | IO[bytes] = subprocess.PIPE
        if pipeline.output is not None:
            with os_errors_as_faults(str(pipeline.output)):
                self._target = stack.enter_context(pipeline.output.open("ab" if pipeline.append else "wb"))
        try:
            self._start(fed)
        except BaseException:
            self.end()
            raise

    @property
    def name(self) -> str:
        return " | ".join(Path(command.argv[0]).name for command in self.pipeline.commands)

    def _start(self, fed: bool) -> None:
        source: int | IO[bytes] = subprocess.PIPE if fed else subprocess.DEVNULL
        last = len(self.pipeline.commands) - 1
        for number, command in enumerate(self.pipeline.commands):
            target = self._target if number == last else subprocess.PIPE
            process = _start(command, source, target)
            self.processes.append(process)
            if not isinstance(source, int):
                source.close()  # the child has it now; a copy here would hide a broken pipe
            tail: deque[bytes] = deque(maxlen=_TAIL_BYTES // 1024)
            self._tails.append(tail)
            self._read(process.stderr, tail.append)
            if number != last:
                assert process.stdout is not None
                source = process.stdout
        if self._target == subprocess.PIPE:
            self._read(self.processes[-1].stdout, self._stdout.append)

    def _read(self, stream: IO[bytes] | None, take: Callable[[bytes], object]) -> None:
        assert stream is not None

        def drain() -> None:
            with stream:
                while block := os.read(stream.fileno(), 1024):
                    take(block)

        thread = threading.Thread(target=drain, daemon=True)
        thread.start()
        self._readers.append(thread)

    def watch(self, progress: Progress | None, stop: threading.Event | None) -> None:
        size, changed_at = -1, time.monotonic()
        while any(process.poll() is None for process in self.processes):
            now = time.monotonic()
            limit = self.pipeline.timeout_s
            if limit is not None and now - self._began > limit:
                raise Fault(FaultKind.TRANSIENT, self.name, f"did not end within {limit:g} s")
            if stop is not None and stop.is_set():
                raise Fault(FaultKind.CANCELLED, self.name, "was stopped since another part failed")
            found = self._size()
            if found != size:
                size, changed_at = found, now
                if progress:
                    progress(size)
            elif self.pipeline.no_progress_s is not None and now - changed_at > self.pipeline.no_progress_s:
                raise Fault(FaultKind.TRANSIENT, self.name, f"wrote nothing for {self.pipeline.no_progress_s:g} s")
            self._wait_for_any(POLL_S)

    def _wait_for_any(self, timeout_s: float) -> None:
        for process in self.processes:
            if process.poll() is None:
                try:
                    process.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    return

    def wait_a_little(self) -> None:
        """Give a program that closed its input the time to say why."""
        for process in self.processes:
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                return

    def _size(self) -> int:
        watched = self.pipeline.watched or self.pipeline.output
        if watched is None:
            return len(self._stdout)
        try:
            return watched.stat().st_size
        except FileNotFoundError:
            return -1

    def end(self) -> None:
        """End every program, with what it started, even where the program itself has gone."""
        for process in self.processes:
            end_group(process)

    def result(self) -> Result:
        for process in self.processes:
            process.wait()
        for reader in self._readers:
            reader.join(2)  # a grandchild may keep the pipe open; its words are not waited for
        result = Result(stdout=b"".join(self._stdout))
        for command, process, tail in zip(self.pipeline.commands, self.processes, self._tails, strict=True):
            said = b"".join(tail).decode("utf-8", "backslashreplace").strip()[-STDERR_TAIL_CHARS:]
            result.exits.append(Exit(command.argv, process.returncode, said))
        pairs = zip(self.pipeline.commands, result.exits, strict=True)
        failed = [ended for command, ended in pairs if not command.accepts(ended.code)]
        if failed:
            said = "; ".join(_describe(ended) for ended in failed)
            if "No space left on device" in said:
                raise Fault(FaultKind.CAPACITY, self.name, said, next_command="free space on its disk, then run again")
            raise Fault(FaultKind.DATA, self.name, said)
        return result


def _describe(ended: Exit) -> str:
    name = Path(ended.argv[0]).name
    how = f"was killed by signal {-ended.code}" if ended.code < 0 else f"ended with status {ended.code}"
    return f"{name} {how}: {ended.stderr_tail or 'without a word'}"


def _start(command: Command, source: int | IO[bytes], target: int | IO[bytes]) -> subprocess.Popen[bytes]:
    env = {**os.environ, **command.env} if command.env else None
    try:
        return subprocess.Popen(
            list(command.argv), stdin=source, stdout=target, stderr=subprocess.PIPE, process_group=0, env=env
        )
    except FileNotFoundError as error:
        program = command.argv[0]
        raise Fault(FaultKind.CONFIG, program, "is not installed here", next_command=f"install {program}") from error
    except OSError as error:
        raise from_os_error(error, command.argv[0]) from error
