"""Chapter minidvodb: three groups of survey databases to two hosts over ssh, one too full, one copy killed half-way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from rich.table import Table

from custody.faults import Fault
from custody.ledger import Ledger
from custody.minidvodb import actions, catalogue, destination, queue, report, switches
from custody.minidvodb.actions import Line, Selection
from custody.minidvodb.manifest import take_snapshot
from custody_demo.airflow_stack import PROJECT, AirflowStack
from custody_demo.minidvodb_sample import T0, T1, Shape, make
from custody_demo.processes import wait_until
from custody_demo.progress import watch
from custody_demo.workspace import Outcome, Workspace

TITLE = "minidvodb"
DAG_ID = "minidvodb_copy"
WHO = "demo"
CONNECTION = "custody_thumper"
GROUPS: dict[str, Shape] = {"ThreePi": T1, "MD01": T0, "LAP": T0}
ROOMY, FULL = "ipp022", "ipp055"
DATABASES = 2
SLOW_BYTES_S = 3_000_000


def run(stack: AirflowStack, workspace: Workspace, *, timeout_s: float = 900) -> Outcome:
    """Make the databases, kill a copy half-way, let the DAG finish it and the rest, make room, and look."""
    say = partial(workspace.console.print, soft_wrap=True, highlight=False, markup=False)
    if workspace.second_machine is None:
        say("Survey databases: left out, there is no second machine")
        return Outcome(TITLE)
    home = workspace.home / "minidvodb"
    shutil.rmtree(home, ignore_errors=True)
    stack.wait_for_dag(DAG_ID, timeout_s=120)
    stack.unpause(DAG_ID)
    # the run of this quarter of an hour starts at once; it finds nothing yet, and must be over before ours
    wait_until(
        lambda: bool(stack.request("GET", f"/api/v2/dags/{DAG_ID}/dagRuns?limit=1")["total_entries"]), timeout_s=30
    )
    stack.wait_until_idle(DAG_ID, timeout_s=60)
    ledger = Ledger.open(workspace.ledger_url)
    sources = _prepare(ledger, home)
    say(f"Survey databases: {', '.join(sorted(path.name for path in sources))}, in {home / 'minis'}")
    say(f"wanted on {ROOMY} ({home / ROOMY}) and on {FULL} ({home / FULL}), which keeps no room for them")
    problems = _kill_half_way(ledger, workspace, say)
    problems += _carry_out(stack, workspace, expected="failed", timeout_s=timeout_s)
    workspace.console.print(_table(ledger))
    problems += _problems(ledger, home, host=ROOMY)
    refused = actions.select(ledger, Selection(host=FULL, fault="NO_SPACE"))
    if len(refused) != len(sources) or _visible(home / FULL):
        problems.append(f"{FULL}: {len(refused)} of {len(sources)} copies were refused for want of room")
    say(f"{FULL} gets room; custody minidvodb revert --host {FULL}")
    destination.put(ledger, FULL, who=WHO, settings={"min_free_bytes": 0})
    actions.revert(ledger, Selection(host=FULL), who=WHO)
    problems += _carry_out(stack, workspace, expected="success", timeout_s=timeout_s)
    shown = _table(ledger)
    problems += _problems(ledger, home, host=ROOMY) + _problems(ledger, home, host=FULL)
    states = Counter(line.state for line in actions.select(ledger))
    ledger.close()
    return Outcome(TITLE, tuple(problems), {f"copies {state}": count for state, count in states.items()}, (shown,))


def _prepare(ledger: Ledger, home: Path) -> list[Path]:
    sources = []
    for seed, (group, shape) in enumerate(GROUPS.items()):
        for number in range(1, DATABASES + 1):
            path = make(home / "minis" / f"{group}.{number}", shape, seed=10 * seed + number)
            catalogue.add(ledger, group, str(path), who=WHO)
            sources.append(path)
    for host, settings in ((ROOMY, {"max_rate": SLOW_BYTES_S}), (FULL, {"min_free_bytes": 1 << 60})):
        (home / host).mkdir()
        limits = {"shared_disk": True, "max_running": 3, **settings}  # both are one disk here
        destination.put(ledger, host, who=WHO, connection_id=CONNECTION, settings=limits)
        for group in GROUPS:
            switches.want(ledger, group, host, str(home / host), who=WHO)
    return sources


def _kill_half_way(ledger: Ledger, workspace: Workspace, say: partial[None]) -> list[str]:
    """Start a copy by the command line, and end it with a kill that it cannot see coming."""
    queue.queue_wanted(ledger, who=WHO, group="ThreePi", host=ROOMY)
    line = actions.select(ledger, Selection(host=ROOMY))[0]
    words = [sys.executable, "-m", "custody.cli", "minidvodb", "run", "--copy", str(line.id)]
    told = {"PYTHONPATH": str(PROJECT / "include"), **workspace.environment()}
    log = workspace.home / "minidvodb" / "killed.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            words, env={**os.environ, **told}, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    half_way = wait_until(lambda: worker.poll() is not None or _done_bytes(line) > 6_000_000, timeout_s=60)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    there = _done_bytes(line)
    destination.put(ledger, ROOMY, who=WHO, settings={"max_rate": None})
    say(
        f"Copy {line.id} ({line.name} to {ROOMY}) was killed after {there / 1e6:.0f} MB; nothing of it is visible there"
    )
    if not half_way or there == 0 or _visible(Path(line.path)):
        return [f"the copy that was to be killed half-way was not (its log: {log})"]
    return []


def _done_bytes(line: Line) -> int:
    """What lies in the staging directory of a copy."""
    staged = (Path(line.path) / ".incoming" / f"{line.name}.{line.id}").rglob("*")
    return sum(path.stat().st_size for path in staged if path.is_file())


def _carry_out(stack: AirflowStack, workspace: Workspace, *, expected: str, timeout_s: float) -> list[str]:
    """One run of the DAG to its end."""
    run_id = stack.trigger(DAG_ID, {"limit": 100})
    workspace.console.print(f"Running: {stack.url}/dags/{DAG_ID}/runs/{run_id}", soft_wrap=True, highlight=False)
    on_progress = watch(workspace.show, partial(_counts, workspace.ledger_url))
    states = stack.wait_for_all(DAG_ID, [run_id], on_progress, timeout_s=timeout_s)
    return [] if states[run_id] == expected else [f"run {run_id} ended as {states[run_id]}, not {expected}"]


def _counts(ledger_url: str) -> dict[str, int]:
    try:
        lines = actions.select(Ledger.open(ledger_url))
    except Fault:  # a picture on the way, no proof: the next look will tell
        return {}
    return Counter(f"copies {line.fault_name or line.state}" for line in lines)


def _problems(ledger: Ledger, home: Path, *, host: str) -> list[str]:
    """Whether every database is on a host, proven, and equal to its source to the last entry."""
    problems = []
    lines = actions.select(ledger, Selection(host=host))
    if len(lines) != len(GROUPS) * DATABASES:
        problems.append(f"{host}: {len(lines)} copies are on record, not {len(GROUPS) * DATABASES}")
    for line in lines:
        if line.state != "full" or not line.verified_at:
            problems.append(f"{line.name} on {host}: {line.state}, {line.fault_text}")
        elif not _is_equal(Path(line.source), home / host / line.name):
            problems.append(f"{line.name} on {host}: is not what it should be")
    if foreign := set(_visible(home / host)) - {line.name for line in lines}:
        problems.append(f"{host}: {', '.join(sorted(foreign))} does not belong there")
    return problems


def _is_equal(source: Path, there: Path) -> bool:
    """Every name, permission, size, time and byte, looked at without Custody's own proof."""
    ours, theirs = take_snapshot(source), take_snapshot(there)
    same = {path: entry.stored for path, entry in ours.items()} == {
        path: entry.stored for path, entry in theirs.items()
    }
    files = [os.fsdecode(path) for path, entry in ours.items() if entry.kind == "f"]
    return same and all((source / name).read_bytes() == (there / name).read_bytes() for name in files)


def _visible(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name not in {".incoming", ".custody"})


def _table(ledger: Ledger) -> Table:
    table = Table(title="Host by group, as the ledger has it")
    for heading in ("host", "group", "eligible", "new", "full", "faulted", "MB there"):
        table.add_column(heading, justify="left" if heading in {"host", "group"} else "right")
    for cell in report.cells(ledger):
        numbers = (cell.eligible, cell.new, cell.full, cell.faulted, round(cell.bytes_full / 1e6, 1))
        table.add_row(cell.host, cell.group, *map(str, numbers))
    return table
