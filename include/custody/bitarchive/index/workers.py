"""Processes that index files side by side; they end with the one that started them, however it ends.

A worker is ``python -m custody.bitarchive.index.workers``: a line of JSON in (which file, where its lines go), a line
of JSON out. It is started anew and not forked, as the caller may have threads, and it ends at once when its standard
input closes: by then nobody wants what it makes.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import custody
from custody.bitarchive.index.cdxj import index_file
from custody.bitarchive.records.model import Damage
from custody.faults import Fault, FaultKind, from_os_error

MAX_PROCESSES = 64
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Part:
    """What came of one file: its lines are in a file of their own, sorted."""

    path: Path
    records: int
    damages: tuple[Damage, ...]


def cores() -> int:
    """How many processes this one may keep busy."""
    return min(MAX_PROCESSES, len(os.sched_getaffinity(0)))


def write_part(path: Path, name: str, target: Path) -> Part:
    """Index one file into ``target``. Faults: as :func:`~custody.bitarchive.index.cdxj.index_file`; OS errors."""
    index = index_file(path, name)
    with target.open("wb") as out:
        out.writelines(line + b"\n" for line in index.lines)
    return Part(target, index.records, tuple(index.damages))


class Workers:
    """At most so many processes, started as they are needed; none outlives the block.

    :param processes: 1: no other process, everything is done here.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._turns = threading.BoundedSemaphore(processes)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: list[_Worker] = []
        self._closed = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End every worker at once; who waits for one is told so."""
        with self._lock:
            self._closed = True
            ended, self._all, self._idle = self._all, [], []
        for worker in ended:
            worker.end()

    @contextmanager
    def turn(self) -> Iterator[Callable[[Path, str, Path], Part]]:
        """Wait for a turn; yields what indexes one file (see :func:`write_part`) and may be used by this thread."""
        with self._turns:
            if self.processes == 1:
                yield write_part
                return
            worker = self._take()
            yield worker.index
            with self._lock:  # one that raised is not used again
                self._idle.append(worker)

    def _take(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise Fault(FaultKind.CANCELLED, "index", "was stopped")
            if self._idle:
                return self._idle.pop()
            worker = _Worker()
            self._all.append(worker)
            return worker


class _Worker:
    """One process, for one thread at a time."""

    def __init__(self) -> None:
        packages = [str(Path(custody.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for the caller, who ends this one
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, packages))},
        )

    def index(self, path: Path, name: str, target: Path) -> Part:
        """As :func:`write_part`. Faults: also TRANSIENT where the process was ended by somebody else."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"path": str(path), "name": name, "target": str(target)}).encode())
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except (OSError, ValueError):
            answer = b""
        if not answer.endswith(b"\n"):
            self.end()
            reason = f"its process ended with status {self._process.returncode} (no memory?)"
            raise Fault(FaultKind.TRANSIENT, name, reason, next_command="try again, or with fewer processes")
        values: dict[str, Any] = json.loads(answer)
        if "fault" in values:
            raise Fault(FaultKind(values["fault"]), values["subject"], values["reason"], next_command=values["next"])
        return Part(target, values["records"], tuple(Damage(**damage) for damage in values["damages"]))

    def end(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()


def side_by_side(function: Callable[[_T], _R], things: Sequence[_T], threads: int) -> list[_R | Fault]:
    """Call a function with each thing, several at a time; answers and faults in the order of the things.

    Anything but a fault is raised here. The threads are no reason for the program to stay when it is to end.
    """
    answers: dict[int, _R | Fault] = {}
    wrong: list[BaseException] = []
    waiting = iter(list(enumerate(things)))  # that of a list may be asked by several threads

    def work() -> None:
        while not wrong and (item := next(waiting, None)):
            try:
                answers[item[0]] = _answer(function, item[1])
            except BaseException as error:
                wrong.append(error)

    running = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, len(things)))]
    if len(running) <= 1:
        work()
    else:
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    if wrong:
        raise wrong[0]
    return [answers[number] for number in range(len(things))]


def _answer(function: Callable[[_T], _R], thing: _T) -> _R | Fault:
    try:
        return function(thing)
    except Fault as fault:
        return fault


def main() -> int:
    """What a worker does: one file after the other, until nobody asks any more."""
    orders = queue.SimpleQueue[bytes]()
    threading.Thread(target=_read, args=[orders], daemon=True).start()
    while True:
        order = json.loads(orders.get())
        try:
            part = write_part(Path(order["path"]), order["name"], Path(order["target"]))
            answer = {"records": part.records, "damages": [asdict(damage) for damage in part.damages]}
        except Fault as fault:
            answer = _told(fault)
        except OSError as error:
            answer = _told(from_os_error(error, order["name"]))
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


def _told(fault: Fault) -> dict[str, Any]:
    return {"fault": fault.kind, "subject": fault.subject, "reason": fault.reason, "next": fault.next_command}


def _read(orders: queue.SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        orders.put(line)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
