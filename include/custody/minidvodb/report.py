"""Where everything stands: one table of hosts and groups, what runs, and what somebody should look at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from custody.ledger import Ledger
from custody.ledger.store import now
from custody.ledger.tables import lease as leases
from custody.minidvodb import destination, queue, switches, tables
from custody.minidvodb.destination import Destination
from custody.minidvodb.records import CopyState

_LEASE_PREFIX = "minidvodb copy "
RATE_WINDOW = timedelta(days=7)


@dataclass(frozen=True)
class Cell:
    """One group on one host: copies by what they are, and bytes. ``eligible``: would be queued, but is not yet."""

    host: str
    group: str
    enabled: bool
    eligible: int = 0
    new: int = 0
    running: int = 0
    full: int = 0
    unproven: int = 0
    faulted: int = 0
    lost: int = 0
    bytes_full: int = 0
    bytes_left: int = 0
    left_unknown: int = 0
    rate_bytes_s: float | None = None

    @property
    def eta_s(self) -> float | None:
        """Seconds until what is known to be left is there, at the rate of the last week."""
        return self.bytes_left / self.rate_bytes_s if self.rate_bytes_s and self.bytes_left else None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "eta_s": self.eta_s}


@dataclass(frozen=True)
class Running:
    """A copy that somebody works on at this moment."""

    copy_id: int
    name: str
    group: str
    host: str
    faulted: bool
    is_full: bool
    step: str
    holder: str
    since: datetime
    bytes: int
    bytes_done: int


def cells(ledger: Ledger) -> list[Cell]:
    """The table: every pair that is wanted or has copies."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for pair in switches.list_wanted(ledger):
        found[pair.host, pair.group] = {"eligible": queue.count_eligible(ledger, pair)}
    for row in _sums(ledger):
        _add(found.setdefault((row.name, row.minidvodb_group), {}), row)
    for one in running(ledger):
        if one.is_full:
            continue  # an audit reads it
        counts = found[one.host, one.group]
        counts["running"] = counts.get("running", 0) + 1
        of = "faulted" if one.faulted else "new"
        counts[of] = max(0, counts.get(of, 0) - 1)
    enabled = {known.name: known.enabled for known in destination.list_all(ledger)}
    return [_cell(host, group, enabled[host], counts) for (host, group), counts in sorted(found.items())]


def _sums(ledger: Ledger) -> list[Any]:
    """Copies by host, group and state; one query, whatever their number."""
    one, run, place = tables.copy, tables.run, tables.destination
    has_fault = sa.case((one.c.fault != 0, 1), else_=0).label("has_fault")
    young = sa.and_(one.c.ended_at > now() - RATE_WINDOW, one.c.state == CopyState.FULL, one.c.sent_bytes > 0)

    def total(*, of: sa.ColumnElement[Any], where: sa.ColumnElement[bool]) -> sa.ColumnElement[Any]:
        return sa.func.sum(sa.case((where, of), else_=0))

    query = (
        sa.select(
            place.c.name,
            run.c.minidvodb_group,
            one.c.state,
            has_fault,
            sa.func.count().label("copies"),
            sa.func.sum(sa.func.coalesce(one.c.bytes, 0)).label("bytes"),
            total(of=sa.literal(1), where=one.c.bytes.is_(None)).label("unknown"),
            total(of=sa.literal(1), where=one.c.verified_at.is_(None)).label("unproven"),
            total(of=one.c.sent_bytes, where=young).label("sent_bytes"),
            total(of=one.c.dtime, where=young).label("sent_s"),
        )
        .join(run, run.c.minidvodb_id == one.c.minidvodb_id)
        .join(place, place.c.id == one.c.destination_id)
        .group_by(place.c.name, run.c.minidvodb_group, one.c.state, has_fault)
    )
    with ledger.read() as connection:
        return list(connection.execute(query))


