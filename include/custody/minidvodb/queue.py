"""The queue: every merged database of a wanted group, for every host that should hold it, once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.minidvodb import destination, switches, tables
from custody.minidvodb.destination import ROOM
from custody.minidvodb.switches import DEFAULT_PRIORITY, Stage, Wanted

_PAUSES_S = (0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Queued:
    """What came of one group and host: rows made, and eligible databases that were queued before."""

    group: str
    host: str
    queued: int
    already: int


@dataclass(frozen=True)
class Candidate:
    """One database as a dry run sees it; ``reason`` says why it is not queued, None: it would be."""

    minidvodb_id: int
    name: str
    group: str
    host: str
    reason: str | None


def queue_wanted(
    ledger: Ledger, *, who: str, group: str | None = None, host: str | None = None, priority: int | None = None
) -> list[Queued]:
    """Queue for every wanted pair whose host is on. Faults: CANCELLED where the stage is off.

    :param priority: of what is queued now, instead of the pair's own.
    """
    switches.demand_on(ledger, Stage.QUEUE)
    pairs = [pair for pair in switches.list_wanted(ledger, group=group, host=host) if pair.enabled]
    if priority:
        pairs = [replace(pair, priority=priority) for pair in pairs]
    return [queue_pair(ledger, pair, who=who) for pair in pairs]


def queue_pair(ledger: Ledger, pair: Wanted, *, who: str, minidvodb_ids: Sequence[int] | None = None) -> Queued:
    """Queue one group for one host: merged, processed without a fault, not queued for it before.

    Two at once make one row: the unique key sees to it, and the answer counts only what this call made.
    """
    place = destination.find(ledger, pair.host)
    eligible = _eligible(pair.group, minidvodb_ids)
    one = tables.copy
    at = now()
    constants = {
        "minidvodb_rsync_path": pair.path,
        "destination_host": pair.host,
        "fault": 0,
        "state": "new",
        "epoch": at,
        "dtime": 0.0,
        "destination_id": place.id,
        "step": "queued",
        "priority": pair.priority,
        "queued_at": at,
        "attempts": 0,
        "may_replace": False,
        "profile": {},
        "reserved_bytes": 0,
        "reserved_inodes": 0,
    }
    columns = [sa.literal(value, one.c[name].type).label(name) for name, value in constants.items()]
    fresh = ~sa.exists().where(
        one.c.minidvodb_id == tables.run.c.minidvodb_id, one.c.destination_id == place.id
    ).correlate(tables.run)
    chosen = eligible.with_only_columns(tables.run.c.minidvodb_id, *columns).where(fresh)
    names = ["minidvodb_id", *constants]

    def insert() -> Queued:
        with ledger.begin() as connection:
            made = connection.execute(_insert_or_ignore(ledger, one).from_select(names, chosen)).rowcount
            whole = connection.scalar(sa.select(sa.func.count()).select_from(eligible.subquery()))
            if made:
                subject = f"{pair.group} on {pair.host}"
                detail = {"copies": made}
                ledger.record_event(connection, who=who, room=ROOM, what="queued", subject=subject, detail=detail)
        return Queued(pair.group, pair.host, made, int(whole or 0) - made)

    return _again_where_it_stumbled(insert)


def _again_where_it_stumbled(insert: Callable[[], Queued]) -> Queued:
    """MariaDB ends one of two that insert from the same rows at once; nothing of it is left, the next try passes."""
    for pause_s in _PAUSES_S:
        try:
            return insert()
        except Fault as fault:
            if fault.kind is not FaultKind.TRANSIENT:
                raise
            time.sleep(pause_s)
    return insert()


def _eligible(group: str, minidvodb_ids: Sequence[int] | None) -> sa.Select[tuple[int]]:
    query = (
        sa.select(tables.run.c.minidvodb_id)
        .join(tables.processed, tables.processed.c.minidvodb_id == tables.run.c.minidvodb_id)
        .where(tables.run.c.minidvodb_group == group, tables.run.c.state == "merged", tables.processed.c.fault == 0)
    )
    return query if minidvodb_ids is None else query.where(tables.run.c.minidvodb_id.in_(list(minidvodb_ids)))


def _insert_or_ignore(ledger: Ledger, table: sa.Table) -> sa.Insert:
    dialect = ledger.engine.dialect.name
    if dialect == "sqlite":
        return sqlite.insert(table).prefix_with("OR IGNORE")
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sa.insert(table).prefix_with("IGNORE")


def count_eligible(ledger: Ledger, pair: Wanted) -> int:
    """How many databases the next queueing would add for one group and host."""
    place = destination.find(ledger, pair.host)
    one = tables.copy
    fresh = ~sa.exists().where(
        one.c.minidvodb_id == tables.run.c.minidvodb_id, one.c.destination_id == place.id
    ).correlate(tables.run)
    query = _eligible(pair.group, None).where(fresh)
    with ledger.read() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0)


def explain(ledger: Ledger, *, group: str | None = None, host: str | None = None) -> list[Candidate]:
    """A dry run: every database of the wanted groups, and why it would not be queued. Nothing is written."""
    found = []
    for pair in switches.list_wanted(ledger, group=group, host=host):
        found += explain_pair(ledger, pair)
    return found


def explain_pair(ledger: Ledger, pair: Wanted, *, minidvodb_ids: Sequence[int] | None = None) -> list[Candidate]:
    """The same for one group and host."""
    place = destination.find(ledger, pair.host)
    run, processed, one = tables.run, tables.processed, tables.copy
    query = (
        sa.select(run, processed.c.fault.label("merge_fault"), one.c.minidvodbcopy_id, one.c.state.label("copy_state"))
        .outerjoin(processed, processed.c.minidvodb_id == run.c.minidvodb_id)
        .outerjoin(one, sa.and_(one.c.minidvodb_id == run.c.minidvodb_id, one.c.destination_id == place.id))
        .where(run.c.minidvodb_group == pair.group)
        .order_by(run.c.minidvodb_id)
    )
    if minidvodb_ids is not None:
        query = query.where(run.c.minidvodb_id.in_(list(minidvodb_ids)))
    with ledger.read() as connection:
        rows = connection.execute(query).all()
    return [
        Candidate(row.minidvodb_id, row.minidvodb_name, row.minidvodb_group, pair.host, _reason(row, pair))
        for row in rows
    ]


def _reason(row: sa.Row[tuple[object, ...]], pair: Wanted) -> str | None:
    if row.minidvodbcopy_id is not None:
        return f"queued before as copy {row.minidvodbcopy_id}, which is {row.copy_state}"
    if row.state != "merged":
        return f"its state is {row.state}, not merged"
    if row.merge_fault is None:
        return "it was never processed"
    if row.merge_fault:
        return f"its merge ended with fault {row.merge_fault}"
    return None if pair.enabled else f"host {pair.host} is switched off"


def pair_of(group: str, host: str, path: str, *, priority: int = DEFAULT_PRIORITY) -> Wanted:
    """A pair that is asked for once, as ``-definebyquery`` did."""
    return Wanted(group, host, path, priority, now(), True)
