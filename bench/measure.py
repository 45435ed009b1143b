"""What every comparison needs: contenders run side by side in one run, in random order, and told apart by ratios.

A ratio of two things measured minutes or machines apart means little; one of two that took turns on the same machine
means something. So nothing here promises MB/s: a comparison gives medians of several rounds as ratios to a reference,
with the smallest and largest ratio of a single round beside them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEMORY_DISK = Path("/dev/shm")
TOLERANCE = 0.15
"""A goal that is a ratio counts as met this far off: two runs of one program differ by as much."""


@dataclass(frozen=True)
class Cost:
    """What one run of one contender took: seconds of the clock, CPU seconds of all its processes, its peak memory."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class Contender:
    """One way to do the job.

    :param prepare: called before each run, outside of the measurement; returns the argument vector.
    :param tidy: called after it.
    """

    name: str
    prepare: Callable[[], Sequence[str]]
    tidy: Callable[[], None] = lambda: None
    env: Mapping[str, str] = field(default_factory=dict)
    tells_seconds: bool = False
    """Whether the last line it prints is the time that counts, in seconds."""


@dataclass(frozen=True)
class Goal:
    """What a contender has to reach. ``of``: speed (of the clock), cpu or rss_mb or wall_s."""

    contender: str
    of: str
    at_least: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        unit = {"speed": "x speed", "cpu": "x CPU", "rss_mb": " MB", "wall_s": " s"}[self.of]
        bound = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return f"{self.contender}: {bound}{unit}"

    def is_met(self, value: float) -> bool:
        """Whether a measured value reaches it."""
        slack = TOLERANCE if self.of in {"speed", "cpu"} else 0.0
        low = self.at_least is None or value >= self.at_least * (1 - slack)
        return low and (self.at_most is None or value <= self.at_most * (1 + slack))


@dataclass(frozen=True)
class Ratio:
    """Median of the rounds, and the smallest and largest single round."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Line:
    """What came of one contender."""

    contender: str
    wall_s: float
    cpu_s: float
    peak_rss_mb: float
    speed: Ratio
    cpu: Ratio


@dataclass
class Result:
    """What came of one comparison; written to bench/results as it is."""

    name: str
    job: str
    rounds: int
    at: str
    machine: str
    load_before: float
    load_after: float
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    goals: list[tuple[str, float, bool]] = field(default_factory=list)

    def judge(self, goals: Sequence[Goal]) -> None:
        """Compare with the goals."""
        lines = {line.contender: line for line in self.lines}
        for goal in goals:
            line = lines[goal.contender]
            value = {
                "speed": line.speed.median,
                "cpu": line.cpu.median,
                "rss_mb": line.peak_rss_mb,
                "wall_s": line.wall_s,
            }[goal.of]
            self.goals.append((str(goal), round(value, 3), goal.is_met(value)))

    def save(self) -> Path:
        """Write it to bench/results/NAME.json."""
        path = ROOT / "bench" / "results" / f"{self.name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return path


def run_once(argv: Sequence[str], contender: Contender) -> Cost:
    """Run a program and count the CPU of its whole process tree. Raises where it fails."""
    whole = {**os.environ, "PYTHONPATH": f"{ROOT / 'include'}:{ROOT}", **contender.env}
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(list(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=whole)
        memory = _MemoryWatch(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - started
        peak_rss_bytes = memory.stop()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        words = output.read().decode("utf-8", "replace")
    if process.returncode:
        raise RuntimeError(f"{argv[:3]} ended with {process.returncode}: {words[-2000:]}")
    if contender.tells_seconds:
        wall_s = float(words.splitlines()[-1])
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, peak_rss_bytes)


class _MemoryWatch:
    """Peak memory of a program itself, from the kernel's own mark, looked at until it ends.

    The ru_maxrss of wait4 will not do: Linux counts into it what the parent had at the moment of exec.
    """

    def __init__(self, pid: int) -> None:
        self._file = Path(f"/proc/{pid}/status")
        self._peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            try:
                for line in self._file.read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        self._peak_bytes = max(self._peak_bytes, int(line.split()[1]) * 1024)
            except OSError:
                return

    def stop(self) -> int:
        """The peak, in bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak_bytes


def compare(
    name: str, job: str, contenders: Sequence[Contender], *, rounds: int, goals: Sequence[Goal] = (), seed: int = 0
) -> Result:
    """Let all contenders run ``rounds`` times, each round in another order; the first of the list is the reference."""
    dice = random.Random(seed or time.time_ns())
    costs: dict[str, list[Cost]] = {contender.name: [] for contender in contenders}
    load_before = os.getloadavg()[0]
    for _ in range(rounds):
        for contender in dice.sample(list(contenders), len(contenders)):
            try:
                costs[contender.name].append(run_once(contender.prepare(), contender))
            finally:
                contender.tidy()
    result = Result(
        name=name,
        job=job,
        rounds=rounds,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        load_before=round(load_before, 1),
        load_after=round(os.getloadavg()[0], 1),
    )
    reference = costs[contenders[0].name]
    result.lines = [_line(contender.name, costs[contender.name], reference) for contender in contenders]
    result.judge(goals)
    return result


def _line(name: str, costs: Sequence[Cost], reference: Sequence[Cost]) -> Line:
    return Line(
        contender=name,
        wall_s=round(statistics.median(cost.wall_s for cost in costs), 3),
        cpu_s=round(statistics.median(cost.cpu_s for cost in costs), 3),
        peak_rss_mb=round(max(cost.peak_rss_bytes for cost in costs) / 1e6, 1),
        speed=_ratio([other.wall_s / cost.wall_s for cost, other in zip(costs, reference, strict=True)]),
        cpu=_ratio([cost.cpu_s / other.cpu_s for cost, other in zip(costs, reference, strict=True)]),
    )


def _ratio(values: Sequence[float]) -> Ratio:
    return Ratio(round(statistics.median(values), 3), round(min(values), 3), round(max(values), 3))


def machine() -> str:
    """The machine in a few words."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{os.cpu_count()} x {model}, {memory:.0f} GB"


@contextmanager
def scratch(needed_bytes: int) -> Iterator[Path]:
    """A directory in memory where there is room for it, else on disk."""
    parent = None
    if MEMORY_DISK.is_dir() and os.access(MEMORY_DISK, os.W_OK):
        free = shutil.disk_usage(MEMORY_DISK).free
        available = _available_memory_bytes()
        parent = MEMORY_DISK if min(free, available) > 2 * needed_bytes else None
    path = Path(tempfile.mkdtemp(prefix="custody-bench-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _available_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def write_random(path: Path, size_bytes: int) -> None:
    """A file that does not compress."""
    with path.open("wb") as stream:
        left = size_bytes
        while left > 0:
            left -= stream.write(os.urandom(min(left, 1 << 22)))
