"""What the operator wants: the three stages on or off, and which group goes to which host. It survives restarts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.minidvodb import destination, tables
from custody.minidvodb.codes import CopyFault, FaultCode
from custody.minidvodb.destination import ROOM
from custody.minidvodb.far import check_path

PRIORITIES = range(1, 6)
DEFAULT_PRIORITY = 3


class Stage(StrEnum):
    """The stages that can be switched."""

    QUEUE = "queue"
    LOAD = "load"
    RUN = "run"


def turn(ledger: Ledger, stage: Stage, on: bool, *, who: str) -> None:
    """Switch a stage."""
    table = tables.switch
    values = {"is_on": on, "changed_at": now(), "who": who}
    with ledger.begin() as connection:
        found = connection.execute(sa.update(table).where(table.c.stage == stage).values(**values))
        if not found.rowcount:
            connection.execute(sa.insert(table).values(stage=stage, **values))
        ledger.record_event(connection, who=who, room=ROOM, what="stage on" if on else "stage off", subject=stage)


def positions(ledger: Ledger) -> dict[Stage, bool]:
    """Which stages are on; one that was never switched is."""
    with ledger.read() as connection:
        known = {row.stage: row.is_on for row in connection.execute(sa.select(tables.switch))}
    return {stage: bool(known.get(stage, True)) for stage in Stage}


def demand_on(ledger: Ledger, stage: Stage) -> None:
    """Faults: CANCELLED where the stage is off."""
    if not positions(ledger)[stage]:
        raise CopyFault(
            FaultCode.CANCELLED, f"stage {stage}", "is switched off", next_command=f"custody minidvodb on {stage}"
        )


@dataclass(frozen=True)
class Wanted:
    """A group that is wanted on a host, below a directory there."""

    group: str
    host: str
    path: str
    priority: int
    added_at: datetime
    enabled: bool


def want(ledger: Ledger, group: str, host: str, path: str, *, who: str, priority: int = DEFAULT_PRIORITY) -> Wanted:
    """Ask for all merged databases of a group on a host; again: change path or priority. Faults: CONFIG."""
    if not group or len(group) > 64:
        raise Fault(FaultKind.CONFIG, f"group {group!r}", "is no name of a group")
    check_path(path)
    if priority not in PRIORITIES:
        raise Fault(FaultKind.CONFIG, f"priority {priority}", "is not 1 (first) to 5")
    place = destination.find(ledger, host)
    table = tables.wanted
    which = sa.and_(table.c.minidvodb_group == group, table.c.destination_id == place.id)
    values = {"path": path, "priority": priority}
    with ledger.begin() as connection:
        known = connection.scalar(sa.select(table.c.id).where(which).with_for_update())
        if known is None:
            keys = {"minidvodb_group": group, "destination_id": place.id, "added_at": now()}
            connection.execute(sa.insert(table).values(**keys, **values))
        else:
            connection.execute(sa.update(table).where(which).values(**values))
        ledger.record_event(
            connection, who=who, room=ROOM, what="copy wanted", subject=f"{group} on {host}", detail=values
        )
    return next(one for one in list_wanted(ledger) if (one.group, one.host) == (group, host))


def unwant(ledger: Ledger, host: str, group: str, *, who: str) -> None:
    """Queue nothing more of a group for a host. What is queued stays, and no data is touched. Faults: CONFIG."""
    place = destination.find(ledger, host)
    table = tables.wanted
    with ledger.begin() as connection:
        gone = connection.execute(
            sa.delete(table).where(table.c.minidvodb_group == group, table.c.destination_id == place.id)
        )
        if not gone.rowcount:
            raise Fault(
                FaultKind.CONFIG,
                f"{group} on {host}",
                "is not wanted there",
                next_command="custody minidvodb show-copy (the order is HOST GROUP)",
            )
        ledger.record_event(connection, who=who, room=ROOM, what="copy unwanted", subject=f"{group} on {host}")


def list_wanted(ledger: Ledger, *, group: str | None = None, host: str | None = None) -> list[Wanted]:
    """Every pair, in the order it was asked for."""
    table = tables.wanted
    query = (
        sa.select(table, tables.destination.c.name, tables.destination.c.enabled)
        .join(tables.destination, tables.destination.c.id == table.c.destination_id)
        .order_by(table.c.id)
    )
    if group:
        query = query.where(table.c.minidvodb_group == group)
    if host:
        query = query.where(tables.destination.c.name == host)
    with ledger.read() as connection:
        return [
            Wanted(row.minidvodb_group, row.name, row.path, row.priority, row.added_at, row.enabled)
            for row in connection.execute(query)
        ]
