"""Whose turn it is: what the published tree tells of each wiki, and the order that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from custody.faults import os_errors_as_faults
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.ledger.tables import event
from custody.wiki_dump.conf import Conf
from custody.wiki_dump.farm import Farm, Wiki
from custody.wiki_dump.layout import Places
from custody.wiki_dump.runs import ROOM

NEVER, FAILED, GOOD = range(3)
MAX_FAILURES = 3
"""After so many failed attempts within a day a wiki lets the others go first."""
_A_DAY = timedelta(days=1)
_SUBJECTS_A_QUERY = 500


@dataclass(frozen=True, order=True)
class Past:
    """When and how a wiki was dumped last, in the order in which wikis are chosen."""

    rank: int  # NEVER, FAILED (aborted and partial too), GOOD
    date: str
    age_key: float
    wiki: str


def past_of(places: Places, *, before: str | None = None) -> Past:
    """Read it out of the published tree: what any program left there counts.

    :param before: runs of this date or a later one do not count where there are earlier ones.
    """
    dates = places.dates()
    dates = [date for date in dates if before is None or date < before] or dates
    return past_of_date(places, dates[-1]) if dates else Past(NEVER, "", 0.0, places.wiki.name)


def past_of_date(places: Places, date: str) -> Past:
    """The same of one of its runs."""
    status = places.run(date) / "status.html"
    try:
        text, mtime = status.read_text("utf-8", "replace"), status.stat().st_mtime
    except OSError:
        return Past(FAILED, date, 0.0, places.wiki.name)
    return Past(GOOD if "Dump complete" in text and "failed" not in text else FAILED, date, mtime, places.wiki.name)


def waiting(farm: Farm, conf: Conf, *, cutoff: str | None = None, today: str) -> list[tuple[Past, Wiki]]:
    """Wikis that may be dumped with their past, the one to take first: never dumped, failed or partial, the oldest.

    :param cutoff: wikis whose last good dump is of this date or a later one are left out.
    """
    found = []
    for position, wiki in enumerate(farm.wikis):
        settings = conf.of(wiki.name)
        with os_errors_as_faults():
            past = past_of(Places.of(wiki, settings), before=_after_tomorrow())
        is_new = past.date >= today or (cutoff is not None and past.date >= cutoff)
        if past.rank == GOOD and is_new and past.date < _after_tomorrow():
            continue
        key = Past(NEVER, "", float(position), wiki.name) if settings.fixeddumporder else past
        found.append((key, past, wiki))
    return [(past, wiki) for _, past, wiki in sorted(found, key=lambda each: each[0])]


def order(farm: Farm, conf: Conf, *, cutoff: str | None = None, today: str) -> list[Wiki]:
    """The wikis of :func:`waiting`."""
    return [wiki for _, wiki in waiting(farm, conf, cutoff=cutoff, today=today)]


def urgency(past: Past, today: str) -> int:
    """How urgent a dump is, 0 to 100: 100 never dumped, from 50 failed, else the days since the last one."""
    if past.rank == NEVER:
        return 100
    days = max(0, (_day(today) - _day(past.date)).days)
    return min(99, 50 + days) if past.rank == FAILED else min(49, days)


def _after_tomorrow() -> str:
    """A run dated later comes of a clock that was wrong, and must not keep its wiki from being dumped."""
    return f"{now() + 2 * _A_DAY:%Y%m%d}"


def _day(date: str) -> datetime:
    return datetime.strptime(date, "%Y%m%d")


def let_others_go_first(ledger: Ledger, found: list[tuple[Past, Wiki]]) -> list[Wiki]:
    """The wikis of :func:`waiting`, but those that failed time after time within a day last: one stops no farm."""
    subjects = [f"{wiki.name} {past.date}" for past, wiki in found if past.rank == FAILED]
    failures: dict[str, int] = {}
    with ledger.read() as connection:
        for start in range(0, len(subjects), _SUBJECTS_A_QUERY):
            query = sa.select(event.c.subject, event.c.result).where(
                event.c.room == ROOM,
                event.c.subject.in_(subjects[start : start + _SUBJECTS_A_QUERY]),
                event.c.what.in_(["gave up", "finished"]),
                event.c.happened_at > now() - _A_DAY,
            )
            for row in connection.execute(query.order_by(event.c.id)):
                failures[row.subject] = 0 if row.result == "done" else failures.get(row.subject, 0) + 1
    tired = {subject for subject, count in failures.items() if count >= MAX_FAILURES}
    return [wiki for _, wiki in sorted(found, key=lambda each: f"{each[1].name} {each[0].date}" in tired)]
