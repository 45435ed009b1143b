"""The middle of a batch: each file of a bucket through the job, and what became of it written down."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from custody import gate, lease
from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.batch import sandbox
from custody.bitarchive.batch.inside import Order
from custody.bitarchive.batch.judge import Outcome, clean, judge
from custody.bitarchive.batch.plan import Batch, directory_of, load
from custody.bitarchive.batch.remote import run_there
from custody.bitarchive.batch.sandbox import Task
from custody.bitarchive.batch.spec import frozen
from custody.bitarchive.batch.watch import Ended
from custody.bitarchive.nodes import ArchiveNode, LocalNode
from custody.bitarchive.nodes_ssh import SshNode
from custody.bitarchive.states import FileState
from custody.bitarchive.tables import batch_file
from custody.digests import FileState as Stat
from custody.faults import Fault, FaultKind
from custody.ledger.store import now

Progress = Callable[[str, FileState], None]


@dataclass(frozen=True)
class Row:
    """One file that waits to be processed."""

    id: int
    position: int
    name: str
    size_bytes: int


def part_of(home: Path, position: int) -> Path:
    """Where the output of one file lies."""
    return home / "parts" / f"{position:09d}.out"


def run_bucket(archive: Archive, batch_id: int, bucket: int, *, progress: Progress | None = None) -> dict[str, int]:
    """Process every file of a bucket that is not done; returns how many ended in which state.

    One owner at a time; may be run again after a kill at any instant: what is on record as done, with its output in
    place, is not done again. Faults: CONFLICT where another process has the bucket.
    """
    loaded = load(archive, batch_id)
    with lease.hold(archive.ledger, f"bitarchive-batch/{batch_id}/{bucket}") as held:
        rows, node_name = _rows(archive, batch_id, bucket)
        if not rows:
            return {}
        runner = _Runner(archive, loaded, held)
        runner.sweep(rows)
        replica = archive.config.replica(loaded.replica)
        try:
            node = archive.node(replica, node_name)
            node.size_of(rows[0].name)  # does it answer at all?
        except Fault as fault:
            lost = Outcome(FileState.UNREACHABLE, error_class=fault.kind, message=str(fault))
            for row in rows:
                runner.write(row, lost)
            return {lost.state: len(rows)}
        return _run_all(archive, runner, node, rows, progress)


def _run_all(
    archive: Archive, runner: _Runner, node: ArchiveNode, rows: list[Row], progress: Progress | None
) -> dict[str, int]:
    counts: dict[str, int] = {}
    waiting = iter(rows)
    with ThreadPoolExecutor(archive.config.workers) as pool:
        running: dict[Future[Outcome], Row] = {}
        try:
            while True:
                while len(running) < archive.config.workers and (row := next(waiting, None)):
                    running[pool.submit(runner.process, node, row)] = row
                if not running:
                    return counts
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    row, outcome = running.pop(future), future.result()
                    runner.write(row, outcome)
                    counts[outcome.state] = counts.get(outcome.state, 0) + 1
                    if progress:
                        progress(row.name, outcome.state)
        except BaseException:
            runner.stop()  # cancelled: what runs is ended at once, and leaves nothing
            raise


def _rows(archive: Archive, batch_id: int, bucket: int) -> tuple[list[Row], str]:
    """The files to be done; one that is on record as done but whose part is gone is to be done again."""
    query = (
        sa.select(batch_file)
        .where(batch_file.c.batch_id == batch_id, batch_file.c.bucket == bucket)
        .order_by(batch_file.c.position)
    )
    home = directory_of(archive, batch_id)
    with archive.ledger.read() as connection:
        found = connection.execute(query).all()
    rows = [
        Row(row.id, row.position, row.name, row.size_bytes)
        for row in found
        if row.state != FileState.DONE or not part_of(home, row.position).exists()
    ]
    return rows, found[0].node if found else ""


class _Runner:
    """Runs the job of one batch on one file after the other."""

    def __init__(self, archive: Archive, loaded: Batch, held: lease.Held) -> None:
        self._archive = archive
        self._batch = loaded
        self._held = held
        self._home = directory_of(archive, loaded.id)
        self._code = frozen(loaded.job, self._home / "job", loaded.job_sha256)
        self._file_timeout_s = loaded.request.file_timeout_s or archive.config.file_timeout_s
        self._deadline = time.monotonic() + (loaded.request.job_timeout_s or archive.config.job_timeout_s)
        self._stopped = False
        (self._home / "parts").mkdir(parents=True, exist_ok=True)

    def sweep(self, rows: list[Row]) -> None:
        """Remove what a killed run left of these files: who has the lease of the bucket has them alone."""
        own = {f"{row.position:09d}" for row in rows}
        for left in (self._home / "parts").glob("*.tmp"):
            if left.name.partition(".")[0] in own:
                left.unlink(missing_ok=True)

    def stop(self) -> None:
        """Begin nothing more, and end what runs."""
        self._stopped = True
        sandbox.end_all()

    def process(self, node: ArchiveNode, row: Row) -> Outcome:
        """Run the job on one file; never raises for what the file or the job did. Faults: CAPACITY, CANCELLED."""
        left_s = self._deadline - time.monotonic()
        if self._stopped or left_s <= 0:
            reason = "was cancelled" if self._stopped else "the time of the whole job was up before its turn"
            return Outcome(FileState.FAILED, error_class="Timeout", message=f"{row.name}: {reason}")
        try:
            outcome = self._processed(node, row, min(self._file_timeout_s, left_s))
            if outcome.state is FileState.FAILED:
                node.size_of(row.name)  # a machine that went away meanwhile is no fault of the file
            return outcome
        except Fault as fault:
            if fault.kind in {FaultKind.CAPACITY, FaultKind.CANCELLED}:
                raise  # no room for outputs, or no time for any: nothing is wrong with this file
            state = FileState.UNREACHABLE if fault.kind in {FaultKind.TRANSIENT, FaultKind.AUTH} else FileState.FAILED
            return Outcome(state, error_class=fault.kind, message=str(fault))

    def _processed(self, node: ArchiveNode, row: Row, timeout_s: float) -> Outcome:
        size = node.size_of(row.name)
        if size is None:
            message = f"{node.place(row.name)}: is not there, and the catalogue says it should be"
            return Outcome(FileState.MISSING, error_class="Missing", message=message)
        if size != row.size_bytes:
            message = f"{node.place(row.name)}: has {size} bytes, and the catalogue says {row.size_bytes}"
            return Outcome(FileState.FAILED, error_class=FaultKind.DATA, message=message)
        if isinstance(node, LocalNode):
            source = node.path(row.name)
            before = _look_at(source)
            outcome = self._run(source, row, timeout_s, sandbox.run)
            if _look_at(source) != before:
                message = f"{source}: changed while the job ran"
                return Outcome(FileState.FAILED, error_class=FaultKind.DATA, message=message)
            return self._verified(node, row, outcome)
        assert isinstance(node, SshNode)
        return self._verified(node, row, self._run(node.path(row.name), row, timeout_s, partial(run_there, node)))

    def _verified(self, node: ArchiveNode, row: Row, outcome: Outcome) -> Outcome:
        """Where it is asked for: the file has the bytes of the catalogue, after the job as before it."""
        if not self._archive.config.verify_after:
            return outcome
        known = catalogue.find(self._archive, row.name)
        found = node.digest(row.name)
        if known is None or not gate.may_record_proof(known.fixity, found).allowed:
            command = f"custody bitarchive check changed {self._archive.name} {self._batch.replica}"
            message = f"{node.place(row.name)}: is not what the catalogue says. Next: {command}"
            return Outcome(FileState.FAILED, error_class=FaultKind.DATA, message=message)
        return outcome

    def _run(self, source: Path, row: Row, timeout_s: float, run: Callable[[Task, Path], Ended]) -> Outcome:
        """Run the job on a file, here or there."""
        temporary = part_of(self._home, row.position).with_suffix(f".{self._held.lease.token}.tmp")
        job = self._batch.job
        order = Order(
            mode="file",
            kind=job.kind,
            job=job.name,
            class_name=job.class_name,
            arguments=list(job.arguments),
            code="",
            name=row.name,
            path="",
            limits={},
            max_exceptions=self._batch.request.max_exceptions or self._archive.config.max_exceptions,
        )
        config = self._archive.config
        task = Task(order, source, self._code, config.limits, timeout_s, config.isolation)
        try:
            ended = run(task, temporary)
            outcome = judge(ended, row.name, job.kind == "executable", config.isolation)
            seen = sandbox.path_inside(row.name)  # there is no such path out here
            outcome = replace(outcome, message=outcome.message.replace(seen, str(source)))
            if outcome.state.has_output:
                temporary.replace(part_of(self._home, row.position))
            return outcome
        finally:
            temporary.unlink(missing_ok=True)

    def write(self, row: Row, outcome: Outcome) -> None:
        """Put on record what became of a file. Faults: CONFLICT where the bucket is somebody else's by now."""
        values = {
            "state": outcome.state,
            "attempts": batch_file.c.attempts + 1,
            "records": outcome.records,
            "damages": outcome.damages,
            "output_bytes": outcome.output_bytes,
            "output_sha256": outcome.output_sha256,
            "error_class": clean(outcome.error_class, 255),
            "message": clean(outcome.message, 4000),
            "offset_bytes": outcome.offset_bytes,
            "detail": outcome.detail or {},
            "changed_at": now(),
        }
        self._held.progress["files_done"] = self._held.progress.get("files_done", 0) + 1
        with self._archive.ledger.begin() as connection:
            self._held.check(connection)
            connection.execute(sa.update(batch_file).where(batch_file.c.id == row.id).values(values))


def _look_at(path: Path) -> Stat | None:
    """What the file system says of a file; None where it is gone."""
    try:
        return Stat.of_path(path)
    except OSError:
        return None
