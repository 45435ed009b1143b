"""Chapter drain: a full crawler disk goes to the object store; the last check asks disk and store, not Custody."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sqlalchemy as sa
import yaml
from rich.table import Table

from custody.drain import tables
from custody.faults import Fault
from custody.ledger import Ledger
from custody.ledger.tables import event
from custody_demo.airflow_stack import AirflowStack
from custody_demo.progress import RunProgress
from custody_demo.sample_disk import Fate, SampleDisk, SampleFile, make_sample_disk, md5_of
from custody_demo.workspace import BUCKET, Outcome, Workspace

TITLE = "drain"
DAG_ID = "drain"
CONFIG = "wide"


@dataclass(frozen=True)
class Found:
    """Where one sample file is now, by name and md5: on the disk, in the store; `problem` is empty when all is well."""

    file: SampleFile
    on_disk: tuple[Path, ...]
    in_store: tuple[Path, ...]
    problem: str


def run(stack: AirflowStack, workspace: Workspace, *, timeout_s: float = 900) -> Outcome:
    """Make a disk, drain it, and look where every file is."""
    # The run of this hour starts as soon as the DAG may run; it finds no configuration yet, and is over in seconds.
    stack.wait_for_dag(DAG_ID, timeout_s=120)
    stack.unpause(DAG_ID)
    disk = make_sample_disk(workspace.disk)
    stack.wait_until_idle(DAG_ID, timeout_s=60)
    config = write_config(workspace, disk)
    say = partial(workspace.console.print, soft_wrap=True, highlight=False)
    say(f"\nA crawler's disk: {disk.job_dir} ({len(disk.files)} files, {disk.size_bytes / 1e6:.1f} MB)")
    say(f"How it is drained: {config}")
    run_id = stack.trigger(DAG_ID, {"config": CONFIG})
    say(f"Running: {stack.url}/dags/{DAG_ID}/runs/{run_id}\n")
    with RunProgress(workspace.console, TITLE, lambda: series_progress(workspace.ledger_url)) as progress:
        state = stack.wait(DAG_ID, run_id, progress.show, timeout_s=timeout_s)
    problems = [] if state == "success" else [f"run {run_id} ended as {state}", *_failures(stack, run_id)]
    found = look(disk, workspace.bucket)
    problems += [f"{each.file.name}: {each.problem}" for each in found if each.problem]
    for table in _tables(workspace, found):
        workspace.console.print(table)
    return Outcome(TITLE, tuple(problems), {fate.value: len(disk.of(fate)) for fate in Fate})


def write_config(workspace: Workspace, disk: SampleDisk) -> Path:
    """Write the drain's configuration, dtmon.yml with Custody's own keys, and return its path."""
    path = workspace.config_dir / "drain" / f"{CONFIG}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "crawljob": "wide",
        "job_dir": str(disk.job_dir),
        "xfer_dir": str(disk.xfer_dir),
        "max_size": "1200KB",
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
        "derive": 0,
        "target": "s3",
        "bucket": BUCKET,
        "connection": "custody_s3",
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
    return {str(state): int(count) for state, count in rows}


def ledger_events(ledger_url: str) -> dict[str, int]:
    """Return how many times the ledger's audit has each verb of the room drain."""
    table = event.c
    query = sa.select(table.what, sa.func.count()).where(table.room == "drain").group_by(table.what)
    with Ledger.open(ledger_url).read() as connection:
        return {str(verb): int(count) for verb, count in connection.execute(query).all()}


def look(disk: SampleDisk, bucket: Path) -> list[Found]:
    """Find every sample file by reading disk and store: no ledger, no marker file, no word of Custody's is believed."""
    on_disk = _by_md5(disk.root)
    in_store = _by_md5(bucket)
    return [_judge(each, on_disk.get(each.md5, ()), in_store.get(each.md5, ())) for each in disk.files]


