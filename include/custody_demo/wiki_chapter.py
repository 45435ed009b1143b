"""Chapter wiki dump: a public wiki dumped in parts and killed half-way, a private one beside it, and both finished."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from custody.faults import Fault
from custody.ledger import Ledger
from custody.wiki_dump import report
from custody.wiki_dump.bz2.verify import verify
from custody.wiki_dump.making import reading_tools
from custody.wiki_dump.settings import Settings
from custody_demo.airflow_stack import PROJECT, AirflowStack
from custody_demo.processes import wait_until
from custody_demo.progress import watch
from custody_demo.wiki_sample import make_sample_wiki
from custody_demo.workspace import Outcome, Workspace

TITLE = "wiki dump"
DAG_ID, MONITOR = "wiki_dump", "wiki_dump_monitor"
FARM, PUBLIC, PRIVATE = "sample", "harbourwiki", "officewiki"
STALE_S, LEASE_S = 20, 30
_CONF = """[wiki]
dblist={home}/all.dblist
privatelist={home}/private.dblist
dir=/usr/share/mediawiki
[output]
public={home}/public
private={home}/private
temp={home}/temp
[reporting]
adminmail=nomail
staleage={stale}
[otherformats]
multistream=1
[misc]
skipjobs={skip}
[{wiki}]
chunksEnabled=1
pagesPerChunkHistory=30,30
"""


def run(stack: AirflowStack, workspace: Workspace, *, timeout_s: float = 600) -> Outcome:
    """Make two wikis, kill a dump half-way, dump the other one meanwhile, let the monitor clean up, and go on."""
    say = partial(workspace.console.print, soft_wrap=True, highlight=False, markup=False)
    home = workspace.home / "wiki"
    shutil.rmtree(home, ignore_errors=True)
    for dag_id in (DAG_ID, MONITOR):
        stack.wait_for_dag(dag_id, timeout_s=120)
        stack.unpause(dag_id)
        # its run of this hour starts at once; it finds no farm yet, and must be over before ours
        wait_until(partial(_has_run, stack, dag_id), timeout_s=30)
        stack.wait_until_idle(dag_id, timeout_s=60)
    make_farm(workspace, home)
    say(f"Two wikis, {PUBLIC} and {PRIVATE} (private), in {home / 'db'}; their dumps go to {home / 'public'}")
    problems = _kill_half_way(workspace, home, say)
    killed_at = time.monotonic()
    problems += _carry_out(stack, workspace, DAG_ID, {"config": FARM, "wiki": PRIVATE}, timeout_s)
    wait_until(lambda: time.monotonic() - killed_at > LEASE_S + 2, timeout_s=LEASE_S + 10)
    problems += _carry_out(stack, workspace, MONITOR, {"config": FARM}, timeout_s)
    if "dump aborted" not in (home / "public/index.html").read_text():
        problems.append("the index page does not say that a dump was aborted")
    say(f"The monitor found its lock stale: the index page says 'dump aborted', and {PUBLIC} is dumped again")
    problems += _carry_out(stack, workspace, DAG_ID, {"config": FARM, "wiki": PUBLIC}, timeout_s)
    problems += _carry_out(stack, workspace, MONITOR, {"config": FARM}, timeout_s)
    count, found = check(home)
    shown = _table(workspace.ledger_url)
    say(f"The index page, as readers find it: file://{home / 'public/index.html'}")
    return Outcome(TITLE, tuple(problems + found), {"files read back once more": count, "wikis": 2}, (shown,))


def make_farm(workspace: Workspace, home: Path) -> None:
    """Two wikis, their lists, and the configuration of the farm."""
    make_sample_wiki(home / "db" / f"{PUBLIC}.sqlite", pages=90, revisions=8)
    make_sample_wiki(home / "db" / f"{PRIVATE}.sqlite", pages=12, revisions=3)
    (home / "all.dblist").write_text(f"{PUBLIC}\n{PRIVATE}\n")
    (home / "private.dblist").write_text(f"{PRIVATE}\n")
    skip = "sitelistdump" if Path("/usr/bin/7zz").exists() or Path("/usr/bin/7za").exists() else "metahistory7zdump"
    (home / "wikidump.conf").write_text(_CONF.format(home=home, stale=STALE_S, wiki=PUBLIC, skip=skip))
    path = workspace.config_dir / "wiki_dump" / f"{FARM}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"conf": str(home / "wikidump.conf"), "sqlite_dir": str(home / "db"), "lease_s": LEASE_S}
    path.write_text(yaml.safe_dump(content))


def _has_run(stack: AirflowStack, dag_id: str) -> bool:
    return bool(stack.request("GET", f"/api/v2/dags/{dag_id}/dagRuns?limit=1")["total_entries"])


def _kill_half_way(workspace: Workspace, home: Path, say: Any) -> list[str]:
    """A dump on the command line, struck by SIGKILL when the first text part lies there."""
    words = [sys.executable, "-m", "custody.cli", "wiki", "dump", FARM, "--wiki", PUBLIC]
    told = {"PYTHONPATH": str(PROJECT / "include"), **workspace.environment()}
    log = home / "killed.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            words, env={**os.environ, **told}, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )

    def half_done() -> bool:
        made = list((home / "public" / PUBLIC).glob("*/*pages-meta-history*.bz2.inprog"))
        return worker.poll() is not None or bool(made)

    wait_until(half_done, timeout_s=60)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    locks = list((home / "private" / PUBLIC).glob("lock_*"))
    say(f"The dump of {PUBLIC} was killed half-way; its lock is left: {locks[0].read_text() if locks else 'none'}")
    published = list((home / "public" / PUBLIC).glob("*/*pages-meta-history*.bz2"))
    if not locks or published:
        return [f"the dump that was to be killed half-way was not (its log: {log})"]
    return []


def _carry_out(
    stack: AirflowStack, workspace: Workspace, dag_id: str, conf: dict[str, Any], timeout_s: float
) -> list[str]:
    run_id = stack.trigger(dag_id, conf)
    workspace.console.print(f"Running: {stack.url}/dags/{dag_id}/runs/{run_id}", soft_wrap=True, highlight=False)
    on_progress = watch(workspace.show, partial(_counts, workspace.ledger_url))
    states = stack.wait_for_all(dag_id, [run_id], on_progress, timeout_s=timeout_s)
    return [] if states[run_id] == "success" else [f"run {run_id} of {dag_id} ended as {states[run_id]}"]


def _counts(ledger_url: str) -> dict[str, int]:
    try:
        lines = report.list_runs(Ledger.open(ledger_url))
    except Fault:  # a picture on the way, no proof: the next look will tell
        return {}
    return {f"{line.wiki} jobs done": line.done for line in lines}


def check(home: Path) -> tuple[int, list[str]]:
    """Read every published file back, without the ledger; returns their number and what is wrong."""
    problems: list[str] = []
    count = 0
    for root, wiki in ((home / "public", PUBLIC), (home / "private", PRIVATE)):
        directory = max((path for path in (root / wiki).glob("2*") if path.is_dir()), default=None)
        if directory is None:
            problems.append(f"{wiki}: has no dump")
            continue
        status = json.loads((directory / "dumpstatus.json").read_bytes())
        for job, facts in status["jobs"].items():
            if facts["status"] not in {"done", "skipped"}:
                problems.append(f"{wiki}: {job} is {facts['status']}")
            for name, stated in facts.get("files", {}).items():
                count += 1
                problems += _check_file(directory / name, stated)
    if (home / "public" / PRIVATE).exists():
        problems.append(f"{PRIVATE} is private, and lies in the public tree")
    if left := [*home.rglob("lock_*"), *home.rglob("*.inprog")]:
        problems.append(f"{left[0]} was left")
    page = (home / "public/index.html").read_text()
    if page.count("Dump complete") != 2:
        problems.append("the index page does not show two complete dumps")
    return count, problems


def _check_file(path: Path, stated: dict[str, Any]) -> list[str]:
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != stated["md5"] or len(content) != stated["size"]:
        return [f"{path.name} is not what dumpstatus.json says"]
    try:
        verify(path, tools=reading_tools(Settings()))
    except Fault as fault:
        return [str(fault)]
    return []


def _table(ledger_url: str) -> Table:
    table = Table(title="Dumps, as the ledger has them")
    for heading in ("wiki", "date", "state", "jobs done", "texts lost"):
        table.add_column(heading)
    for line in report.list_runs(Ledger.open(ledger_url)):
        table.add_row(line.wiki, line.date, line.words, f"{line.done} of {line.jobs}", str(line.lost))
    return table
