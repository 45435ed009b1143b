"""Where a job runs: read-only, without network, in a pid space and a file system of its own, with limits.

Bubblewrap sees to the walls. What a job could write to goes when it ends; what it starts ends with it. As root the job
becomes a user of its own, so that the kernel counts its processes; as another user it keeps that user, in a user space
of its own. Without walls (``isolation: weak``) it is what the operator is, and only limits and the end are left.
"""

from __future__ import annotations

import itertools
import json
import os
import selectors
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO

import custody
from custody.bitarchive.batch.inside import Order, Result
from custody.bitarchive.config import Isolation, Limits
from custody.digests import Hasher
from custody.faults import Fault, FaultKind, os_errors_as_faults

STDERR_TAIL_BYTES = 8000
RESULT_BYTES = 64 << 20
_FIRST_UID = 1_900_000_000
_UIDS = 50_000_000
_slots = itertools.count(1)
_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True)
class Task:
    """One run of a job on one file.

    :param order: its ``path`` and ``code`` are names within the sandbox; see :func:`run`.
    :param source: the archive file (or the outputs to post-process) on this machine.
    :param code: the job's frozen code, None for a job of the library.
    """

    order: Order
    source: Path
    code: Path | None
    limits: Limits
    timeout_s: float
    isolation: Isolation


@dataclass(frozen=True)
class Ended:
    """How it ended.

    :param stopped: why we ended it, or empty.
    :param output_sha256: of the bytes written to the output file.
    """

    returncode: int
    stopped: str
    output_bytes: int
    output_sha256: str
    stderr_tail: str
    result: Result | None
    wall_s: float


def limits_of(task: Task) -> dict[str, int]:
    """The limits of the kernel, by their names in :mod:`resource`."""
    cpu_s = task.limits.cpu_s or int(task.timeout_s) + 1
    return {
        "RLIMIT_CPU": cpu_s,
        "RLIMIT_AS": task.limits.memory,
        "RLIMIT_NPROC": task.limits.processes,
        "RLIMIT_FSIZE": task.limits.scratch,
        "RLIMIT_NOFILE": 256,
        "RLIMIT_CORE": 0,
    }


@cache
def why_no_bubblewrap() -> str:
    """Why bubblewrap cannot be used here; empty where it can."""
    argv = [*_walls(), "--", sys.executable, "-c", "pass"]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=30, check=False, env={})
    except FileNotFoundError:
        return "is not installed (apt-get install bubblewrap)"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run here ({error})"
    complaint = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return "" if done.returncode == 0 else f"does not run here ({' '.join(complaint[-1:]) or done.returncode})"


def require(isolation: Isolation) -> None:
    """Refuse to run jobs without walls, unless the operator has allowed it. Faults: CONFIG."""
    if isolation is Isolation.BUBBLEWRAP and (reason := why_no_bubblewrap()):
        next_step = "install it, or set `isolation: weak` if every job is trusted like the operator"
        raise Fault(FaultKind.CONFIG, "bubblewrap", reason, next_command=next_step)


def _walls(scratch_bytes: int = 1 << 20) -> list[str]:
    """The argument vector up to what differs from job to job; ``scratch_bytes`` is the room of its /tmp."""
    argv = ["bwrap", "--die-with-parent", "--new-session", "--clearenv"]
    argv += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    argv += ["--hostname", "batch", "--proc", "/proc", "--dev", "/dev", "--cap-drop", "ALL"]
    if os.geteuid() == 0:
        argv += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]  # to become the job's own user, and no more
    else:
        argv += ["--unshare-user"]
    # the /tmp comes before what is bound: Custody itself may be installed below the /tmp out here
    argv += ["--size", str(scratch_bytes), "--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108
    for path in _system_paths():
        if path.is_symlink():
            argv += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            argv += [*_parents(path), "--ro-bind", str(path), str(path)]
    for variable, value in _environment().items():
        argv += ["--setenv", variable, value]
    return argv


def _parents(path: Path) -> list[str]:
    """Bubblewrap would make the directories above for its own user only."""
    above = [str(parent) for parent in reversed(path.parents)][1:]
    return [word for parent in above for word in ("--perms", "0755", "--dir", parent)]


def _system_paths() -> Iterable[Path]:
    for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        yield Path("/", name)
    for name in ("ld.so.cache", "alternatives", "localtime", "mime.types"):
        path = Path("/etc", name)
        if not path.is_symlink():
            yield path
    seen = [Path("/usr")]
    for path in (Path(sys.base_prefix), Path(sys.prefix), *_packages(), Path(custody.__file__).parent):
        if not any(path.is_relative_to(parent) for parent in seen):
            seen.append(path)
            yield path


def _packages() -> list[Path]:
    """Where installed packages are, wherever that is: a container may have them below its user's home."""
    named = (Path(entry) for entry in sys.path if entry)
    return [path for path in named if path.name in {"site-packages", "dist-packages"} and path.is_dir()]


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",  # noqa: S108 - the sandbox's own
        "LANG": "C.UTF-8",
        "PYTHONPATH": ":".join(map(str, [Path(custody.__file__).parents[1], *_packages()])),
        "PYTHONHASHSEED": "0",  # the same output every time, for jobs that iterate over sets too
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }


