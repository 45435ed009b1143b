"""Which wiki is dumped next, and taking it: the lease, the lock, the frozen configuration, the run on record."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.ledger.tables import lease as lease_table
from custody.wiki_dump import conf as wikidump_conf
from custody.wiki_dump import runs, servers, tables
from custody.wiki_dump.access import Reach, from_files
from custody.wiki_dump.choose import GOOD, let_others_go_first, past_of, waiting
from custody.wiki_dump.conf import Conf
from custody.wiki_dump.engine.rows import Address
from custody.wiki_dump.farm import Wiki, farm_of
from custody.wiki_dump.farm_config import FarmConfig
from custody.wiki_dump.layout import Places, check_date
from custody.wiki_dump.marks import is_unchanged, mark_of
from custody.wiki_dump.privacy import refuse_exposed
from custody.wiki_dump.runs import Options, Run
from custody.wiki_dump.status import JobState, RunState, read_runinfo
from custody.wiki_dump.take import Wish, take

MAINTENANCE, EXIT = "maintenance.txt", "exit.txt"


def read_conf(config: FarmConfig) -> Conf:
    """Read the farm's ``wikidump.conf`` afresh. Faults: CONFIG."""
    return wikidump_conf.load(*wikidump_conf.parse_place(config.conf))


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
    reach: Reach = from_files,
    holder: str | None = None,
) -> Run:
    """Choose a wiki and take it; the same owner who asks again gets the run he has.

    :param reach: tells how the databases of a wiki are found.
    :param holder: :func:`custody.lease.process_identity`, where the whole run is this one process.

    Faults: CANCELLED where there is nothing to do or work is switched off, CONFLICT where the wiki that was named is
    somebody else's, THROTTLED where its database server has enough runs, CONFIG for what is wrong with lists and keys.
    """
    options = options or Options()
    if options.restartfrom and options.jobs:
        raise Fault(FaultKind.CONFIG, "restartfrom and job", "exclude each other", next_command="leave one of them out")
    mine = runs.of_owner(ledger, owner)
    if mine is not None and not mine.state.is_over and _is_ours(ledger, mine):
        return mine
    conf = read_conf(config)
    look_for_switches(conf)
    farm = farm_of(conf)
    today = f"{now():%Y%m%d}"
    claiming = _Claiming(ledger, config_name, config, conf, owner, date or today, options, reach, holder)
    try:
        with os_errors_as_faults():
            if wiki is not None:
                return claiming.take(farm.wiki(wiki))
            limit = None if cutoff is None else check_date(today if cutoff == "today" else cutoff)
            return claiming.first_of(
                let_others_go_first(ledger, waiting(farm, conf, cutoff=limit, today=date or today))
            )
    except BaseException:
        servers.give_back(ledger, owner)
        raise


@dataclass(frozen=True)
class _Claiming:
    """What taking a wiki needs to know, whichever it is."""

    ledger: Ledger
    config_name: str
    config: FarmConfig
    conf: Conf
    owner: str
    date: str
    options: Options
    reach: Reach
    holder: str | None

    def first_of(self, candidates: list[Wiki]) -> Run:
        """Take the first that may be taken. Faults: CANCELLED where there is none, THROTTLED where it must wait."""
        full: Fault | None = None
        broken: Fault | None = None
        for candidate in candidates:
            if self._needs_no_dump(candidate):
                continue
            try:
                return self.take(candidate)
            except Fault as fault:
                if fault.kind is FaultKind.THROTTLED:
                    full = fault
                elif fault.kind in {FaultKind.DATA, FaultKind.NEEDS_HUMAN}:
                    broken = broken or fault  # the monitor names it; the other wikis can be dumped
                elif fault.kind is not FaultKind.CONFLICT:
                    raise
        if stopped := full or broken:
            raise stopped
        raise Fault(FaultKind.CANCELLED, self.config_name, "no wiki is waiting: all are dumped, or are being dumped")

    def _needs_no_dump(self, wiki: Wiki) -> bool:
        settings = self.conf.of(wiki.name)
        places = Places.of(wiki, settings)
        if _has_nothing_to_do(places, self.options):
            return True
        if not (self.config.closed_once and wiki.closed):
            return False
        farm = self.config.of(wiki.name)
        return _is_dumped_since_closing(self.ledger, places, lambda: self.reach(farm, settings).address(wiki.name))

    def take(self, wiki: Wiki) -> Run:
        """A slot of its database server, then the wiki itself."""
        farm, settings = self.config.of(wiki.name), self.conf.of(wiki.name)
        refuse_exposed(wiki, settings)
        server = None
        if farm.runs_per_server is not None:
            server, ttl = self.reach(farm, settings).server, timedelta(seconds=farm.lease_s)
            servers.hold(self.ledger, server, farm.runs_per_server, owner=self.owner, ttl=ttl)
        wish = Wish(self.config_name, farm, settings, wiki, self.owner, self.date, self.options, self.holder)
        run = take(self.ledger, wish)
        servers.give_back(self.ledger, self.owner, but=server)
        return run


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


def _is_dumped_since_closing(ledger: Ledger, places: Places, address: Callable[[], Address]) -> bool:
    """Whether a closed wiki was so when its newest run was dumped whole, and has not changed since."""
    past = past_of(places)
    if past.rank != GOOD:
        return False
    found = runs.select(ledger, tables.run.c.wiki == places.wiki.name, tables.run.c.date == past.date)
    ours = [run for run in found if run.wiki.closed and run.state is RunState.DONE]
    marks = [run.snapshot for run in ours if run.places.private == places.private]
    if not marks:
        return False
    try:
        mark = mark_of(address())
    except Fault:
        return False  # nobody knows whether it has changed: the run that is made of it says what is wrong
    return any(is_unchanged(known, mark) for known in marks)


def _is_ours(ledger: Ledger, run: Run) -> bool:
    with ledger.read() as connection:
        query = sa.select(lease_table.c.token).where(lease_table.c.name == run.lease_name)
        return connection.scalar(query) == run.token


def switch_path(config: FarmConfig, name: str) -> Path:
    """Where ``maintenance.txt`` or ``exit.txt`` of a farm is looked for."""
    return wikidump_conf.parse_place(config.conf)[0].parent / name
