"""Ask a crawler to pause while its disk is under pressure, and to go on when there is room again.

Only what was paused from here is resumed from here: what was asked, and what came of it, is in the audit, and the last
line there about a configuration says where it stands. The intent is on record before the crawler is asked, so that a
crash leaves no crawler standing that nobody would wake. A crawler that refuses or keeps silent stops no drain.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from custody import lease
from custody.drain.config import DrainConfig
from custody.drain.crawler_api import Crawler, CrawlerState
from custody.drain.series import ROOM
from custody.faults import Fault
from custody.host import LocalHost
from custody.ledger import Ledger
from custody.ledger.tables import event

PAUSE, RESUME, ASK = "pause crawler", "resume crawler", "ask crawler"
ASKING, DONE, REFUSED, BY_SOMEBODY = "asking", "done", "refused", "by somebody else"


class Standing(StrEnum):
    """What the audit says of a crawler."""

    FREE = "free"
    ASKING = "asked to pause, unknown what came of it"
    PAUSED = "paused from here"
    LEFT_ALONE = "paused from here and resumed by somebody: left alone until there is room"


@dataclass(frozen=True)
class _Look:
    ledger: Ledger
    config_name: str
    crawler: Crawler
    used_pct: float
    who: str

    def note(self, what: str, result: str, **detail: str) -> None:
        with self.ledger.begin() as connection:
            self.ledger.record_event(
                connection,
                who=self.who,
                room=ROOM,
                what=what,
                subject=self.config_name,
                result=result,
                detail={"crawler": self.crawler.name, "used_pct": round(self.used_pct, 1), **detail},
            )


def standing(ledger: Ledger, config_name: str) -> Standing:
    """Where the crawler of a configuration stands, as far as we have asked it for anything."""
    query = (
        sa.select(event.c.what, event.c.result)
        .where(event.c.room == ROOM, event.c.subject == config_name, event.c.what.in_((PAUSE, RESUME)))
        .order_by(event.c.id.desc())
        .limit(1)
    )
    with ledger.read() as connection:
        last = connection.execute(query).one_or_none()
    match tuple(last) if last else None:
        case (what, result) if (what, result) == (PAUSE, ASKING):
            return Standing.ASKING
        case (what, result) if (what, result) == (PAUSE, DONE):
            return Standing.PAUSED
        case (what, result) if (what, result) == (RESUME, BY_SOMEBODY):
            return Standing.LEFT_ALONE
        case _:
            return Standing.FREE


def watch_crawler(
    ledger: Ledger, config_name: str, config: DrainConfig, crawler: Crawler, *, who: str, may_pause: bool = True
) -> str | None:
    """Look at the disk and ask the crawler for what follows from it; what was done, in a line, or None for nothing.

    :param may_pause: False where draining is switched off: then it may only be woken.

    Faults: TRANSIENT, AUTH, CONFIG of the crawler or the ledger (after they were put on record), CONFLICT where another
    run is at it. The caller goes on without it.
    """
    assert config.crawler is not None
    with lease.hold(ledger, f"drain/crawler/{config_name}"):
        used_pct = LocalHost().disk_usage(config.job_dir).used_pct
        look = _Look(ledger, config_name, crawler, used_pct, who)
        stands = standing(ledger, config_name)
        try:
            if used_pct >= config.pressure_pct:
                return _pause(look, stands) if may_pause else None
            if used_pct < config.crawler.resume_pct:
                return _resume(look, stands)
        except Fault as fault:
            look.note(ASK, fault.kind, fault=str(fault))
            raise
    return None


def _pause(look: _Look, stands: Standing) -> str | None:
    if stands is Standing.LEFT_ALONE:
        return None
    state = look.crawler.state()
    if stands is Standing.PAUSED:
        if state is CrawlerState.RUNNING:
            look.note(RESUME, BY_SOMEBODY)
            return f"{look.crawler.name}: was paused from here and runs again: left alone until the disk has room"
        return None
    if stands is Standing.ASKING and state is CrawlerState.PAUSED:
        look.note(PAUSE, DONE)
        return f"{look.crawler.name}: paused"
    if state in {CrawlerState.PAUSED, CrawlerState.STOPPED}:
        return None  # not by us, so that it is not ours to resume either
    look.note(PAUSE, ASKING)
    _ask(look, PAUSE)
    look.note(PAUSE, DONE)
    return f"{look.crawler.name}: asked to pause, the disk is {look.used_pct:.1f} % full"


def _resume(look: _Look, stands: Standing) -> str | None:
    match stands:
        case Standing.FREE:
            return None
        case Standing.LEFT_ALONE:
            look.note(RESUME, DONE, was="running already")
            return None
    state = look.crawler.state()
    if state in {CrawlerState.RUNNING, CrawlerState.STOPPED}:
        look.note(RESUME, DONE, was=state)
        return f"{look.crawler.name}: is {state}"
    _ask(look, RESUME)
    look.note(RESUME, DONE)
    return f"{look.crawler.name}: asked to go on, the disk is {look.used_pct:.1f} % full"


def _ask(look: _Look, what: str) -> None:
    """A clear no to a pause is on record as one: then nothing is ours. After silence nobody knows."""
    try:
        look.crawler.pause() if what == PAUSE else look.crawler.resume()
    except Fault as fault:
        if what == PAUSE and not fault.kind.is_worth_a_retry:
            look.note(PAUSE, REFUSED)
        raise
