"""Taking a wiki: the lease, the lock file, the frozen configuration, the run on record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from custody import lease
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.ledger.tables import lease as lease_table
from custody.wiki_dump import lockfile, runs, servers, tables
from custody.wiki_dump.farm import Wiki
from custody.wiki_dump.farm_config import FarmConfig
from custody.wiki_dump.jobs import ALL_TABLES, check_names
from custody.wiki_dump.layout import Places, check_date
from custody.wiki_dump.runs import ROOM, Options, Run
from custody.wiki_dump.settings import Settings
from custody.wiki_dump.status import RunState


@dataclass(frozen=True)
class Wish:
    """Who wants to dump which wiki, and how.

    :param date: YYYYMMDD, or ``last``.
    :param holder: names the process that is the whole run; None where tasks of many processes are.
    """

    config_name: str
    config: FarmConfig
    settings: Settings
    wiki: Wiki
    owner: str
    date: str
    options: Options
    holder: str | None = None


@dataclass(frozen=True)
class _Taken:
    """A lease, whether it was ours before, and which process of this host died with it."""

    lease: lease.Lease
    was_ours: bool = False
    dead: str | None = None


def take(ledger: Ledger, wish: Wish) -> Run:
    """Take one wiki. Faults: CONFLICT where somebody has it or it is complete, CONFIG for dates and names of jobs."""
    places = Places.of(wish.wiki, wish.settings)
    asked = (*wish.options.jobs, *([wish.options.restartfrom] if wish.options.restartfrom else ()))
    check_names([*(name for name in asked if name != ALL_TABLES), *wish.options.skipjobs], wish.wiki)
    date = _date(wish, places)
    _refuse_again(ledger, places, date, wish.options)
    taken = _take_lease(ledger, wish, runs.lease_name(places))
    made: Path | None = None
    try:
        lock = places.lock(date)
        _refuse_foreign_locks(places, lock, taken, wish.config_name)
        places.make(date, fileperms=wish.settings.fileperms)
        if lockfile.look(lock) is None:
            lockfile.make(lock)
            made = lock
        run_id = _on_record(ledger, wish, date, taken.lease)
    except BaseException:
        if made is not None:
            lockfile.remove(made)
        lease.give_back(ledger, taken.lease)
        raise
    return runs.load(ledger, run_id)


def _date(wish: Wish, places: Places) -> str:
    dates = places.dates()
    if wish.options.prefetchdate is not None and check_date(wish.options.prefetchdate) not in dates:
        reason = f"{wish.wiki.name} has no dump of that date"
        raise Fault(FaultKind.CONFIG, f"prefetchdate {wish.options.prefetchdate}", reason)
    if wish.date != "last":
        return check_date(wish.date)
    if not dates:
        raise Fault(FaultKind.CONFIG, f"wiki {wish.wiki.name}", "has no dump yet, so there is no last one")
    return dates[-1]


def _refuse_again(ledger: Ledger, places: Places, date: str, options: Options) -> None:
    """A dump that is complete is not made again by accident."""
    if options.is_partial or options.redo:
        return
    key_of = runs.select(ledger, tables.run.c.wiki == places.wiki.name, tables.run.c.date == date)
    if any(run.state is RunState.DONE and run.places.private == places.private for run in key_of):
        next_command = "name jobs, or set redo"
        raise Fault(FaultKind.CONFLICT, f"{places.wiki.name} {date}", "is complete already", next_command=next_command)


def _take_lease(ledger: Ledger, wish: Wish, name: str) -> _Taken:
    """The lease; a claim of Airflow's that was killed half way goes on where it was."""
    holder = wish.holder or servers.holder_of(wish.owner)
    with ledger.read() as connection:
        row = connection.execute(sa.select(lease_table).where(lease_table.c.name == name)).one_or_none()
    is_held = row is not None and row.expires_at > now()
    if row is not None and is_held and wish.holder is None and row.holder == holder:
        return _Taken(lease.Lease(name, row.token, holder, row.expires_at), was_ours=True)
    try:
        taken = lease.take(ledger, name, holder=holder, ttl=timedelta(seconds=wish.config.lease_s))
    except Fault as fault:
        if fault.kind is not FaultKind.CONFLICT:
            raise
        next_command = f"wait until then; custody wiki monitor {wish.config_name} cleans up after a dead worker"
        raise Fault(fault.kind, f"wiki {wish.wiki.name}", fault.reason, next_command=next_command) from fault
    return _Taken(taken, dead=row.holder if row is not None and is_held else None)


def _refuse_foreign_locks(places: Places, lock: Path, taken: _Taken, config_name: str) -> None:
    """A lock that is not ours is respected, unless it is that of a process of this host which is known to be dead."""
    for found in lockfile.find(places.private):
        if found.path == lock and taken.was_ours:
            continue
        if _is_lock_of(taken.dead, found) and lockfile.take_away(found):
            continue
        reason = f"is held by {found.owner}, touched {found.age_s():.0f} s ago"
        next_command = f"wait for it; wiki_dump_monitor, or custody wiki monitor {config_name}, takes stale locks away"
        raise Fault(FaultKind.CONFLICT, str(found.path), reason, next_command=next_command)


def _is_lock_of(holder: str | None, lock: lockfile.LockFile) -> bool:
    """Whether a lock names the process that a lease named: ``.../pid/start time``."""
    parts = (holder or "").split("/")
    return len(parts) >= 5 and lock.owner == f"{lockfile.host_name()} {parts[-2]}"


def _on_record(ledger: Ledger, wish: Wish, date: str, held: lease.Lease) -> int:
    with ledger.begin() as connection:
        lease.check(connection, held)
        run_id = runs.add(
            *(connection, wish.config_name, wish.wiki, date),
            owner=wish.owner,
            token=held.token,
            farm=wish.config,
            settings=wish.settings,
            options=wish.options,
        )
        detail = {"jobs": list(wish.options.jobs), "token": held.token}
        subject = f"{wish.wiki.name} {date}"
        ledger.record_event(connection, who=wish.owner, room=ROOM, what="claimed", subject=subject, detail=detail)
    return run_id