def _judge(file: SampleFile, on_disk: tuple[Path, ...], in_store: tuple[Path, ...]) -> Found:
    stored = tuple(path for path in in_store if path.name == file.name)
    problem = ""
    if file.fate is Fate.DRAINED:
        if not stored:
            problem = "not in the object store with its md5" + ("" if on_disk else ", and not on the disk: LOST")
        elif on_disk:
            problem = f"in the object store, but still on the disk: {on_disk[0]}"
        elif len(stored) > 1:
            problem = f"{len(stored)} times in the object store"
    elif in_store:
        problem = f"should have stayed, but is in the object store: {in_store[0]}"
    elif not on_disk:
        problem = "should have stayed on the disk, and is gone: LOST"
    elif file.fate is Fate.CUT:
        problem = f"not put aside: {file.path}" if file.path in on_disk else ""
    elif file.path not in on_disk:
        problem = f"should not have been touched, but is now {on_disk[0]}"
    return Found(file, on_disk, stored, problem)


def _by_md5(root: Path) -> dict[str, tuple[Path, ...]]:
    found: dict[str, tuple[Path, ...]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            digest = md5_of(path)
            found[digest] = (*found.get(digest, ()), path)
    return found


def _failures(stack: AirflowStack, run_id: str) -> list[str]:
    failed = [task for task in stack.task_instances(DAG_ID, run_id) if task.state == "failed"]
    lines = []
    for task in failed[:5]:
        log = [line for line in stack.task_log(DAG_ID, run_id, task).splitlines() if not line.startswith("::")]
        lines.append(f"task {task.task_id} {task.name} failed; its log ends: {' / '.join(log[-4:])[:600]}")
    return lines


def _tables(workspace: Workspace, found: list[Found]) -> list[Table]:
    fates = Table(title="Every sample file, looked for on disk and in the store by its md5")
    for heading in ("what it was", "files", "MB", "where it should be", "where it is"):
        fates.add_column(heading, justify="right" if heading in ("files", "MB") else "left")
    for fate, meaning in _MEANING.items():
        group = [each for each in found if each.file.fate is fate]
        places = Counter(_place(each) for each in group)
        size_mb = sum(each.file.size_bytes for each in group) / 1e6
        where = ", ".join(f"{count} {place}" for place, count in places.items())
        colour = "red" if any(each.problem for each in group) else "green"
        fates.add_row(fate.value, str(len(group)), f"{size_mb:.1f}", meaning, f"[{colour}]{where}[/]")
    items: dict[str, list[Found]] = {}
    for each in found:
        for path in each.in_store:
            items.setdefault(path.parent.name, []).append(each)
    series = Table(title=f"What arrived in {workspace.bucket} (look for yourself: md5sum)")
    for heading in ("series", "files", "MB"):
        series.add_column(heading, justify="left" if heading == "series" else "right", overflow="fold")
    for item, files in sorted(items.items()):
        series.add_row(item, str(len(files)), f"{sum(each.file.size_bytes for each in files) / 1e6:.1f}")
    happened = Table(title="What the ledger has on record")
    happened.add_column("files")
    happened.add_column("count", justify="right")
    events = ledger_events(workspace.ledger_url)
    for verb, wording in _VERBS.items():
        happened.add_row(wording, str(events.get(verb, 0)))
    return [series, happened, fates]


_VERBS = {
    "packed": "packed into series",
    "sent": "uploaded",
    "proved": "proven at the object store",
    "deleted": "deleted after the proof",
    "quarantine": "put aside as damaged",
}
_MEANING = {
    Fate.DRAINED: "in the store, proven; deleted here",
    Fate.OPEN: "still being written: untouched",
    Fate.CUT: "cut in a member: put aside here",
    Fate.UNMATCHED: "no crawl's name: untouched",
}


def _place(found: Found) -> str:
    places = [name for name, there in (("in the store", found.in_store), ("on the disk", found.on_disk)) if there]
    aside = bool(found.on_disk) and found.file.path not in found.on_disk and not found.in_store
    return "put aside" if aside else " and ".join(places) or "NOWHERE"
