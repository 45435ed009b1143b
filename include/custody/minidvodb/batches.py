"""Batches: small databases for one host that go together, so that what starts a step costs little beside the step.

Only the start and the connection are shared. Every copy of a batch keeps its own lease, step and faults: one that fails
stays where it is, with its fault on record, and the others go on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.minidvodb import tables
from custody.minidvodb.load import Pending
from custody.minidvodb.records import Copy, CopyState, CopyStep, lease_of, load
from custody.minidvodb.run import one_connection
from custody.minidvodb.step import Reach, Step

MAX_COPIES = 16
SMALL_BYTES, SMALL_ENTRIES = 64 << 20, 1000
"""What is larger than this, or cannot be looked at here, goes alone: it is worth a task of its own."""
IN_OTHER_HANDS = timedelta(minutes=1)
_log = logging.getLogger(__name__)


class Ready(NamedTuple):
    """A copy that may go. ``lane``: what goes together shares it."""

    id: int
    lane: tuple[str, int]
    is_small: bool


def make_batches(ready: Iterable[Ready]) -> list[list[int]]:
    """Put small copies of one lane together, at most so many; the first of a batch keeps its place in the order."""
    batches: list[list[int]] = []
    open_ones: dict[tuple[str, int], list[int]] = {}
    for one in ready:
        batch = open_ones.get(one.lane) if one.is_small else None
        if batch is None or len(batch) == MAX_COPIES:
            batch = []
            batches.append(batch)
            if one.is_small:
                open_ones[one.lane] = batch
        batch.append(one.id)
    return batches


def plan_batches(ledger: Ledger, chosen: Sequence[Pending]) -> list[list[int]]:
    """The batches that these copies come to: of one host and one priority each."""
    one = tables.copy
    query = (
        sa.select(one.c.minidvodbcopy_id, tables.run.c.minidvodb_path)
        .join(tables.run, tables.run.c.minidvodb_id == one.c.minidvodb_id)
        .where(one.c.minidvodbcopy_id.in_([pending.id for pending in chosen]))
    )
    with ledger.read() as connection:
        paths = {number: path for number, path in connection.execute(query)}
    return make_batches(Ready(one.id, (one.host, one.priority), is_small(Path(paths[one.id]))) for one in chosen)


def is_small(root: Path) -> bool:
    """Whether a database is here and small; the look ends as soon as it is not."""
    size_bytes = entries = 0
    waiting = [os.fsencode(root)]
    try:
        while waiting:
            with os.scandir(waiting.pop()) as listing:
                for entry in listing:
                    entries += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        size_bytes += entry.stat(follow_symlinks=False).st_size
                    if entries > SMALL_ENTRIES or size_bytes > SMALL_BYTES:
                        return False
    except OSError:
        return False
    return entries > 0


def name_batch(ledger: Ledger, copy_ids: Sequence[int]) -> str:
    """What a list shows for a batch: its copy, or ``first … last on HOST (n copies)``."""
    first = load(ledger, copy_ids[0])
    if len(copy_ids) == 1:
        return first.subject
    last = load(ledger, copy_ids[-1])
    return f"{first.name[:90]} … {last.name[:90]} on {last.destination.name} ({len(copy_ids)} copies)"


@dataclass
class Tried:
    """What became of the copies of a batch in one step.

    ``passed`` are those that an earlier step left behind with a fault on record; ``faults`` those of this step.
    """

    count: int
    through: list[Copy] = field(default_factory=list)
    passed: list[Copy] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, *, may_retry: bool, is_last: bool) -> Fault | None:
        """The fault that the step ends with; None where the next one may begin.

        A wait comes first, then another attempt, where Airflow makes one. While some copies got through, what the
        others have on record keeps none back; the last step ends with whatever is left.
        """
        if waits := [fault for fault in self.faults if fault.kind is FaultKind.THROTTLED]:
            return max(waits, key=lambda fault: fault.until or now())
        again = [fault for fault in self.faults if _is_mended_by_time(fault)]
        if again and may_retry:
            return self._among_others(again[0])
        if self.through and not is_last:
            return None
        if self.faults:
            return self._among_others(max(self.faults, key=_severity))
        return self._left_behind() if self.passed else None

    def _among_others(self, fault: Fault) -> Fault:
        if self.count == 1:
            return fault
        left = len(self.faults) + len(self.passed)
        reason = f"{fault.reason} ({left} of the {self.count} copies of this batch are left)"
        return Fault(fault.kind, fault.subject, reason, next_command=fault.next_command, until=fault.until)

    def _left_behind(self) -> Fault:
        one = self.passed[0]
        reason = (
            f"is left behind: {one.row['fault_text']} ({len(self.passed)} of the {self.count} copies of this batch are)"
        )
        return Fault(FaultKind.NEEDS_HUMAN, one.subject, reason, next_command="custody minidvodb list --faulted")


def try_each(step: Step, needs: CopyStep, ledger: Ledger, copy_ids: Sequence[int], *, who: str, reach: Reach) -> Tried:
    """Do a step on every copy of a batch over one connection, whatever becomes of the others.

    :param needs: the step that a copy must have come to before this one.
    """
    tried = Tried(len(copy_ids))
    with one_connection(reach) as shared:
        for number in copy_ids:
            try:
                _try(step, needs, ledger, number, tried, who, shared)
            except Fault as fault:
                if tried.count > 1:
                    _log.warning("%s", fault)  # the fault that the step ends with is told by who catches it
                tried.faults.append(_as_wait(fault, number))
            except Exception as error:
                if tried.count == 1:
                    raise
                _log.exception("copy %d", number)
                tried.faults.append(Fault(FaultKind.TRANSIENT, f"copy {number}", f"{type(error).__name__}: {error}"))
    return tried


def _try(step: Step, needs: CopyStep, ledger: Ledger, number: int, tried: Tried, who: str, reach: Reach) -> None:
    copy = load(ledger, number)
    _log.info("copy %d, %s: %s, %s", copy.id, copy.subject, copy.state, copy.step)
    if tried.count > 1 and copy.row["fault"] and copy.state is CopyState.NEW and copy.step.rank < needs.rank:
        # its fault says more than this step's refusal would; without one, the step refuses it
        _log.warning("copy %d, %s: passed over: %s", copy.id, copy.subject, copy.row["fault_text"])
        tried.passed.append(copy)
        return
    done = step(ledger, number, who=who, reach=reach)
    _log.info("copy %d, %s: %s, %s", done.id, done.subject, done.state, done.step)
    tried.through.append(done)


def _as_wait(fault: Fault, number: int) -> Fault:
    """Where another run works on a copy, its end is waited for without a worker, and then the step is found done."""
    if fault.kind is FaultKind.CONFLICT and fault.subject == lease_of(number):
        return Fault(FaultKind.THROTTLED, f"copy {number}", fault.reason, until=now() + IN_OTHER_HANDS)
    return fault


def _is_mended_by_time(fault: Fault) -> bool:
    return fault.kind.is_worth_a_retry or fault.kind is FaultKind.CONFLICT


def _severity(fault: Fault) -> int:
    if fault.kind is FaultKind.CANCELLED:
        return 0
    return 1 if _is_mended_by_time(fault) else 2
