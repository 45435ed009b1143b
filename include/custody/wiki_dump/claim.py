"""Which wiki is dumped next, and taking it: the lease, the lock, the frozen configuration, the run on record."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from custody import lease
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.ledger.tables import lease as lease_table
from custody.wiki_dump import conf as wikidump_conf
from custody.wiki_dump import lockfile, runs, tables
from custody.wiki_dump.conf import Conf
from custody.wiki_dump.farm import Farm, Wiki, read_farm
from custody.wiki_dump.farm_config import FarmConfig
from custody.wiki_dump.layout import Places, check_date
from custody.wiki_dump.runs import ROOM, Options, Run
from custody.wiki_dump.status import JobState, RunState, read_runinfo

MAINTENANCE, EXIT = "maintenance.txt", "exit.txt"


@dataclass(frozen=True, order=True)
class Past:
    """When and how a wiki was dumped last, in the order in which wikis are chosen."""

    rank: int  # 0 never, 1 failed, aborted or partial, 2 good
    date: str
    age_key: float
    wiki: str


def read_conf(config: FarmConfig) -> Conf:
    """Read the farm's ``wikidump.conf`` afresh. Faults: CONFIG."""
    return wikidump_conf.load(*wikidump_conf.parse_place(config.conf))


def past_of(places: Places) -> Past:
    """Read it out of the published tree: what any program left there counts."""
    dates = places.dates()
    return past_of_date(places, dates[-1]) if dates else Past(0, "", 0.0, places.wiki.name)


def past_of_date(places: Places, date: str) -> Past:
    """The same of one of its runs."""
    status = places.run(date) / "status.html"
    try:
        text, mtime = status.read_text("utf-8", "replace"), status.stat().st_mtime
    except OSError:
        return Past(1, date, 0.0, places.wiki.name)
    return Past(2 if "Dump complete" in text and "failed" not in text else 1, date, mtime, places.wiki.name)


def order(farm: Farm, conf: Conf, *, cutoff: str | None = None, today: str) -> list[Wiki]:
    """Wikis that may be dumped, the one to take first: never dumped, failed or partial, then the oldest.

    :param cutoff: wikis whose last good dump is of this date or a later one are left out.
    """
    found = []
    for position, wiki in enumerate(farm.wikis):
        settings = conf.of(wiki.name)
        past = past_of(Places.of(wiki, settings))
        if past.rank == 2 and (past.date >= today or (cutoff is not None and past.date >= cutoff)):
            continue
        key = Past(0, "", float(position), wiki.name) if settings.fixeddumporder else past
        found.append((key, wiki))
    return [wiki for _, wiki in sorted(found, key=lambda each: each[0])]


def look_for_switches(conf: Conf) -> None:
    """``maintenance.txt`` and ``exit.txt`` beside ``wikidump.conf``, and ``halt``. Faults: CANCELLED."""
    for name in (EXIT, MAINTENANCE):
        switch = conf.path.parent / name
        if switch.exists():
            said = ""
            with suppress(OSError):
                said = switch.read_text("utf-8", "replace").strip()[:200]
            reason = f"is there ({said}): no new work" if said else "is there: no new work"
            raise Fault(FaultKind.CANCELLED, str(switch), reason, next_command=f"rm {switch}")
    if conf.of().halt:
        raise Fault(FaultKind.CANCELLED, f"{conf.path}: wiki.halt", "is on: no new work")


def claim(
    ledger: Ledger,
    config_name: str,
    config: FarmConfig,
    *,
    owner: str,
    wiki: str | None = None,
    date: str | None = None,
    options: Options | None = None,
    cutoff: str | None = None,
) -> Run:
    """Choose a wiki and take it; the same owner who asks again gets the run he has.

    Faults: CANCELLED where there is nothing to do or work is switched off, CONFLICT where the wiki that was named is
    somebody else's, CONFIG for whatever is wrong with lists and keys.
    """
    options = options or Options()
    mine = runs.of_owner(ledger, owner)
    if mine is not None and not mine.state.is_over and _is_ours(ledger, mine):
        return mine
    conf = read_conf(config)
    look_for_switches(conf)
    farm = read_farm(conf.of())
    today = f"{now():%Y%m%d}"
    if wiki is not None:
        return _take(ledger, config_name, config, conf, farm.wiki(wiki), owner, date or today, options)
    limit = None if cutoff is None else check_date(today if cutoff == "today" else cutoff)
    for candidate in order(farm, conf, cutoff=limit, today=date or today):
        places = Places.of(candidate, conf.of(candidate.name))
        if _has_nothing_to_do(places, options) or (config.closed_once and _is_dumped_since_closing(ledger, places)):
            continue
        try:
            return _take(ledger, config_name, config, conf, candidate, owner, date or today, options)
        except Fault as fault:
            if fault.kind is not FaultKind.CONFLICT:
                raise
    raise Fault(FaultKind.CANCELLED, config_name, "no wiki is waiting: all are dumped, or are being dumped")


