"""Start programs, know every process that came of them, and leave none behind (Linux: reads /proc)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# In the child, before the program: a shell starts its background jobs with SIGINT ignored, and an ignored signal stays
# ignored in every child; and should the starter be killed, the kernel sends SIGTERM (prctl 1 is PR_SET_PDEATHSIG).
_START_CLEAN = (
    "import ctypes, os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    " ctypes.CDLL(None).prctl(1, signal.SIGTERM); os.execv(sys.argv[1], sys.argv[1:])"
)


class StartError(RuntimeError):
    """A program did not start or did not answer; the message names it and its log file."""


@dataclass(frozen=True)
class ProcessId:
    """A process for good: a pid alone may be used again by another one. `started_ticks` since boot."""

    pid: int
    started_ticks: int


@dataclass(frozen=True)
class _Row:
    parent: int
    session: int
    state: str
    id: ProcessId


def free_ports(count: int) -> list[int]:
    """Return `count` different TCP ports of 127.0.0.1 that were free just now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def is_free(port: int) -> bool:
    """Say whether a server could listen on 127.0.0.1:port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def start(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a program (absolute path first) as leader of its own session, its output appended to `log`.

    It is sent SIGTERM when the thread that started it ends, so start it from one that stays.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-c", _START_CLEAN, *argv],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_until(ready: Callable[[], bool], *, timeout_s: float, every_s: float = 0.1) -> bool:
    """Ask `ready` until it says yes (True) or `timeout_s` have passed (False)."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every_s)
    return True


def last_lines(log: Path, count: int = 5) -> str:
    """Return the last non-empty lines of a log file for an error message, or a note that there are none."""
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return "\n  ".join(lines[-count:]) or "(nothing)"


def lock_directory(home: Path) -> int:
    """Take a directory for this process alone, as long as it lives or until the descriptor is closed."""
    descriptor = os.open(home, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StartError(f"{home} is in use by another process; stop that one, or choose another directory") from None
    return descriptor


def process_id(pid: int) -> ProcessId | None:
    """Return the lasting identity of a running process, or None when there is none (a zombie counts as none)."""
    row = _read_row(pid)
    return None if row is None or row.state in "ZX" else row.id


def _read_row(pid: int) -> _Row | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The name stands in brackets and may itself hold brackets and blanks.
    fields = stat[stat.rindex(")") + 2 :].split()
    return _Row(parent=int(fields[1]), session=int(fields[3]), state=fields[0], id=ProcessId(pid, int(fields[19])))


def _read_table() -> list[_Row]:
    rows = (_read_row(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [row for row in rows if row is not None and row.state not in "ZX"]


@dataclass
class Family:
    """All processes that came of some session leaders: descendants and members of their sessions.

    Look often (`refresh`): whoever was seen once is remembered even when its parent is gone.
    """

    known: set[ProcessId] = field(default_factory=set)

    def refresh(self) -> set[ProcessId]:
        """Look again and return those that live."""
        rows = _read_table()
        living = {row.id for row in rows}
        # A pid that is somebody else's by now leads somebody else's session.
        taken_over = {each.pid for each in living} & {each.pid for each in self.known - living}
        sessions = {each.pid for each in self.known} - taken_over
        members = self.known & living
        while True:
            pids = {each.pid for each in members}
            found = {row.id for row in rows if row.parent in pids or row.session in sessions | pids}
            if found <= members:
                break
            members |= found
        self.known |= members
        return members

    def send(self, signal_number: int) -> None:
        """Send a signal to every living member."""
        for member in self.refresh():
            send(member, signal_number)

    def end(self, *, grace_s: float) -> None:
        """Wait up to `grace_s` for all to go, then TERM, then KILL whoever is left."""
        for signal_number, patience_s in ((None, grace_s), (signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            if signal_number is not None:
                self.send(signal_number)
            if wait_until(lambda: not self.refresh(), timeout_s=patience_s):
                return


def send(process: ProcessId, signal_number: int) -> None:
    """Send a signal to exactly this process; nothing happens when it is gone."""
    if process_id(process.pid) == process:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal_number)
