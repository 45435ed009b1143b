"""Which copies go next: fair over groups and hosts, urgent ones first, and none that would only fail again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from custody import lease
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.ledger.tables import lease as leases
from custody.minidvodb import switches, tables
from custody.minidvodb.destination import Settings
from custody.minidvodb.records import CopyState, CopyStep, lease_of
from custody.minidvodb.switches import Stage

DEFAULT_LIMIT = 32
IN_HAND = timedelta(minutes=10)
"""A copy that ended a step in this time is another run's, which is between two tasks."""


@dataclass(frozen=True)
class Pending:
    """A copy that may go."""

    id: int
    name: str
    group: str
    host: str
    priority: int


def choose(
    ledger: Ledger,
    *,
    group: str | None = None,
    host: str | None = None,
    copy_id: int | None = None,
    machine: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> list[Pending]:
    """The next copies, most urgent first; within a priority each group and host in turn, the oldest of each first.

    :param machine: only databases that lie on it.

    A copy with a fault waits for its pause, or for a revert where time mends nothing; it keeps nobody else waiting.
    Faults: CANCELLED where the stage is off.
    """
    switches.demand_on(ledger, Stage.LOAD)
    one, place = tables.copy, tables.destination
    at = now()
    query = (
        sa.select(
            one.c.minidvodbcopy_id,
            one.c.priority,
            one.c.step,
            one.c.epoch,
            tables.run.c.minidvodb_name,
            tables.run.c.minidvodb_group,
            place.c.name,
            place.c.settings,
        )
        .join(tables.run, tables.run.c.minidvodb_id == one.c.minidvodb_id)
        .join(place, place.c.id == one.c.destination_id)
        .where(one.c.state == CopyState.NEW, place.c.enabled, sa.or_(one.c.fault == 0, one.c.not_before <= at))
        .order_by(one.c.priority, one.c.queued_at, one.c.minidvodbcopy_id)
    )
    if group:
        query = query.where(tables.run.c.minidvodb_group == group)
    if host:
        query = query.where(place.c.name == host)
    if machine:
        query = query.where(tables.run.c.minidvodb_host == machine)
    if copy_id is not None:
        query = query.where(one.c.minidvodbcopy_id == copy_id)
    with ledger.read() as connection:
        rows = connection.execute(query).all()
    closed = {row.name for row in {row.name: row for row in rows}.values() if not Settings(**row.settings).may_run(at)}
    waiting = [row for row in rows if row.name not in closed]
    chosen = _in_turn([Pending(row[0], row[4], row[5], row[6], row[1]) for row in waiting], len(waiting))
    recent = {row[0]: row.epoch for row in waiting if row.step != CopyStep.QUEUED and at - row.epoch < IN_HAND}
    in_hand = _between_steps(ledger, recent) if copy_id is None else set()
    found: list[Pending] = []
    for start in range(0, len(chosen), 200):
        some = [one for one in chosen[start : start + 200] if one.id not in in_hand]
        held = lease.holders(ledger, [lease_of(one.id) for one in some])
        found += [one for one in some if lease_of(one.id) not in held]
        if len(found) >= limit:
            break
    return found[:limit]


def _between_steps(ledger: Ledger, changed: dict[int, datetime]) -> set[int]:
    """Which of these copies another run goes on with; one whose step was begun and never ended was killed in it."""
    names = {lease_of(number): number for number in changed}
    query = sa.select(leases.c.name, leases.c.taken_at).where(leases.c.name.in_(list(names)))
    with ledger.read() as connection:
        killed = {names[row.name] for row in connection.execute(query) if row.taken_at > changed[names[row.name]]}
    return set(changed) - killed


def _in_turn(pending: list[Pending], limit: int) -> list[Pending]:
    """Take from each group and host in turn; a more urgent one goes before all others."""
    chosen: list[Pending] = []
    for priority in sorted({one.priority for one in pending}):
        lanes: dict[tuple[str, str], deque[Pending]] = {}
        for one in pending:
            if one.priority == priority:
                lanes.setdefault((one.group, one.host), deque()).append(one)
        turn = deque(lanes[key] for key in sorted(lanes))
        while turn and len(chosen) < limit:
            lane = turn.popleft()
            chosen.append(lane.popleft())
            if lane:
                turn.append(lane)
    return chosen
