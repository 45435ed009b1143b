"""When a disk will be full, drawn from what runs saw of it."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from custody.drain import view
from custody.drain.forecast import Forecast, forecast, warn_of_full
from custody.faults import FaultKind
from custody.ledger.store import now
from custody.ledger.tables import event
from drain_site import WHO, Site

GB = 1_000_000_000


def see(disk: Site, free_bytes: int, hours_ago: float, *, host: str = "crawler07", config: str = "wide") -> None:
    """Put on record what a run saw so long ago."""
    look = view.DiskLook(now(), host, 50.0, free_bytes, True, False, 0, 0)
    view.record_look(disk.ledger, config, look, who=WHO)
    with disk.ledger.begin() as connection:
        newest = connection.scalar(sa.select(sa.func.max(event.c.id)))
        then = now() - timedelta(hours=hours_ago)
        connection.execute(sa.update(event).where(event.c.id == newest).values(happened_at=then))


def hours(found: Forecast | None) -> float | None:
    left = found and found.until_full()
    return left and left.total_seconds() / 3600


def test_what_was_lost_in_a_day_says_when_it_is_full(disk: Site) -> None:
    for free, ago in ((900 * GB, 30), (130 * GB, 11), (90 * GB, 6), (100 * GB, 1)):  # the first is too old to count
        see(disk, free, ago)
    see(disk, 1, 0.1, config="narrow")
    assert hours(forecast(disk.ledger, "wide")) == pytest.approx(100 / 3 - 1, abs=0.1)


@pytest.mark.parametrize("looks", [[], [(100, 1)], [(100, 0.3), (50, 0.1)], [(50, 5), (100, 1)], [(50, 5), (50, 1)]])
def test_nothing_is_said_of_a_disk_that_does_not_fill_or_was_seen_too_seldom(
    disk: Site, looks: list[tuple[int, float]]
) -> None:
    for free, ago in looks:
        see(disk, free * GB, ago)
    assert hours(forecast(disk.ledger, "wide")) is None


def test_a_disk_that_moved_to_another_machine_begins_anew(disk: Site) -> None:
    see(disk, 100 * GB, 5, host="crawler06")
    see(disk, 90 * GB, 1)
    assert forecast(disk.ledger, "wide") is None


@pytest.mark.parametrize(("ago", "expected"), [(0.0, 2.0), (1.5, 0.5), (4.0, 0.0), (-3.0, 2.0)])
def test_time_goes_on_since_the_last_look_and_never_back(ago: float, expected: float) -> None:
    seen = Forecast(10.0 * GB, 20 * GB, now() - timedelta(hours=ago), timedelta(hours=5))
    left = seen.until_full()
    assert left is not None and left.total_seconds() / 3600 == pytest.approx(expected, abs=0.01)


def test_a_person_is_told_in_time_and_not_before(disk: Site) -> None:
    config = disk.config
    assert warn_of_full("wide", config, None) is None
    assert warn_of_full("wide", config, timedelta(hours=12, minutes=1)) is None
    warning = warn_of_full("wide", config, timedelta(hours=3))
    assert warning is not None and warning.kind is FaultKind.NEEDS_HUMAN
    assert "will be full in 3 hours" in str(warning) and str(disk.job_dir) in str(warning)
    assert warning.next_command == "custody drain check wide"
    assert "in 20 minutes" in str(warn_of_full("wide", config, timedelta(minutes=20)))
