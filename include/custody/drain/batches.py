"""Batches: small series that go together, so that what starts a step costs little beside the step.

Only the start is shared. Every series of a batch keeps its own lease, state and faults: one that fails stays where it
is, with its fault on record, and the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from custody import together
from custody.drain import tables
from custody.drain.config import GIB, DrainConfig
from custody.drain.keys import hold_back
from custody.drain.series import Series, SeriesState, load
from custody.drain.step import Step, put_on_record
from custody.drain.targets import Target
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.units import format_size

MAX_SERIES = 100  # what is small is still many requests; a step that runs for hours is no step
_log = logging.getLogger(__name__)


def make_batches(sizes: Iterable[tuple[int, int]], batch_bytes: int) -> list[list[int]]:
    """Cut series (number, bytes) into batches of at most so many bytes, in their order.

    A series of that size or larger is a batch of its own.
    """
    batches: list[list[int]] = []
    room = -1
    for number, size_bytes in sizes:
        alone = size_bytes >= batch_bytes
        if alone or size_bytes > room or len(batches[-1]) == MAX_SERIES:
            batches.append([])
            room = batch_bytes
        batches[-1].append(number)
        room = -1 if alone else room - size_bytes
    return batches


def plan_batches(ledger: Ledger, series_ids: Sequence[int], config: DrainConfig) -> list[list[int]]:
    """The batches of ``batch_gib`` that these series come to (at most some thousands)."""
    members = tables.series_file
    query = (
        sa.select(members.c.series_id, sa.func.sum(members.c.size_bytes))
        .where(members.c.series_id.in_(list(series_ids)))
        .group_by(members.c.series_id)
    )
    with ledger.read() as connection:
        sizes = {number: int(size or 0) for number, size in connection.execute(query)}
    return make_batches([(number, sizes.get(number, 0)) for number in series_ids], int(config.batch_gib * GIB))


def name_batch(ledger: Ledger, series_ids: Sequence[int]) -> str:
    """What a list shows for a batch: its item, or ``first … last (n series)``."""
    first, last = series_ids[0], series_ids[-1]
    table = tables.series
    with ledger.read() as connection:
        rows = connection.execute(sa.select(table.c.id, table.c.item).where(table.c.id.in_([first, last])))
        items = {number: item for number, item in rows}
    names = [items.get(number, f"series {number}") for number in (first, last)]
    return names[0] if len(series_ids) == 1 else f"{names[0][:110]} … {names[1][:110]} ({len(series_ids)} series)"


@dataclass
class Tried(together.Tried[Series]):
    """What became of the series of a batch in one step; ``dropped`` are those that are over without it."""

    one = several = "series"
    dropped: list[Series] = field(default_factory=list)

    def _left_behind(self, thing: Series) -> Fault:
        reason = f"is {thing.state}: {thing.fault_text}"
        next_command = f"custody drain status {thing.config_name} --stuck"
        return Fault(FaultKind.NEEDS_HUMAN, thing.item, reason, next_command=next_command)


def try_each(
    step: Step,
    ledger: Ledger,
    series_ids: Sequence[int],
    *,
    who: str,
    targets_of: Callable[[DrainConfig], Sequence[Target]],
    since: datetime | None = None,
) -> Tried:
    """Do a step on every series of a batch, whatever becomes of the others.

    :param since: when the run began: a key that was refused after that is not tried again.
    """
    tried = Tried(len(series_ids))
    reach = _Reach(targets_of)
    tried.each(series_ids, lambda number: _try(step, ledger, number, tried, who, reach, since))
    return tried


class _Reach:
    """The targets of the last configuration that was asked for: the series of a batch have all the same."""

    def __init__(self, targets_of: Callable[[DrainConfig], Sequence[Target]]) -> None:
        self._targets_of = targets_of
        self._known: tuple[DrainConfig, Sequence[Target]] | None = None

    def targets(self, config: DrainConfig) -> Sequence[Target]:
        if self._known is None or self._known[0] != config:
            self._known = config, self._targets_of(config)
        return self._known[1]


def _try(
    step: Step, ledger: Ledger, number: int, tried: Tried, who: str, reach: _Reach, since: datetime | None
) -> None:
    series = load(ledger, number)
    size = format_size(series.size_bytes)
    _log.info("%s: %s, %d files, %s", series.item, series.state, len(series.files), size)
    if tried.count > 1 and series.fault and series.state.rank < step.needs.rank:
        # its fault says more than this step's refusal would; without one, the step refuses it
        _log.warning("%s: passed over, it is stuck: %s", series.item, series.fault_text)
        tried.passed.append(series)
        return
    try:
        targets = reach.targets(series.config)
    except Fault as fault:
        put_on_record(ledger, series, "reach", fault, who=who)
        raise
    if targets and since and series.state is step.needs:
        hold_back(ledger, series, since, who=who)
    done = step(ledger, number, who=who, targets=targets)
    _log.info("%s: %s", done.item, done.state)
    is_over = done.state in {SeriesState.DROPPED, SeriesState.CLOSED}
    (tried.dropped if is_over else tried.through).append(done)
