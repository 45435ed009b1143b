"""Where a job runs: read-only, without network, in a pid space and a file system of its own, with limits.

Bubblewrap sees to the walls. What a job could write to goes when it ends; what it starts ends with it. As root the job
becomes a user of its own, so that the kernel counts its processes; as another user it keeps that user, in a user space
of its own. Without walls (``isolation: weak``) it is what the operator is, and only limits and the end are left.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from custody.bitarchive.batch.inside import Order
from custody.bitarchive.batch.walls import environment as environment_of_jobs
from custody.bitarchive.batch.walls import parents_of, require, walls
from custody.bitarchive.batch.watch import Ended, Watch
from custody.bitarchive.config import Isolation, Limits
from custody.faults import Fault, FaultKind, os_errors_as_faults

_FIRST_UID = 1_900_000_000
_UIDS = 50_000_000
_slots = itertools.count(1)
_running: set[subprocess.Popen[bytes]] = set()
_cancelled: set[subprocess.Popen[bytes]] = set()


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


def run(task: Task, output: Path) -> Ended:
    """Run a job on one file and write its output to ``output`` (made anew); everything it started is gone afterwards.

    Faults: CONFIG where there are no walls, or the job's user could not read the file; CANCELLED by :func:`end_all`; OS
    errors keep their kind.
    """
    require(task.isolation)
    order = replace(task.order, limits=limits_of(task))
    environment = environment_of_jobs()
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
            watch = Watch(process, result, out, task.limits, task.timeout_s, task.isolation)
            register(process)
            try:
                watch.give(json.dumps(asdict(order)).encode() + b"\n")
                watch.follow(started + task.timeout_s)
            finally:
                _end(process)
                unregister(process, task.order.name)
        out.flush()
        os.fsync(out.fileno())
    return watch.ended(time.monotonic() - started)


def path_inside(name: str) -> str:
    """Where a job sees its file."""
    return f"/archive/{name}"


def _inside_walls(task: Task, order: Order) -> tuple[Order, list[str]]:
    argv = walls(task.limits.scratch)
    inner = path_inside(task.order.name)
    argv += [*parents_of(Path(inner)), "--ro-bind", str(task.source), inner]
    code = ""
    if task.code is not None:
        code = f"/job/{task.code.name}"
        argv += [*parents_of(Path(code)), "--ro-bind", str(task.code), code]
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


def unregister(process: subprocess.Popen[bytes], name: str) -> None:
    """It has ended. Faults: CANCELLED where :func:`end_all` ended it: that says nothing of the file."""
    _running.discard(process)
    if process in _cancelled:
        _cancelled.discard(process)
        raise Fault(FaultKind.CANCELLED, name, "its job was ended from outside; nothing is on record of it")


def end_all() -> None:
    """End every job that this process runs, at once; who waits for one is told so."""
    for process in list(_running):
        _cancelled.add(process)
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the group at once; with bubblewrap, the whole pid space goes with it."""
    _kill(process)  # the leader may have ended and left others behind
    process.wait()