def _has_nothing_to_do(places: Places, options: Options) -> bool:
    """Whether every job that was asked for is done in the newest run already (``skipdone``)."""
    if not (options.skipdone and options.jobs):
        return False
    dates = places.dates()
    try:
        done = read_runinfo((places.run(dates[-1]) / "dumpruninfo.txt").read_text("utf-8", "replace")) if dates else {}
    except OSError:
        return False
    return all(done.get(job) == JobState.DONE for job in options.jobs)


def _is_dumped_since_closing(ledger: Ledger, places: Places) -> bool:
    """Whether a wiki is closed, and was so when its newest run was dumped whole."""
    past = past_of(places)
    if not places.wiki.closed or past.rank != 2:
        return False
    found = runs.select(ledger, tables.run.c.wiki == places.wiki.name, tables.run.c.date == past.date)
    return any(run.wiki.closed and run.state is RunState.DONE and run.places.private == places.private for run in found)


def _is_ours(ledger: Ledger, run: Run) -> bool:
    with ledger.read() as connection:
        query = sa.select(lease_table.c.token).where(lease_table.c.name == run.lease_name)
        return connection.scalar(query) == run.token


def _take(
    ledger: Ledger,
    config_name: str,
    config: FarmConfig,
    conf: Conf,
    wiki: Wiki,
    owner: str,
    date: str,
    options: Options,
) -> Run:
    settings = conf.of(wiki.name)
    places = Places.of(wiki, settings)
    if date == "last":
        dates = places.dates()
        if not dates:
            raise Fault(FaultKind.CONFIG, f"wiki {wiki.name}", "has no dump yet, so there is no last one")
        date = dates[-1]
    check_date(date)
    _refuse_again(ledger, places, date, options)
    name = runs.lease_name(places)
    taken = _take_lease(ledger, name, owner, timedelta(seconds=config.lease_s))
    try:
        lock = places.lock(date)
        foreign = [found for found in lockfile.find(places.private) if found.path != lock or not taken[1]]
        if foreign:
            reason = f"is held by {foreign[0].owner}, touched {foreign[0].age_s():.0f} s ago"
            next_command = "wait for it; wiki_dump_monitor takes stale locks away"
            raise Fault(FaultKind.CONFLICT, str(foreign[0].path), reason, next_command=next_command)
        places.make(date)
        if lockfile.look(lock) is None:
            lockfile.make(lock)
        with ledger.begin() as connection:
            lease.check(connection, taken[0])
            run_id = runs.add(
                *(connection, config_name, wiki, date),
                owner=owner,
                token=taken[0].token,
                farm=config,
                settings=settings,
                options=options,
            )
            detail = {"jobs": list(options.jobs), "token": taken[0].token}
            ledger.record_event(
                connection, who=owner, room=ROOM, what="claimed", subject=f"{wiki.name} {date}", detail=detail
            )
    except BaseException:
        lease.give_back(ledger, taken[0])
        raise
    return runs.load(ledger, run_id)


def _refuse_again(ledger: Ledger, places: Places, date: str, options: Options) -> None:
    """A dump that is complete is not made again by accident."""
    if options.is_partial or options.redo:
        return
    key_of = runs.select(ledger, tables.run.c.wiki == places.wiki.name, tables.run.c.date == date)
    if any(run.state is RunState.DONE and run.places.private == places.private for run in key_of):
        next_command = "name jobs, or set redo"
        raise Fault(FaultKind.CONFLICT, f"{places.wiki.name} {date}", "is complete already", next_command=next_command)


def _take_lease(ledger: Ledger, name: str, owner: str, ttl: timedelta) -> tuple[lease.Lease, bool]:
    """The lease, and whether we had it before: a claim that was killed half way goes on where it was."""
    holder = f"run {owner}"
    with ledger.read() as connection:
        row = connection.execute(sa.select(lease_table).where(lease_table.c.name == name)).one_or_none()
    if row is not None and row.holder == holder and row.expires_at > now():
        return lease.Lease(name, row.token, holder, row.expires_at), True
    return lease.take(ledger, name, holder=holder, ttl=ttl), False


def switch_path(config: FarmConfig, name: str) -> Path:
    """Where ``maintenance.txt`` or ``exit.txt`` of a farm is looked for."""
    return wikidump_conf.parse_place(config.conf)[0].parent / name