def run(task: Task, output: Path) -> Ended:
    """Run a job on one file and write its output to ``output`` (made anew); everything it started is gone afterwards.

    Faults: CONFIG where there are no walls, or the job's user could not read the file; OS errors keep their kind.
    """
    require(task.isolation)
    order = replace(task.order, limits=limits_of(task))
    environment = _environment()
    if task.isolation is Isolation.BUBBLEWRAP:
        order, argv = _inside_walls(task, _with_user(order, task.source))
    else:
        order = replace(order, path=str(task.source), code=str(task.code or ""))
        argv = []
    if order.kind == "package":
        environment["PYTHONPATH"] += f":{order.code}"
        argv += ["--setenv", "PYTHONPATH", environment["PYTHONPATH"]] if argv else []
    answer, given = os.pipe()
    program = [sys.executable, "-s", "-m", "custody.bitarchive.batch.inside", str(given)]
    argv = [*argv, "--", *program] if argv else program
    with os_errors_as_faults(str(output)), output.open("wb") as out:
        started = time.monotonic()
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(given,),
                env=environment,
                process_group=0,
                cwd="/",
            )
        finally:
            os.close(given)
        with os.fdopen(answer, "rb") as result, process:
            watch = _Watch(process, result, out, task)
            register(process)
            try:
                watch.give(json.dumps(asdict(order)).encode() + b"\n")
                watch.follow(started + task.timeout_s)
            finally:
                _end(process)
                unregister(process)
        out.flush()
        os.fsync(out.fileno())
    return watch.ended(time.monotonic() - started)


def _inside_walls(task: Task, order: Order) -> tuple[Order, list[str]]:
    argv = _walls(task.limits.scratch)
    inner = f"/archive/{task.order.name}"
    argv += [*_parents(Path(inner)), "--ro-bind", str(task.source), inner]
    code = ""
    if task.code is not None:
        code = f"/job/{task.code.name}"
        argv += [*_parents(Path(code)), "--ro-bind", str(task.code), code]
    argv += ["--chdir", "/tmp"]  # noqa: S108
    return replace(order, path=inner, code=code), argv


def _with_user(order: Order, source: Path) -> Order:
    """As root: a user of its own for the job; where only owner or group may read the file, that one."""
    if os.geteuid() != 0:
        return order
    with os_errors_as_faults(str(source)):
        found = source.stat()
    own = _FIRST_UID + (os.getpid() * 1009 + next(_slots)) % _UIDS
    if found.st_mode & stat.S_IROTH:
        return replace(order, uid=own, gid=own)
    if found.st_mode & stat.S_IRGRP and found.st_gid:
        return replace(order, uid=own, gid=found.st_gid)
    if found.st_mode & stat.S_IRUSR and found.st_uid:
        return replace(order, uid=found.st_uid, gid=own)
    reason = "only root may read it, and jobs do not run as root"
    raise Fault(FaultKind.CONFIG, str(source), reason, next_command=f"chmod o+r {source}")


def register(process: subprocess.Popen[bytes]) -> None:
    """Let :func:`end_all` end this one too."""
    _running.add(process)


def unregister(process: subprocess.Popen[bytes]) -> None:
    """It has ended."""
    _running.discard(process)


def end_all() -> None:
    """End every job that this process runs, at once."""
    for process in list(_running):
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the group at once; with bubblewrap, the whole pid space goes with it."""
    _kill(process)  # the leader may have ended and left others behind
    process.wait()


class _Watch:
    """Reads what a job says until it ends, or has to be ended."""

    def __init__(self, process: subprocess.Popen[bytes], result: IO[bytes], out: IO[bytes], task: Task) -> None:
        self._process = process
        self._out = out
        self._task = task
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
        assert self._process.stdin
        try:
            self._process.stdin.write(line)
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it could not even start; its standard error says why

    def follow(self, deadline: float) -> None:
        with self._selector:
            while self._selector.get_map() and not self._stopped:
                left = deadline - time.monotonic()
                if left <= 0:
                    self._stopped = f"did not end within {self._task.timeout_s:g} s"
                    return
                for key, _ in self._selector.select(min(left, 1.0)):
                    block = os.read(key.fd, 1 << 18)
                    if block:
                        key.data(block)
                    else:
                        self._selector.unregister(key.fileobj)
                if self._process.poll() is not None and self._task.isolation is Isolation.WEAK:
                    deadline = min(deadline, time.monotonic() + 2)  # what it left behind may hold the pipes open
            if not self._stopped:
                try:
                    self._process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    self._stopped = f"did not end within {self._task.timeout_s:g} s"

    def _take_output(self, block: bytes) -> None:
        if self._hasher.size_bytes + len(block) > self._task.limits.output:
            self._stopped = f"wrote more than {self._task.limits.output} bytes of output"
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
        fixity = self._hasher.fixity()
        return Ended(
            self._process.returncode,
            self._stopped,
            fixity.size_bytes,
            fixity.digests["sha256"],
            self._stderr.decode("utf-8", "replace"),
            _parse(bytes(self._result)),
            wall_s,
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
