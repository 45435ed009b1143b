"""How long a person waits: for the status of a disk with a long history, and Airflow for the DAG file."""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from bench.measure import ROOT, Contender, Goal, Result, compare

from custody.drain import tables
from custody.drain.series import SeriesState
from custody.ledger import Ledger

HERE = Path(__file__).parent
FILES_A_SERIES = 10


def status_10000(*, rounds: int, scale: float) -> Result:
    """`custody drain status` over 10,000 finished series of 10 files each."""
    count = max(10, int(10_000 * scale))
    with tempfile.TemporaryDirectory(prefix="custody-bench-") as home:
        url = f"sqlite:///{home}/ledger.sqlite"
        ledger = Ledger.upgrade(url)
        _fill(ledger, count)
        ledger.close()
        verbs = {"drain status": ["drain", "status"], "drain status --all": ["drain", "status", "--all"]}
        argv = [sys.executable, "-m", "custody.cli"]
        contenders = [
            Contender(name, lambda verb=verb: [*argv, *verb], env={"CUSTODY_LEDGER": url})
            for name, verb in verbs.items()
        ]
        goals = [Goal(name, "wall_s", at_most=5.0) for name in verbs]
        job = f"{count} finished series, {count * FILES_A_SERIES} files, SQLite"
        return compare("status_10000", job, contenders, rounds=rounds, goals=goals)


def _fill(ledger: Ledger, count: int) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    series = [
        {
            "config": "wide",
            "settings": {},
            "item": f"WIDE-{number:09d}-crawler07",
            "directory": f"/0/xfer/WIDE-{number:09d}-crawler07",
            "state": SeriesState.CLEAN,
            "on_hold": False,
            "planned_at": start + timedelta(minutes=number),
            "changed_at": start + timedelta(minutes=number + 30),
        }
        for number in range(count)
    ]
    with ledger.begin() as connection:
        connection.execute(sa.insert(tables.series), series)
        numbers = list(connection.scalars(sa.select(tables.series.c.id).order_by(tables.series.c.id)))
        files = [
            {
                "series_id": number,
                "source": f"/0/job/WIDE-{number:09d}-{position:05d}.warc.gz",
                "source_key": f"done-{number}-{position}",
                "name": f"WIDE-{number:09d}-{position:05d}.warc.gz",
                "size_bytes": 1_000_000_000 + position,
                "mtime_ns": 0,
                "inode": number,
                "position": position,
                "md5": "0" * 32,
                "sha256": "0" * 64,
            }
            for number in numbers
            for position in range(FILES_A_SERIES)
        ]
        connection.execute(sa.insert(tables.series_file), files)


def dag_parse(*, rounds: int, scale: float) -> Result:
    """What Airflow's processor does to dags/drain.py, in a process that knows airflow.sdk already."""
    with tempfile.TemporaryDirectory(prefix="custody-bench-") as home:
        env = {
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PYTHONPATH": ":".join(str(ROOT / part) for part in ("include", "plugins", "dags")),
        }
        argv = [sys.executable, str(HERE / "parse_dag.py"), str(ROOT / "dags" / "drain.py")]
        contenders = [Contender("dags/drain.py", lambda: argv, env=env, tells_seconds=True)]
        goals = [Goal("dags/drain.py", "wall_s", at_most=1.0)]
        return compare("dag_parse", "one DAG file, first parse", contenders, rounds=rounds, goals=goals)
