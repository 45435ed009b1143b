"""The frame of every task of a run: one owner, a lock that is touched while there is progress, faults on record."""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy.engine import Connection

from custody import lease
from custody.faults import Fault, FaultKind, from_os_error
from custody.lease import Lease
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.wiki_dump import lockfile, runs, servers
from custody.wiki_dump.access import Access
from custody.wiki_dump.runs import ROOM, Run
from custody.wiki_dump.status import JobState


class Heartbeat:
    """Touches the lock and renews the lease every ten seconds, as long as the work goes on."""

    def __init__(
        self, ledger: Ledger, run: Run, *, server: str | None = None, touch_s: float = lockfile.TOUCH_S
    ) -> None:
        self._ledger, self._run, self._touch_s = ledger, run, touch_s
        self._server = server
        self._lease = Lease(run.lease_name, run.token, run.owner, run.changed_at)
        self._ttl = timedelta(seconds=run.farm.lease_s)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"heartbeat {run.subject}", daemon=True)
        self._moved_at = time.monotonic()
        self.progress: dict[str, Any] = {}
        self.lost: Fault | None = None

    def advance(self, **done: int) -> None:
        """Tell how much more is done: ``revisions=…``, ``bytes=…``. Faults: CONFLICT where the lease was lost."""
        for name, count in done.items():
            self.progress[name] = self.progress.get(name, 0) + count
        self._moved_at = time.monotonic()
        if self.lost:
            raise self.lost

    def check(self, connection: Connection | None = None) -> None:
        """Raise CONFLICT where the lease was lost; with a connection, ask within its transaction."""
        if self.lost:
            raise self.lost
        if connection is not None:
            lease.check(connection, self._lease)

    @property
    def is_stuck(self) -> bool:
        """Whether there has been no progress for too long."""
        return time.monotonic() - self._moved_at > self._run.farm.no_progress_s

    def _keep(self) -> None:
        while not self._stop.wait(self._touch_s):
            if self.is_stuck:
                reason = f"has made no progress for {self._run.farm.no_progress_s} s; it no longer holds its lock"
                self.lost = Fault(FaultKind.TRANSIENT, self._run.subject, reason)
                return
            try:
                self._beat()
                self._keep_slot()
            except Fault as fault:
                if fault.kind is FaultKind.CONFLICT:
                    self.lost = fault
                    return
            except OSError:
                continue  # a file system that does not answer now may do so next time; the lease decides

    def _beat(self) -> None:
        lease.beat(self._ledger, self._lease, dict(self.progress), ttl=self._ttl)
        path = self._run.places.lock(self._run.date)
        if not lockfile.touch(path):
            lockfile.make(path)  # the lease is ours, so the file is too; CONFLICT where somebody made his own

    def _keep_slot(self) -> None:
        """Faults: THROTTLED where the database server was given to others while nothing of this run worked."""
        limit = self._run.farm.runs_per_server
        if limit is not None and self._server is not None:
            servers.hold(self._ledger, self._server, limit, owner=self._run.owner, ttl=self._ttl)

    def start(self) -> None:
        """Begin: the lease must be ours. Faults: CONFLICT, THROTTLED."""
        self._beat()
        self._keep_slot()
        lockfile.adopt(self._run.places.lock(self._run.date))
        self._thread.start()

    def stop(self) -> None:
        """End the beating; lock and lease stay with the run."""
        self._stop.set()
        self._thread.join()


class Work:
    """One task of a run while it works: its pen for the ledger, and its way to the databases."""

    def __init__(self, ledger: Ledger, run: Run, who: str, access: Access, heartbeat: Heartbeat) -> None:
        self.ledger, self.run, self.who, self.access, self.heartbeat = ledger, run, who, access, heartbeat
        self.job: str | None = None  # the one a fault belongs to

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A fenced transaction. Faults: CONFLICT where the lease was lost."""
        with self.ledger.begin() as connection:
            self.heartbeat.check(connection)
            yield connection

    def event(self, connection: Connection, what: str, result: str = "done", **detail: Any) -> None:
        """Append to the audit."""
        self.ledger.record_event(
            connection, who=self.who, room=ROOM, what=what, subject=self.run.subject, result=result, detail=detail
        )

    def log(self, line: str) -> None:
        """Append to the run's log in the private tree."""
        path = self.run.places.private_run(self.run.date) / self.run.settings.logfile
        with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{now():%Y-%m-%d %H:%M:%S} {line}\n")


@contextmanager
def working(ledger: Ledger, run_id: int, *, owner: str, access: Access, who: str | None = None) -> Iterator[Work]:
    """Work on a run that ``owner`` claimed. A fault goes on record, and onto the job that was worked on.

    :param who: names the task in the audit; else its owner.

    Faults: NEEDS_HUMAN where the run is over or was never claimed, whatever a task is marked as; CONFLICT where its
    lease is somebody else's.
    """
    run = runs.load(ledger, run_id)
    if run.owner != owner:
        raise Fault(FaultKind.CONFLICT, run.subject, f"was taken over by {run.owner}; nothing was done")
    if run.state.is_over:
        conf = json.dumps({"config": run.config, "wiki": run.wiki.name})
        next_command = f"airflow dags trigger wiki_dump --conf {shlex.quote(conf)}"
        raise Fault(FaultKind.NEEDS_HUMAN, run.subject, f"is {run.state}: nothing was done", next_command=next_command)
    heartbeat = Heartbeat(ledger, run, server=access.server)
    heartbeat.start()
    work = Work(ledger, run, who or owner, access, heartbeat)
    try:
        yield work
        heartbeat.check()
    except OSError as error:
        raise _on_record(work, from_os_error(error)) from error
    except Fault as fault:
        raise _on_record(work, fault) from fault
    finally:
        heartbeat.stop()


def _on_record(work: Work, fault: Fault) -> Fault:
    job = work.job
    if work.heartbeat.lost and work.heartbeat.lost.kind is FaultKind.CONFLICT:
        return work.heartbeat.lost
    try:
        with work.transaction() as connection:
            runs.set_run(connection, work.run.id, fault=fault.kind, fault_text=str(fault))
            if job:
                runs.set_job(connection, work.run.id, job, JobState.FAILED, note=_public(fault, work.run))
            work.event(connection, job or "run", result=fault.kind, fault=str(fault))
        work.log(f"{job or 'run'}: {fault}")
        from custody.wiki_dump import shelf

        shelf.write_status(work.ledger, work.run.id)
    except (Fault, OSError) as second:
        fault.add_note(f"and that could not be put on record: {second}")
    return fault


def _public(fault: Fault, run: Run) -> str:
    """A fault for the readers of a page: nothing of our machines. What it was in full, the log and the ledger know."""
    if fault.kind is not FaultKind.DATA:
        return f"it stopped ({fault.kind}); the next run takes it up"
    return "it is not whole; the next run makes it again" if "/" in fault.reason else fault.reason[:200]
