"""What Airflow itself costs for a copy: small databases through a scheduler, against the same steps without it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.measure import Line, Ratio, Result, machine, scratch
from bench.orchestration import _cpu_by_component

from custody.ledger import Ledger
from custody.minidvodb import actions, catalogue, destination, queue, switches
from custody.minidvodb.run import carry_out
from custody_demo.airflow_api import FINAL_STATES
from custody_demo.airflow_stack import PROJECT, AirflowStack
from custody_demo.minidvodb_sample import T0, make

DAG = "minidvodb_copy"
OWN = "Airflow's own part of a copy"
BARE = "a copy of a database of 200 kB, without Airflow"
GOAL_CPU_S = 2.0


@dataclass(frozen=True)
class Spent:
    """Seconds of the clock and CPU seconds."""

    wall_s: float
    cpu_s: float


def orchestration(*, rounds: int, scale: float) -> Result:
    """40 small databases to one host, by a scheduler and without it; the directory over there is of this machine."""
    count = max(2, int(40 * scale))
    load_before = os.getloadavg()[0]
    with scratch(1 << 30) as home:
        bare = _without_airflow(_queued(home / "bare", count), count)
        whole, by_component, tasks = _with_airflow(home / "airflow", count)
    own = Spent(whole.wall_s / count - bare.wall_s, whole.cpu_s / count - bare.cpu_s)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    loads = (round(load_before, 1), round(os.getloadavg()[0], 1))
    job = f"{count} databases of 11 files each to one host, {tasks} tasks, SQLite, LocalExecutor"
    result = Result("minidvodb_orchestration", job, 1, at, machine(), *loads)
    result.lines = [_line(BARE, bare, bare), _line(OWN, own, bare)]
    result.judge([])
    found = round(own.cpu_s, 2)
    result.goals.append((f"CPU-s a copy: <= {GOAL_CPU_S:g}", found, found <= GOAL_CPU_S))
    parts = ", ".join(f"{name} {cpu_s / count:.2f}" for name, cpu_s in by_component.items())
    result.notes += [
        f"CPU-s a copy by component: {parts}",
        f"the run took {whole.wall_s:.0f} s; start and stop are not in it",
    ]
    return result


def _line(name: str, spent: Spent, reference: Spent) -> Line:
    speed = Ratio(*[round(reference.wall_s / spent.wall_s, 2)] * 3)
    cpu = Ratio(*[round(spent.cpu_s / reference.cpu_s, 3)] * 3)
    return Line(name, round(spent.wall_s, 2), round(spent.cpu_s, 2), 0.0, speed, cpu)


def _queued(home: Path, count: int) -> Ledger:
    """A ledger in which so many databases are wanted on one host."""
    (home / "there").mkdir(parents=True)
    ledger = Ledger.upgrade(f"sqlite:///{home}/ledger.sqlite")
    destination.put(ledger, "there", who="bench")
    switches.want(ledger, "bench", "there", str(home / "there"), who="bench")
    for number in range(count):
        catalogue.add(ledger, "bench", str(make(home / f"bench.{number}", T0, seed=number)), who="bench")
    return ledger


def _without_airflow(ledger: Ledger, count: int) -> Spent:
    queue.queue_wanted(ledger, who="bench")
    began, before = time.monotonic(), os.times()
    for line in actions.select(ledger):
        carry_out(ledger, line.id, who="bench")
    after = os.times()
    cpu_s = sum(after[:4]) - sum(before[:4])
    return Spent((time.monotonic() - began) / count, cpu_s / count)


def _with_airflow(home: Path, count: int) -> tuple[Spent, dict[str, float], int]:
    """A run from its trigger to its end: what all of Airflow spent, and by component; its tasks."""
    ledger = _queued(home, count)
    env = {"CUSTODY_LEDGER": ledger.url}
    with AirflowStack(home / "stack", dags=_dags_without_a_clock(home / "dags"), extra_env=env) as stack:
        stack.import_pools(PROJECT / "include/config/pools.json")
        stack.wait_for_dag(DAG, timeout_s=180)
        stack.unpause(DAG)
        before, began = _cpu_by_component(stack), time.monotonic()
        run_id = stack.trigger(DAG, {"limit": count})
        while (state := stack.run_state(DAG, run_id)) not in FINAL_STATES:
            time.sleep(2)  # each look costs it something
        wall_s = time.monotonic() - began
        spent = {name: cpu_s - before[name] for name, cpu_s in _cpu_by_component(stack).items()}
        tasks = len(stack.task_instances(DAG, run_id))
    if state != "success" or any(line.state != "full" for line in actions.select(ledger)):
        raise RuntimeError(f"the run ended as {state}")
    return Spent(wall_s, sum(spent.values())), spent, tasks


def _dags_without_a_clock(directory: Path) -> Path:
    """The DAG as it is, but started by nobody else."""
    text = (PROJECT / "dags" / f"{DAG}.py").read_text()
    scheduled = 'schedule="*/15 * * * *"'
    if text.count(scheduled) != 1:
        raise RuntimeError(f"dags/{DAG}.py has no {scheduled}")
    directory.mkdir()
    (directory / f"{DAG}.py").write_text(text.replace(scheduled, "schedule=None"))
    return directory
