"""What Airflow itself costs for each series: trivial ones through a scheduler, against the same steps without it."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import boto3
import yaml
from bench.measure import Line, Ratio, Result, machine
from bench.server import Server, serve
from botocore.config import Config

from custody.drain import config as configuration
from custody.drain.delete import delete_proven
from custody.drain.manifest import manifest
from custody.drain.pack import pack
from custody.drain.plan import plan_series
from custody.drain.prove import prove
from custody.drain.series import SeriesState, load
from custody.drain.targets.s3 import S3Target
from custody.drain.upload import create_item, upload
from custody.ledger import Ledger
from custody_demo.airflow_stack import PROJECT, AirflowStack
from custody_demo.sample_warc import write_warc

BUCKET = "archive"
STEPS = (pack, manifest, create_item, upload, prove, delete_proven)


def orchestration(*, rounds: int, scale: float) -> Result:
    """100 series of one small file each; one round."""
    count = max(2, int(100 * scale))
    with tempfile.TemporaryDirectory(prefix="custody-bench-") as name:
        home = Path(name)
        (home / "store" / BUCKET).mkdir(parents=True)
        load_before = os.getloadavg()[0]
        with serve(home / "store") as server:
            own_wall_s, own_cpu_s = _without_airflow(home / "alone", server, count)
            wall_s, cpu_s, tasks, start_s = _with_airflow(home / "airflow", server, count)
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    result = Result(
        name="orchestration",
        job=f"{count} series of one small file each, {tasks} tasks, SQLite, LocalExecutor",
        rounds=1,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        load_before=round(load_before, 1),
        load_after=round(os.getloadavg()[0], 1),
    )
    one = Ratio(1.0, 1.0, 1.0)
    speed = Ratio(*[round(own_wall_s / wall_s, 4)] * 3)
    cpu = Ratio(*[round(cpu_s / own_cpu_s, 2)] * 3)
    result.lines = [
        Line("the six steps, without Airflow", round(own_wall_s, 2), round(own_cpu_s, 2), 0.0, one, one),
        Line("the DAG, by a scheduler", round(wall_s, 2), round(cpu_s, 2), round(peak_mb, 1), speed, cpu),
    ]
    result.notes += [
        f"Airflow's own: {(wall_s - own_wall_s) / count:.2f} s and {(cpu_s - own_cpu_s) / count:.2f} CPU-s a series",
        f"the CPU seconds hold Airflow's start and stop ({start_s:.0f} s of the clock, not in the time above)",
    ]
    return result


def _disk(home: Path, count: int) -> dict[str, object]:
    """A job directory with ``count`` files, each of which becomes a series; returns the configuration."""
    import random

    job, xfer = home / "job", home / "xfer"
    for directory in (job, xfer):
        directory.mkdir(parents=True)
    (job / "DRAINME").touch()
    (job / "FINISH_DRAIN").touch()
    for serial in range(count):
        path = job / f"WIDE-20260301110409387-{serial:05d}-14123~crawler07.example.org~8443.warc.gz"
        write_warc(
            path,
            dice=random.Random(serial),
            size_bytes=2000,
            started=datetime(2026, 3, 1, tzinfo=UTC),
            warcinfo={"software": "sample-crawler/1", "format": "WARC File Format 1.0"},
            compress_level=1,
        )
        os.utime(path, (time.time() - 600,) * 2)
    return {
        "crawljob": "wide",
        "job_dir": str(job),
        "xfer_dir": str(xfer),
        "WARC_naming": 2,
        "max_files": 1,
        "target": "s3",
        "bucket": BUCKET,
        "item_naming": f"{home.name}-{{prefix}}-{{serial}}",
        "stable_for_s": 0,
    }


def _without_airflow(home: Path, server: Server, count: int) -> tuple[float, float]:
    values = _disk(home, count)
    config = configuration.parse(values, "the bench")
    ledger = Ledger.upgrade(f"sqlite:///{home / 'ledger.sqlite'}")
    session = boto3.session.Session("key", "secret", region_name="us-east-1")
    client = session.client("s3", endpoint_url=server.endpoint_url, config=Config(s3={"addressing_style": "path"}))
    target = S3Target(client, session.get_credentials(), BUCKET)
    wall_s, cpu_s = time.monotonic(), time.process_time()
    for number in plan_series(ledger, "wide", config, who="bench").series_ids:
        for step in STEPS:
            step(ledger, number, who="bench", targets=(target,))
        _demand_clean(ledger, number)
    return time.monotonic() - wall_s, time.process_time() - cpu_s


def _demand_clean(ledger: Ledger, number: int) -> None:
    series = load(ledger, number)
    if series.state is not SeriesState.CLEAN:
        raise RuntimeError(f"{series.item} is {series.state}: {series.fault_text}")


def _with_airflow(home: Path, server: Server, count: int) -> tuple[float, float, int, float]:
    """Seconds of the run, CPU seconds of everything Airflow did, tasks, and seconds Airflow took to start."""
    home.mkdir()
    ledger = Ledger.upgrade(f"sqlite:///{home / 'ledger.sqlite'}")
    config_dir = home / "config"
    (config_dir / "drain").mkdir(parents=True)
    connection = boto_connection(server)
    env = {
        "CUSTODY_CONFIG_DIR": str(config_dir),
        "CUSTODY_LEDGER": ledger.url,
        "AIRFLOW_CONN_CUSTODY_S3": connection,
    }
    before = _children_cpu_s()
    began = time.monotonic()
    with AirflowStack(home / "stack", extra_env=env) as stack:
        pools = PROJECT / "include/config/pools.json"
        if pools.exists():
            stack.import_pools(pools)
        stack.wait_for_dag("drain", timeout_s=180)
        stack.unpause("drain")
        stack.wait_until_idle("drain", timeout_s=120)
        values = _disk(home, count)
        (config_dir / "drain" / "wide.yml").write_text(yaml.safe_dump(values))
        start_s = time.monotonic() - began
        started = time.monotonic()
        run_id = stack.trigger("drain", {"config": "wide"})
        state = stack.wait("drain", run_id, timeout_s=60 + 60 * count)
        wall_s = time.monotonic() - started
        tasks = len(stack.task_instances("drain", run_id))
    if state != "success":
        raise RuntimeError(f"the run ended as {state}; logs: {stack.home}")
    with ledger.read() as connection_:
        done = connection_.exec_driver_sql("select count(*) from drain_series where state = 'clean'").scalar()
    if done != count:
        raise RuntimeError(f"{done} of {count} series are clean")
    return wall_s, _children_cpu_s() - before, tasks, start_s


def boto_connection(server: Server) -> str:
    """The Airflow connection to the server."""
    import json

    extra = {
        "endpoint_url": server.endpoint_url,
        "region_name": "us-east-1",
        "config_kwargs": {"s3": {"addressing_style": "path"}},
    }
    return json.dumps({"conn_type": "aws", "login": "key", "password": "secret", "extra": extra})


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
