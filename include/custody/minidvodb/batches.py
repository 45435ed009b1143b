"""Batches: small databases for one host that go together, so that what starts a step costs little beside the step.

Only the start and the connection are shared. Every copy of a batch keeps its own lease, step and faults: one that fails
stays where it is, with its fault on record, and the others go on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from custody import together
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


class Tried(together.Tried[Copy]):
    """What became of the copies of a batch in one step."""

    one, several = "copy", "copies"

    def _left_behind(self, thing: Copy) -> Fault:
        reason = f"is left behind: {thing.row['fault_text']}"
        return Fault(FaultKind.NEEDS_HUMAN, thing.subject, reason, next_command="custody minidvodb list --faulted")


def try_each(step: Step, needs: CopyStep, ledger: Ledger, copy_ids: Sequence[int], *, who: str, reach: Reach) -> Tried:
    """Do a step on every copy of a batch over one connection, whatever becomes of the others.

    :param needs: the step that a copy must have come to before this one.
    """
    tried = Tried(len(copy_ids))
    with one_connection(reach) as shared:
        tried.each(copy_ids, lambda number: _try(step, needs, ledger, number, tried, who, shared))
    return tried


def _try(step: Step, needs: CopyStep, ledger: Ledger, number: int, tried: Tried, who: str, reach: Reach) -> None:
    copy = load(ledger, number)
    _log.info("copy %d, %s: %s, %s", copy.id, copy.subject, copy.state, copy.step)
    if tried.count > 1 and copy.row["fault"] and copy.state is CopyState.NEW and copy.step.rank < needs.rank:
        # its fault says more than this step's refusal would; without one, the step refuses it
        _log.warning("copy %d, %s: passed over: %s", copy.id, copy.subject, copy.row["fault_text"])
        tried.passed.append(copy)
        return
    try:
        done = step(ledger, number, who=who, reach=reach)
    except Fault as fault:
        raise _as_wait(fault, number) from fault
    _log.info("copy %d, %s: %s, %s", done.id, done.subject, done.state, done.step)
    tried.through.append(done)


def _as_wait(fault: Fault, number: int) -> Fault:
    """Where another run works on a copy, its end is waited for without a worker, and then the step is found done."""
    if fault.kind is FaultKind.CONFLICT and fault.subject == lease_of(number):
        return Fault(FaultKind.THROTTLED, f"copy {number}", fault.reason, until=now() + IN_OTHER_HANDS)
    return fault
