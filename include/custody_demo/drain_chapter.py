"""Chapter drain: two crawler disks at once, one to an object store, one to archive.org and a second machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml
from rich.table import Table

from custody.drain import tables
from custody.faults import Fault
from custody.ledger import Ledger
from custody.ledger.tables import event
from custody_demo.airflow_stack import AirflowStack
from custody_demo.drain_check import Place, look, table_of_fates, table_of_series
from custody_demo.progress import watch
from custody_demo.sample_disk import Fate, SampleCrawl, SampleDisk, make_sample_disk
from custody_demo.workspace import BUCKET, Outcome, Workspace

TITLE = "drain"
DAG_ID = "drain"

TALKS = (
    SampleCrawl(prefix="TALKS-2026", host="crawler21.example.org", pid=902),
    SampleCrawl(prefix="FORUMS", host="crawler22.example.org", pid=31744, first_serial=55),
)


@dataclass(frozen=True)
class Sample:
    """A disk to drain: the name of its configuration, the keys that are its own, and where to look afterwards."""

    config: str
    disk: SampleDisk
    keys: Mapping[str, Any]
    places: tuple[Place, ...]


def run(stack: AirflowStack, workspace: Workspace, *, timeout_s: float = 900) -> Outcome:
    """Make the disks, drain them at the same time, and look where every file is."""
    # The run of this hour starts as soon as the DAG may run; it finds no configuration yet, and is over in seconds.
    stack.wait_for_dag(DAG_ID, timeout_s=120)
    stack.unpause(DAG_ID)
    samples = make_samples(workspace)
    stack.wait_until_idle(DAG_ID, timeout_s=60)
    say = partial(workspace.console.print, soft_wrap=True, highlight=False)
    for sample in samples:
        config, disk = write_config(workspace, sample), sample.disk
        say(f"A crawler's disk: {disk.job_dir} ({len(disk.files)} files, {disk.size_bytes / 1e6:.1f} MB)")
        say(f"How it is drained: {config}, to {' and '.join(place.name for place in sample.places)}")
    run_ids = [stack.trigger(DAG_ID, {"config": sample.config}) for sample in samples]
    for run_id in run_ids:
        say(f"Running: {stack.url}/dags/{DAG_ID}/runs/{run_id}")
    on_progress = watch(workspace.show, lambda: series_progress(workspace.ledger_url))
    states = stack.wait_for_all(DAG_ID, run_ids, on_progress, timeout_s=timeout_s)
    problems = []
    for run_id in run_ids:
        if states[run_id] != "success":
            problems += [f"run {run_id} ended as {states[run_id]}", *_failures(stack, run_id)]
    found = {sample.config: look(sample.disk, sample.places) for sample in samples}
    everything = [each for group in found.values() for each in group]
    problems += [f"{each.file.name}: {each.problem}" for each in everything if each.problem]
    shown = table_of_series(everything), _table_of_events(workspace.ledger_url), table_of_fates(found)
    counts = {fate.value: sum(each.file.fate is fate for each in everything) for fate in Fate}
    return Outcome(TITLE, tuple(problems), counts, shown)


def make_samples(workspace: Workspace) -> list[Sample]:
    """Make both disks: the larger one for one place, the smaller one for as many as there are besides."""
    wide = Sample(
        "wide",
        make_sample_disk(workspace.disk),
        {"max_size": "1200KB", "derive": 0, "target": "s3", "bucket": BUCKET, "connection": "custody_s3"},
        (Place("object store", "in the object store", workspace.bucket),),
    )
    disk = make_sample_disk(
        workspace.small_disk,
        job="talks",
        seed=21,
        crawls=TALKS,
        files_per_crawl=3,
        first_day=datetime(2026, 5, 9, 6, 30, 12, 45_000, tzinfo=UTC),
    )
    keys: dict[str, Any] = {"max_size": "2MB", "derive": 1, "target": "ias3", "connection": "custody_ias3"}
    places = [Place("archive.org stand-in", "in the stand-in for archive.org", workspace.items)]
    if workspace.second_machine:
        machine = {"target": "thumper", "connection": "custody_thumper", "remote_dir": str(workspace.crawls)}
        keys["also"] = [machine]
        places.append(Place("second machine", "on the second machine", workspace.crawls))
    return [wide, Sample("archive", disk, keys, tuple(places))]


def write_config(workspace: Workspace, sample: Sample) -> Path:
    """Write a drain's configuration, dtmon.yml with Custody's own keys, and return its path."""
    path = workspace.config_dir / "drain" / f"{sample.config}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "crawljob": sample.config,
        "job_dir": str(sample.disk.job_dir),
        "xfer_dir": str(sample.disk.xfer_dir),
        "WARC_naming": 2,
        "compact_names": 0,
        "description": "Sample crawl CRAWLJOB of CRAWLHOST from START_DATE to END_DATE",
        "operator": "demo@example.org",
        "collections": "web/crawls/sample",
        "title_prefix": "Sample crawl",
        "creator": "Sample archive",
        "sponsor": "Sample archive",
        "contributor": "Sample archive",
        "scanningcenter": "demo",
        **sample.keys,
        "stable_for_s": 0,
    }
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def series_progress(ledger_url: str) -> dict[str, int]:
    """Return how many series are in which state, as the ledger has it."""
    column = tables.series.c.state
    try:
        with Ledger.open(ledger_url).read() as connection:
            rows = connection.execute(sa.select(column, sa.func.count()).group_by(column)).all()
    except Fault:  # a picture on the way, no proof: the next look will tell
        return {}
    return {f"series {state}": int(count) for state, count in rows}


def ledger_events(ledger_url: str) -> dict[str, int]:
    """Return how many times the ledger's audit has each verb of the room drain."""
    table = event.c
    query = sa.select(table.what, sa.func.count()).where(table.room == "drain").group_by(table.what)
    with Ledger.open(ledger_url).read() as connection:
        return {str(verb): int(count) for verb, count in connection.execute(query).all()}


def _failures(stack: AirflowStack, run_id: str) -> list[str]:
    failed = [task for task in stack.task_instances(DAG_ID, run_id) if task.state == "failed"]
    lines = []
    for task in failed[:5]:
        log = [line for line in stack.task_log(DAG_ID, run_id, task).splitlines() if not line.startswith("::")]
        lines.append(f"task {task.task_id} {task.name} failed; its log ends: {' / '.join(log[-4:])[:600]}")
    return lines


def _table_of_events(ledger_url: str) -> Table:
    table = Table(title="What the ledger has on record")
    table.add_column("what")
    table.add_column("count", justify="right")
    events = ledger_events(ledger_url)
    for verb, wording in _VERBS.items():
        table.add_row(wording, str(events.get(verb, 0)))
    return table


_VERBS = {
    "packed": "files packed into series",
    "sent": "copies sent",
    "proved": "copies proven where they went",
    "deleted": "files deleted after all their proofs",
    "quarantine": "files put aside as damaged",
}
