"""The worker processes of one Airflow, found by descent from its scheduler; and what all command lines say."""

from __future__ import annotations

import re
import signal
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from custody_demo import processes
from custody_demo.processes import ProcessId

_TITLE = re.compile(r"airflow worker -- LocalExecutor: ([0-9a-f-]{36})")


@dataclass(frozen=True)
class BusyWorker:
    """A worker that runs a task: the process that supervises, the one that works, and Airflow's id of the task."""

    supervisor: ProcessId
    task: ProcessId
    task_instance: str


@dataclass(frozen=True)
class Kill:
    """One SIGKILL that found its process alive."""

    after_s: float
    role: str
    step: str
    pid: int

    def __str__(self) -> str:
        return f"{self.after_s:6.1f} s  {self.role:10} {self.step:24} pid {self.pid}"


def busy_workers(scheduler_pid: int) -> Iterator[BusyWorker]:
    """Every worker of this scheduler that has a task at work now."""
    for supervisor in _children(scheduler_pid):
        title = _TITLE.match(command_line(supervisor))
        for child in _children(supervisor) if title else ():
            ids = processes.process_id(supervisor), processes.process_id(child)
            if title and ids[0] and ids[1]:
                yield BusyWorker(ids[0], ids[1], title[1])


def step_of(airflow_db: Path, task_instance: str) -> tuple[str, str]:
    """Which task it is, as `series.upload[1]`, and its state; empty where Airflow has counted on to the next try."""
    query = "select task_id, map_index, state from task_instance where id in (?, ?)"
    with closing(sqlite3.connect(f"file:{airflow_db}?mode=ro", uri=True, timeout=30)) as connection:
        row = connection.execute(query, (task_instance, uuid.UUID(task_instance).hex)).fetchone()
    if row is None:
        return "", ""
    return (f"{row[0]}[{row[1]}]" if row[1] >= 0 else str(row[0])), str(row[2])


def kill(process: ProcessId) -> bool:
    """Send SIGKILL to exactly this process and wait for its end; False where it was gone already."""
    if processes.process_id(process.pid) != process:
        return False
    processes.send(process, signal.SIGKILL)
    return processes.wait_until(lambda: processes.process_id(process.pid) != process, timeout_s=10, every_s=0.01)


def command_line(pid: int) -> str:
    """Its argument vector or title, blanks between; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, thread.read_text().split())
        except OSError:
            continue  # that thread ended meanwhile
    return found


@dataclass
class CommandLines:
    """Reads the command line of every process of the machine again and again, as any user of it could."""

    secrets: Iterable[str]
    every_s: float = 0.2
    seen: set[str] = field(default_factory=set)
    looks: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, name="command lines", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self.every_s):
            self.seen |= {command_line(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
            self.looks += 1

    def telling(self) -> list[str]:
        """Those that held a secret. Ceph's own tool, which gives the test's server its user, knows no other way."""
        seen = {line for line in self.seen if "radosgw-admin" not in line}
        return sorted(line for line in seen if any(secret in line for secret in self.secrets))
