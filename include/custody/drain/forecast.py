"""When a disk will be full: what every run saw of it, drawn on.

The runs put on record how much of a disk is free. What it lost between the first and the last look of a day is what the
crawler wrote less what was drained, and that is what fills it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from custody.drain.config import DrainConfig
from custody.drain.series import ROOM
from custody.drain.view import LOOK, DiskLook
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger import tables as shared
from custody.ledger.store import now

LOOK_BACK = timedelta(hours=24)
SHORTEST = timedelta(minutes=30)
"""Two looks that are closer tell nothing: a crawler closes its files in bursts."""


@dataclass(frozen=True)
class Forecast:
    """How fast a disk fills. ``bytes_per_hour`` is what it loses of its free space; below 0 it empties."""

    bytes_per_hour: float
    free_bytes: int
    seen_at: datetime
    over: timedelta

    def until_full(self, at: datetime | None = None) -> timedelta | None:
        """The time left from now; None where it does not fill. Never below 0."""
        if self.bytes_per_hour <= 0:
            return None
        hours = min(self.free_bytes / self.bytes_per_hour, 24 * 3650)
        since = max(timedelta(), (at or now()) - self.seen_at)
        return max(timedelta(), timedelta(hours=hours) - since)


def warn_of_full(config_name: str, config: DrainConfig, left: timedelta | None) -> Fault | None:
    """What to tell a person of a disk that will be full within ``full_warn_h``; None where there is time."""
    if left is None or left > timedelta(hours=config.full_warn_h):
        return None
    minutes = left.total_seconds() / 60
    when = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"
    reason = f"will be full in {when}, as it filled in the last day: drain faster, or slow its crawler down"
    command = f"custody drain check {shlex.quote(config_name)}"
    return Fault(FaultKind.NEEDS_HUMAN, f"disk {config.job_dir}", reason, next_command=command)


def forecast(ledger: Ledger, config_name: str) -> Forecast | None:
    """Draw on what the last day's runs saw of the disk; None where they are too few, or too close together."""
    event = shared.event
    looks = (
        sa.select(event.c.happened_at, event.c.detail)
        .where(event.c.room == ROOM, event.c.subject == config_name, event.c.what == LOOK)
        .where(event.c.happened_at >= now() - LOOK_BACK)
        .limit(1)
    )
    with ledger.read() as connection:
        first = connection.execute(looks.order_by(event.c.id)).one_or_none()
        last = connection.execute(looks.order_by(event.c.id.desc())).one_or_none()
    if first is None or last is None:
        return None
    over = last.happened_at - first.happened_at
    try:
        before, after = DiskLook.from_detail(first.detail), DiskLook.from_detail(last.detail)
    except (TypeError, ValueError, KeyError):
        return None  # written by another version
    if over < SHORTEST or before.seen_from != after.seen_from:
        return None
    lost = before.free_bytes - after.free_bytes
    return Forecast(lost / (over.total_seconds() / 3600), after.free_bytes, last.happened_at, over)