def _add(counts: dict[str, Any], row: Any) -> None:
    def add(name: str, value: float) -> None:
        counts[name] = counts.get(name, 0) + value

    if row.state == CopyState.FULL:
        add("full", row.copies)
        add("bytes_full", int(row.bytes))
        add("unproven", int(row.unproven))
        add("sent_bytes", int(row.sent_bytes or 0))
        add("sent_s", float(row.sent_s or 0))
    elif row.state != CopyState.RETIRED:
        add("lost" if row.state != CopyState.NEW else "faulted" if row.has_fault else "new", row.copies)
        add("bytes_left", int(row.bytes))
        add("left_unknown", int(row.unknown))


def _cell(host: str, group: str, enabled: bool, counts: dict[str, Any]) -> Cell:
    size, seconds = counts.pop("sent_bytes", 0), counts.pop("sent_s", 0.0)
    return Cell(host, group, enabled, **counts, rate_bytes_s=size / seconds if seconds else None)


def running(ledger: Ledger) -> list[Running]:
    """What is worked on now, with its progress."""
    query = sa.select(leases).where(leases.c.name.like(f"{_LEASE_PREFIX}%"), leases.c.expires_at > now())
    one = tables.copy
    with ledger.read() as connection:
        held = {int(row.name.removeprefix(_LEASE_PREFIX)): row for row in connection.execute(query)}
        names = (
            sa.select(
                one.c.minidvodbcopy_id,
                one.c.fault,
                one.c.state,
                tables.run.c.minidvodb_name,
                tables.run.c.minidvodb_group,
                tables.destination.c.name,
            )
            .join(tables.run, tables.run.c.minidvodb_id == one.c.minidvodb_id)
            .join(tables.destination, tables.destination.c.id == one.c.destination_id)
            .where(one.c.minidvodbcopy_id.in_(list(held)))
        )
        copies = connection.execute(names).all() if held else []
    return [
        Running(
            row.minidvodbcopy_id,
            row.minidvodb_name,
            row.minidvodb_group,
            row.name,
            bool(row.fault),
            row.state != CopyState.NEW,
            str(held[row.minidvodbcopy_id].progress.get("step", "")),
            held[row.minidvodbcopy_id].holder,
            held[row.minidvodbcopy_id].taken_at,
            int(held[row.minidvodbcopy_id].progress.get("bytes", 0)),
            int(held[row.minidvodbcopy_id].progress.get("bytes_done", 0)),
        )
        for row in copies
    ]


@dataclass(frozen=True)
class Alert:
    """Something that somebody should look at: what, and the next command."""

    subject: str
    text: str
    next_command: str


def alerts(ledger: Ledger) -> list[Alert]:
    """Hosts that are off for too long, disks that fill up, copies that wait for a person, stages that are off."""
    wanted = {pair.host for pair in switches.list_wanted(ledger)}
    found: list[Alert] = []
    for known in destination.list_all(ledger):
        found += _host_alerts(known, known.name in wanted)
    one = tables.copy
    query = (
        sa.select(one.c.destination_host, one.c.fault_name, one.c.state, sa.func.count().label("copies"))
        .where(one.c.fault != 0, one.c.not_before.is_(None))
        .group_by(one.c.destination_host, one.c.fault_name, one.c.state)
    )
    with ledger.read() as connection:
        rows = connection.execute(query).all()
    for row in rows:
        many = "1 copy waits" if row.copies == 1 else f"{row.copies} copies wait"
        text = f"{many} for a person ({row.fault_name or 'a fault of the old system'}, {row.state})"
        found.append(
            Alert(row.destination_host, text, f"custody minidvodb list --faulted --host {row.destination_host}")
        )
    for stage, on in switches.positions(ledger).items():
        if not on:
            found.append(Alert(f"stage {stage}", "is switched off", f"custody minidvodb on {stage}"))
    return found


def _host_alerts(known: Destination, is_wanted: bool) -> list[Alert]:
    found = []
    off_for = now() - known.switched_at
    if is_wanted and not known.enabled and off_for > timedelta(days=known.settings.warn_disabled_days):
        found.append(
            Alert(known.name, f"is switched off for {off_for.days} days", f"custody minidvodb add-host {known.name}")
        )
    used = known.look.get("used_pct")
    if used is not None and used > known.settings.warn_used_pct:
        found.append(Alert(known.name, f"its disk was {used:.1f} % used when last seen", "free space there"))
    return found
