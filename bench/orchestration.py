"""What Airflow itself costs for each series: trivial ones through a scheduler, against the same steps without it."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import boto3
import yaml
from bench.measure import Goal, Line, Ratio, Result, machine, scratch
from bench.server import Server, serve
from botocore.config import Config

from custody.drain import config as configuration
from custody.drain.config import DrainConfig
from custody.drain.delete import delete_proven
from custody.drain.manifest import manifest
from custody.drain.pack import pack
from custody.drain.plan import plan_series
from custody.drain.prove import prove
from custody.drain.series import SeriesState, load
from custody.drain.targets.s3 import S3Target
from custody.drain.upload import create_item, upload
from custody.ledger import Ledger
from custody_demo.airflow_api import FINAL_STATES
from custody_demo.airflow_stack import COMPONENTS, PROJECT, AirflowStack
from custody_demo.sample_warc import write_warc

BUCKET = "archive"
SMALL_BYTES = 2_000
PIECE_BYTES = 10_000_000
OWN = "Airflow's own part of a series"
WORKERS = "workers and tasks"
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
STEPS = (pack, manifest, create_item, upload, prove, delete_proven)


def orchestration(*, rounds: int, scale: float) -> Result:
    """100 small series by a scheduler, batched as such of 1 GB are, against the work of draining one of 1 GB."""
    count = max(2, int(100 * scale))
    series_bytes = max(10_000_000, int(1e9 * min(scale, 1.0)))
    with scratch(2 * series_bytes) as home:
        (home / "store" / BUCKET).mkdir(parents=True)
        load_before = os.getloadavg()[0]
        with serve(home / "store") as server:
            gigabyte = _without_airflow(home / "large", server, 4, series_bytes // 4, max_files=4) * (
                1e9 / series_bytes
            )
            small = _without_airflow(home / "small", server, count, SMALL_BYTES, max_files=1) * (1 / count)
            whole, by_component, tasks, batches = _with_airflow(home / "airflow", server, count)
    own = Spent(whole.wall_s / count - small.wall_s, whole.cpu_s / count - small.cpu_s)
    result = Result(
        name="orchestration",
        job=f"{count} series of one small file each, {batches} batches, {tasks} tasks, SQLite, LocalExecutor",
        rounds=1,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        load_before=round(load_before, 1),
        load_after=round(os.getloadavg()[0], 1),
    )
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    result.lines = [
        _line("draining a series of 1 GB, without Airflow", gigabyte, gigabyte),
        _line("draining a series of one small file, without Airflow", small, gigabyte),
        _line(OWN, own, gigabyte, peak_mb),
    ]
    result.judge([Goal(OWN, "cpu", at_most=0.1)])
    parts = ", ".join(f"{name} {cpu_s / count:.2f}" for name, cpu_s in by_component.items())
    batch_cpu_s = own.cpu_s * count / batches
    result.notes += [
        f"CPU-s a series by component: {parts}",
        f"the run took {whole.wall_s:.0f} s, {tasks / whole.wall_s:.1f} tasks a second; start and stop are not in it",
        f"batch_gib is to these files as its default is to series of 1 GB; "
        f"a batch costs {batch_cpu_s:.1f} CPU-s, "
        f"{batch_cpu_s / gigabyte.cpu_s / 10.74:.1%} of draining a series that fills one",
        f"1 GB is four files ({series_bytes / 1e9:g} GB drained), half of their captures text, half pictures",
    ]
    return result


@dataclass(frozen=True)
class Spent:
    """Seconds of the clock and CPU seconds."""

    wall_s: float
    cpu_s: float

    def __mul__(self, factor: float) -> Spent:
        return Spent(self.wall_s * factor, self.cpu_s * factor)


def _line(name: str, spent: Spent, reference: Spent, peak_mb: float = 0.0) -> Line:
    speed = Ratio(*[round(reference.wall_s / spent.wall_s, 2)] * 3)
    cpu = Ratio(*[round(spent.cpu_s / reference.cpu_s, 3)] * 3)
    return Line(name, round(spent.wall_s, 2), round(spent.cpu_s, 2), round(peak_mb, 1), speed, cpu)


def _disk(home: Path, files: int, size_bytes: int, max_files: int) -> dict[str, object]:
    """A job directory with so many files in it; returns the configuration."""
    job, xfer = home / "job", home / "xfer"
    for directory in (job, xfer):
        directory.mkdir(parents=True)
    (job / "DRAINME").touch()
    (job / "FINISH_DRAIN").touch()
    for serial in range(files):
        path = job / f"WIDE-20260301110409387-{serial:05d}-14123~crawler07.example.org~8443.warc.gz"
        write_warc(
            path,
            dice=random.Random(serial),
            size_bytes=min(size_bytes, PIECE_BYTES),
            started=datetime(2026, 3, 1, tzinfo=UTC),
            warcinfo={"software": "sample-crawler/1", "format": "WARC File Format 1.0"},
            compress_level=1,
        )
        piece = path.read_bytes()
        with path.open("ab") as out:  # WARCs may be joined end to end, and making one anew is slow
            for _ in range(size_bytes // PIECE_BYTES - 1):
                out.write(piece)
        os.utime(path, (time.time() - 600,) * 2)
    return {
        "crawljob": "wide",
        "job_dir": str(job),
        "xfer_dir": str(xfer),
        "WARC_naming": 2,
        "max_files": max_files,
        "target": "s3",
        "bucket": BUCKET,
        "item_naming": f"{home.name}-{{prefix}}-{{serial}}",
        "stable_for_s": 0,
    }


def _without_airflow(home: Path, server: Server, files: int, size_bytes: int, *, max_files: int) -> Spent:
    """The steps in this process, series after series; all is deleted at the end of them."""
    config = configuration.parse(_disk(home, files, size_bytes, max_files), "the bench")
    ledger = Ledger.upgrade(f"sqlite:///{home / 'ledger.sqlite'}")
    session = boto3.session.Session("key", "secret", region_name="us-east-1")
    client = session.client("s3", endpoint_url=server.endpoint_url, config=Config(s3={"addressing_style": "path"}))
    target = S3Target(client, session.get_credentials(), BUCKET)
    wall_s, cpu_s = time.monotonic(), time.process_time()
    for number in plan_series(ledger, "wide", config, who="bench").series_ids:
        for step in STEPS:
            step(ledger, number, who="bench", targets=(target,))
        _demand_clean(ledger, number)
    spent = Spent(time.monotonic() - wall_s, time.process_time() - cpu_s)
    for item in (server.folder / BUCKET).iterdir():
        shutil.rmtree(item)
    return spent


def _demand_clean(ledger: Ledger, number: int) -> None:
    series = load(ledger, number)
    if series.state is not SeriesState.CLEAN:
        raise RuntimeError(f"{series.item} is {series.state}: {series.fault_text}")


def _with_airflow(home: Path, server: Server, count: int) -> tuple[Spent, dict[str, float], int, int]:
    """A run from its trigger to its end: what all of Airflow spent, and by component; its tasks and batches."""
    home.mkdir()
    ledger = Ledger.upgrade(f"sqlite:///{home / 'ledger.sqlite'}")
    config_dir = home / "config"
    (config_dir / "drain").mkdir(parents=True)
    env = {
        "CUSTODY_CONFIG_DIR": str(config_dir),
        "CUSTODY_LEDGER": ledger.url,
        "AIRFLOW_CONN_CUSTODY_S3": boto_connection(server),
    }
    with AirflowStack(home / "stack", dags=_dags_without_a_clock(home / "dags"), extra_env=env) as stack:
        stack.import_pools(PROJECT / "include/config/pools.json")
        stack.wait_for_dag("drain", timeout_s=180)
        stack.unpause("drain")
        values = _disk(home, count, SMALL_BYTES, 1)
        values["batch_gib"] = _batch_gib(home / "job")
        (config_dir / "drain" / "wide.yml").write_text(yaml.safe_dump(values))
        before = _cpu_by_component(stack)
        started = time.monotonic()
        run_id = stack.trigger("drain", {"config": "wide"})
        while (state := stack.run_state("drain", run_id)) not in FINAL_STATES:
            time.sleep(2)  # each look costs it something
        wall_s = time.monotonic() - started
        spent = {name: cpu_s - before[name] for name, cpu_s in _cpu_by_component(stack).items()}
        tasks = stack.task_instances("drain", run_id)
        home_of_logs = stack.home
    if state != "success":
        raise RuntimeError(f"the run ended as {state}; logs: {home_of_logs}")
    with ledger.read() as connection:
        done = connection.exec_driver_sql("select count(*) from drain_series where state = 'clean'").scalar()
    if done != count:
        raise RuntimeError(f"{done} of {count} series are clean")
    return Spent(wall_s, sum(spent.values())), spent, len(tasks), sum(task.task_id == "series.pack" for task in tasks)


def _batch_gib(job: Path) -> float:
    """What is to these files as the default of 10 GiB is to series of 1 GB."""
    sizes = [path.stat().st_size for path in job.glob("*.warc.gz")]
    return sum(sizes) / len(sizes) / 1e9 * DrainConfig.model_fields["batch_gib"].default


def _dags_without_a_clock(directory: Path) -> Path:
    """The DAG as it is, but started by nobody else: a run at the full hour would drain the same disk too."""
    text = (PROJECT / "dags" / "drain.py").read_text()
    scheduled = 'schedule="@hourly"'
    if text.count(scheduled) != 1:
        raise RuntimeError(f"dags/drain.py has no {scheduled}")
    directory.mkdir()
    (directory / "drain.py").write_text(text.replace(scheduled, "schedule=None"))
    return directory


def _cpu_by_component(stack: AirflowStack) -> dict[str, float]:
    """CPU seconds so far of each component with all that came of it; the scheduler apart from its workers."""
    spent = dict.fromkeys((*COMPONENTS, WORKERS), 0.0)
    leaders = {stack.pid_of(name): name for name in COMPONENTS}
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # no process, or one that ended meanwhile: its parent has its seconds
        component = leaders.get(int(fields[3]))  # each component leads a session of its own
        if component is None:
            continue
        own, children = (sum(map(int, fields[first : first + 2])) * _TICK_S for first in (11, 13))
        if component == "scheduler":
            is_leader = int(entry.name) in leaders
            spent["scheduler" if is_leader else WORKERS] += own
            spent[WORKERS] += children
        else:
            spent[component] += own + children
    return spent


def boto_connection(server: Server) -> str:
    """The Airflow connection to the server."""
    extra = {
        "endpoint_url": server.endpoint_url,
        "region_name": "us-east-1",
        "config_kwargs": {"s3": {"addressing_style": "path"}},
    }
    return json.dumps({"conn_type": "aws", "login": "key", "password": "secret", "extra": extra})
