"""What the tape operators share: waiting for a drive that is in use, being stopped, and saying how far they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator, BaseOperatorLink, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.sdk.types import TaskInstanceKey

from custody.faults import Fault, FaultKind
from custody.tape import tables
from custody.tape.catalog import Backup, Tape, list_backups
from custody.tape.confirm import to_confirm
from custody.tape.states import BackupState, TapeState
from custody.units import format_size
from custody_airflow.links import page_of
from custody_airflow.operators.common import CustodyOperator
from custody_airflow.operators.tape_run import TapeRun, Verb

WAIT_FOR_DRIVE = timedelta(seconds=30)
SAY_EVERY_S = 60.0
_OF_A_DRIVE = ("tape/drive/", "tape/turn/", "/")


def waits_for_the_drive(fault: Fault) -> bool:
    """Whether another run, job or program has the drive, and will be done with it some time."""
    return fault.kind is FaultKind.CONFLICT and fault.subject.startswith(_OF_A_DRIVE)


class TapeLink(BaseOperatorLink):
    """The button "Custody" of a tape task: the page of the room."""

    name = "Custody"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The page, relative to the host, within Airflow's own frame."""
        return page_of("/tape")


class TapeOperator(CustodyOperator):
    """A step of a tape run. One that needs a drive which is in use waits for it without a worker slot."""

    operator_extra_links = (TapeLink(),)

    def execute(self, context: Context) -> Any:
        """Work; a task that is told to end stops between two blocks and is tried again."""
        self._stop = threading.Event()
        return super().execute(context)

    def on_kill(self) -> None:
        """Airflow ends the task: the attempt is put on record as aborted, and the drive is given back."""
        if stop := getattr(self, "_stop", None):
            stop.set()

    @property
    def stop(self) -> threading.Event:
        """Set when the task is to end."""
        return self._stop

    def require_going_on(self) -> None:
        """End the attempt where somebody asked for it; Airflow tries again, unless it was told otherwise."""
        if self._stop.is_set():
            raise AirflowException("stopped by Airflow; what was being written is written again by the next try")

    def _answer(self, fault: Fault) -> None:
        if waits_for_the_drive(fault):
            self._wait_until(datetime.now(UTC) + WAIT_FOR_DRIVE, fault)
        else:
            super()._answer(fault)


def writable_work(run: TapeRun, tape: Tape) -> list[Backup]:
    """What is to be written to a tape, by name: assigned, or being written when an earlier run was cut off.

    Targets of other machines than this configuration's are not among it.
    """
    states = [BackupState.ASSIGNED, BackupState.WRITING]
    with run.ledger.read() as connection:
        where = (tables.backup.c.tape_id == tape.id, tables.backup.c.state.in_(states))
        found = list_backups(connection, *where, order=(tables.target.c.name, tables.backup.c.id))
    return [backup for backup in found if backup.target.source == run.hook.source.name]


def readable_work(run: TapeRun, tape: Tape) -> list[Backup]:
    """What is to be confirmed on a tape, by file number."""
    with run.ledger.read() as connection:
        return to_confirm(connection, tape, retry=bool(run.params["retry"]))


def has_work_on_drive(run: TapeRun, tape: Tape) -> bool:
    """Whether anything that the run was asked for needs the tape in the drive."""
    verbs = set(run.verbs)
    return bool(
        verbs & {Verb.RESTORE, Verb.SCAN}
        or (Verb.ARCHIVE in verbs and tape.state is not TapeState.FULL and writable_work(run, tape))
        or (Verb.CONFIRM in verbs and readable_work(run, tape))
        or (Verb.CLOSE in verbs and tape.state in {TapeState.LABELLED, TapeState.OPEN})
    )


class Pace:
    """How far a task is: a line in its log every minute, with the rate and how long it still takes.

    :param say: takes the line.
    :param total_bytes: of the whole task; 0 where nobody knows.
    """

    def __init__(self, say: Callable[[str], object], total_bytes: int, *, every_s: float = SAY_EVERY_S) -> None:
        self._say, self._total_bytes, self._every_s = say, total_bytes, every_s
        self._began = self._said = time.monotonic()
        self.done_bytes = 0

    def advance(self, count: int) -> None:
        """Count bytes that are done."""
        self.done_bytes += count
        now = time.monotonic()
        if now - self._said >= self._every_s:
            self._said = now
            self._say(self.line())

    @property
    def rate_bytes_s(self) -> float:
        """The mean since the beginning."""
        return self.done_bytes / max(1e-3, time.monotonic() - self._began)

    def line(self) -> str:
        """``12.3 GB of 800 GB, 290 MB/s, 45 min left``."""
        line = f"{format_size(self.done_bytes)}"
        if self._total_bytes:
            line += f" of {format_size(self._total_bytes)}"
        line += f", {format_size(self.rate_bytes_s)}/s"
        left_bytes = self._total_bytes - self.done_bytes
        if self.done_bytes and left_bytes > 0:
            line += f", {timedelta(seconds=round(left_bytes / self.rate_bytes_s))} left"
        return line


def named(names: Sequence[str]) -> str:
    """What the grid shows of some targets: the first, the last, how many."""
    shown = [name if len(name) <= 100 else f"{name[:49]} … {name[-49:]}" for name in (names[0], names[-1])]
    return shown[0] if len(names) == 1 else f"{shown[0]} … {shown[1]} ({len(names)})"


def fail_with(task: TapeOperator, failed: Sequence[Fault], what: str) -> None:
    """Fail without a retry where there are faults, each of them in the log."""
    if not failed:
        return
    for fault in failed:
        task.log.error("%s", fault)
    raise AirflowFailException(f"{len(failed)} {what}. The first: {failed[0]}")
