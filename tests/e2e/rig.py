"""What the end-to-end tests stand on: one Airflow, one ledger, one plain S3 server, and disks that are added."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
import yaml

from custody.drain import view
from custody.drain.config import load
from custody.ledger import Ledger, tables
from custody_demo.airflow_api import TaskInstance
from custody_demo.airflow_stack import AirflowStack
from custody_demo.object_store import RcloneS3
from custody_demo.sample_disk import CRAWLS, Fate, SampleCrawl, SampleDisk, make_sample_disk
from drain_site import Store, files_below, fixity, tree
from e2e.workers import CommandLines

DAG_ID = "drain"
STEPS = ("pack", "manifest", "create_item", "upload", "prove", "delete")


@dataclass
class Disk:
    """A sample disk, the configuration of its name, and the store it goes to."""

    name: str
    sample: SampleDisk
    config_file: Path
    store: Store

    def out_of_place(self) -> list[str]:
        """A line for every sample file that is not in exactly the one place where a finished drain has it.

        It reads the disk and the store, and believes no word of Custody's.
        """
        on_disk = _by_fixity((path, fixity(path)) for path in files_below(self.sample.root))
        stored = _by_fixity((Path(key), known) for key, known in self.store.objects().items())
        lines = []
        for file in self.sample.files:
            known = file.md5, file.size_bytes
            here = [path for path in on_disk.get(known, ()) if path.suffix != ".json"]
            there = stored.get(known, [])
            if file.fate is Fate.DRAINED:
                right = not here and [key.name for key in there] == [file.name]
            elif file.fate is Fate.CUT:
                right = here == [file.path.parent / "quarantine" / file.name] and not there
            else:
                right = here == [file.path] and not there
            if not right:
                lines.append(f"{file.fate} {file.name}: on disk {list(map(str, here))}, stored {list(map(str, there))}")
        return lines

    def missing(self) -> list[str]:
        """Sample files whose bytes are no more on the disk, wherever else they are."""
        on_disk = {fixity(path) for path in files_below(self.sample.root)}
        return [file.name for file in self.sample.files if (file.md5, file.size_bytes) not in on_disk]


@dataclass
class Rig:
    """The running parts; `secrets` is what must be seen nowhere."""

    stack: AirflowStack
    plain: RcloneS3
    home: Path
    ledger_url: str
    commands: CommandLines
    secrets: list[str]
    disks: dict[str, Disk] = field(default_factory=dict)

    @property
    def config_dir(self) -> Path:
        return self.home / "config" / DAG_ID

    @property
    def airflow_db(self) -> Path:
        return self.stack.home / "airflow.db"

    def plain_store(self, bucket: str) -> Store:
        """A bucket of the plain S3 server, made when missing; its folder holds every object as a file."""
        folder = self.plain.folder / bucket
        folder.mkdir(exist_ok=True)
        return Store(self.plain.endpoint_url, self.plain.access_key, self.plain.secret_key, bucket, folder)

    def connect(self, connection_id: str, store: Store, *, endpoint_url: str | None = None) -> str:
        """Make an Airflow connection to a store, as an operator does in the web interface."""
        extra = {
            "endpoint_url": endpoint_url or store.endpoint_url,
            "region_name": "us-east-1",
            "config_kwargs": {"s3": {"addressing_style": "path"}},
        }
        body = {
            "connection_id": connection_id,
            "conn_type": "aws",
            "login": store.access_key,
            "password": store.secret_key,
            "extra": json.dumps(extra),
        }
        self.secrets.append(store.secret_key)
        self.stack.request("POST", "/api/v2/connections", body)
        return connection_id

    def add_disk(
        self,
        name: str,
        store: Store | None = None,
        *,
        connection: str = "custody_s3",
        crawls: Sequence[SampleCrawl] = CRAWLS,
        files_per_crawl: int = 3,
        file_size_bytes: int = 50_000,
        **settings: Any,
    ) -> Disk:
        """Make a sample disk and the configuration that drains it; one series a crawl, each on its own."""
        store = store or self.plain_store(name)
        sample = make_sample_disk(
            self.home / "disks" / name,
            seed=sum(name.encode()),
            crawls=crawls,
            files_per_crawl=files_per_crawl,
            file_size_bytes=file_size_bytes,
            compress_level=1,
        )
        content = {
            "crawljob": name,
            "job_dir": str(sample.job_dir),
            "xfer_dir": str(sample.xfer_dir),
            "max_size": "10MB",
            "WARC_naming": 2,
            "target": "s3",
            "bucket": store.bucket,
            "connection": connection,
            "stable_for_s": 0,
            "batch_gib": 0,
        }
        config_file = self.config_dir / f"{name}.yml"
        config_file.write_text(yaml.safe_dump(content | settings))
        self.disks[name] = Disk(name, sample, config_file, store)
        return self.disks[name]

    def trigger(self, **conf: Any) -> str:
        return self.stack.trigger(DAG_ID, conf)

    def wait(
        self, run_id: str, on_progress: Callable[[list[TaskInstance]], None] | None = None, *, timeout_s: float = 240
    ) -> str:
        """Wait for a run to end; returns its state."""
        return self.stack.wait(DAG_ID, run_id, on_progress, timeout_s=timeout_s, every_s=0.5)

    def drain(self, name: str, *, timeout_s: float = 240) -> str:
        """Run the drain of one configuration to its end, which must be a good one; returns the run's id."""
        run_id = self.trigger(config=name)
        state = self.wait(run_id, timeout_s=timeout_s)
        assert state == "success", self.explain(run_id)
        return run_id

    def states(self, run_id: str) -> dict[str, Counter[str]]:
        """How many instances of every task are in which state."""
        found: dict[str, Counter[str]] = {}
        for task in self.stack.task_instances(DAG_ID, run_id):
            found.setdefault(task.task_id.removeprefix("series."), Counter())[task.state] += 1
        return found

    def explain(self, run_id: str) -> str:
        """What failed in a run and the ends of its logs, for the message of an assertion."""
        lines = [f"run {run_id}: {self.stack.run_state(DAG_ID, run_id)}"]
        for task in self.stack.task_instances(DAG_ID, run_id):
            if task.state not in {"success", "skipped", "upstream_failed"}:
                log = self.log_of(run_id, task).splitlines()
                lines.append(f"{task.task_id} {task.name} {task.state}, try {task.try_number}: {' / '.join(log[-4:])}")
        return "\n".join(lines)

    def log_of(self, run_id: str, task: TaskInstance) -> str:
        return self.stack.task_log(DAG_ID, run_id, task)

    def started_runs(self, *configs: str) -> dict[str, str]:
        """The runs that work on these configurations, by their name."""
        runs = self.stack.request("GET", f"/api/v2/dags/{DAG_ID}/dagRuns?order_by=-run_after&limit=100")["dag_runs"]
        found = {(run["conf"] or {}).get("config"): run["dag_run_id"] for run in runs}
        return {name: found[name] for name in configs if name in found}

    def saw_disk(self, name: str, *, used_pct: float) -> None:
        """Put on record that a run has seen the disk of a configuration so full."""
        look = view.look_at_disk(load(str(self.disks[name].config_file)))
        view.record_look(self._ledger(), name, replace(look, used_pct=used_pct), who="tests")

    def weights(self, run_id: str) -> list[int]:
        """The weight that the scheduler gives each task of a run among those of all runs."""
        with closing(self._airflow()) as connection:
            query = "select priority_weight from task_instance where run_id = ?"
            return [int(row[0]) for row in connection.execute(query, (run_id,))]

    def mark_success(self, run_id: str, task: TaskInstance) -> None:
        """What "mark as success" in the grid does."""
        run = f"/api/v2/dags/{DAG_ID}/dagRuns/{quote(run_id, safe='')}"
        path = f"{run}/taskInstances/{task.task_id}/{task.map_index}"
        self.stack.request("PATCH", path, {"new_state": "success"})

    # -- what stays behind ------------------------------------------------------------------------------------------

    def marks(self, disk: Disk) -> dict[str, object]:
        """Everything that a run with nothing to do must leave as it is."""
        return {"disk": tree(disk.sample.root), "store": disk.store.objects(), "ledger": self.ledger_rows()}

    def ledger_rows(self) -> dict[str, int]:
        """How many rows every table has; that a run looked at the disk is no act and is not counted."""
        acts = tables.event.c.what != "look"
        with self._ledger().read() as connection:
            return {
                table.name: connection.scalar(
                    sa.select(sa.func.count()).select_from(table).where(acts if table is tables.event else sa.true())
                )
                or 0
                for table in tables.metadata.sorted_tables
            }

    def deleted_without_proof(self, disk: Disk) -> list[str]:
        """Names of files that are gone from the disk, or recorded as deleted, and had no proof of just them before."""
        proof, copy, event = tables.proof, tables.copy, tables.event
        with self._ledger().read() as connection:
            proofs: dict[tuple[str, int], Any] = {}
            for row in connection.execute(sa.select(proof.c.compared, proof.c.proven_at).join(copy)):
                known = row.compared["digests"]["md5"], row.compared["size_bytes"]
                proofs[known] = min(row.proven_at, proofs.get(known, row.proven_at))
            recorded = (
                sa.select(event.c.subject, event.c.happened_at, event.c.detail)
                .where(event.c.what.in_(("deleting", "deleted")))
                .order_by(event.c.id.desc())
            )
            deleted = {
                row.subject: row.happened_at
                for row in connection.execute(recorded)
                if Path(row.detail["path"]).is_relative_to(disk.sample.root)  # other disks have files of this name
            }
        gone = set(disk.missing())
        bad = []
        for file in disk.sample.files:
            proven_at = proofs.get((file.md5, file.size_bytes))
            if file.name in deleted and (proven_at is None or proven_at > deleted[file.name]):
                bad.append(f"{file.name}: deleted at {deleted[file.name]}, proven at {proven_at}")
            elif file.name in gone and file.name not in deleted:
                bad.append(f"{file.name}: gone, and nobody put on record that it was deleted")
        return bad

    def xcoms(self, run_id: str) -> list[tuple[str, str, str]]:
        """Task, key and value of everything that a run handed on, as Airflow's database has it."""
        query = "select task_id, key, value from xcom where run_id = ?"
        with closing(self._airflow()) as connection:
            return [(task, key, str(value)) for task, key, value in connection.execute(query, (run_id,))]

    def leaks(self) -> list[str]:
        """Every place that holds a secret and should not."""
        found = [f"command line {line[:200]}" for line in self.commands.telling()]
        for part in ("logs", "components"):
            found += self._leaks_below(self.stack.home / part)
        for disk in self.disks.values():
            found += self._leaks_below(disk.sample.root)
        with self._ledger().read() as connection:
            for table in tables.metadata.sorted_tables:
                rows = connection.execute(sa.select(table)).all()
                found += [f"ledger table {table.name}" for row in rows if self._tells(str(tuple(row)))]
        with closing(self._airflow()) as connection:
            names = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
            for name in names:
                rows = connection.execute(f'select * from "{name}"')
                found += [f"Airflow's table {name}" for row in rows if self._tells(repr(row))]
        return found

    def _leaks_below(self, root: Path) -> list[str]:
        return [str(path) for path in files_below(root) if self._tells(path.read_bytes().decode("utf-8", "replace"))]

    def _tells(self, text: str) -> bool:
        return any(secret in text for secret in self.secrets)

    def _ledger(self) -> Ledger:
        return Ledger(self.ledger_url)

    def _airflow(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.airflow_db}?mode=ro", uri=True, timeout=30)


def _by_fixity(found: Iterable[tuple[Path, tuple[str, int]]]) -> dict[tuple[str, int], list[Path]]:
    places: dict[tuple[str, int], list[Path]] = {}
    for path, known in found:
        places.setdefault(known, []).append(path)
    return places
