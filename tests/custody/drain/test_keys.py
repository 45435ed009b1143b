"""A key that is refused is tried once a run, and not by every series that goes by it."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from custody.drain.batches import Tried, try_each
from custody.drain.config import DrainConfig
from custody.drain.series import SeriesState
from custody.drain.targets import Target
from custody.drain.upload import create_item
from custody.faults import Fault, FaultKind
from custody.ledger.store import now
from drain_site import WHO, Site, check_is_clean, check_nothing_lost


def listed(site: Site, count: int = 3) -> list[int]:
    """So many series that are about to be made at the target."""
    site.values["max_files"] = 1
    for serial in range(count):
        site.write(serial)
    numbers = site.plan().series_ids
    for number in numbers:
        site.do_until(number, "manifest")
    return numbers


def attempt(site: Site, numbers: list[int], since: datetime, *, secret_key: str | None = None) -> tuple[Tried, int]:
    """Try to make the items; and how often a target was asked for anything."""
    assert site.store is not None
    target = site.store.target(secret_key=secret_key)
    asked = []
    real = target.look
    target.look = lambda item, names: asked.append(item) or real(item, names)  # type: ignore[method-assign, func-returns-value]

    def targets_of(_config: DrainConfig) -> list[Target]:
        return [target]

    tried = try_each(create_item, site.ledger, numbers, who=WHO, targets_of=targets_of, since=since)
    return tried, len(asked)


def test_the_first_refusal_speaks_for_the_run_and_the_next_run_tries_anew(site: Site) -> None:
    numbers, began = listed(site), now()
    tried, asked = attempt(site, numbers, began, secret_key="wrong")
    assert asked == 1
    assert [fault.kind for fault in tried.faults] == [FaultKind.AUTH] * 3
    refused, *held_back = [site.load(number) for number in numbers]
    assert refused.fault_text and "the server refused it: 403" in refused.fault_text
    for series in held_back:
        assert (series.state, series.fault, series.attempts) == (SeriesState.LISTED, FaultKind.AUTH, 0)
        assert series.fault_text and f"the key of custody_s3 was refused for {refused.item}" in series.fault_text
    assert attempt(site, numbers[1:], began, secret_key="wrong")[1] == 0  # another task of the same run
    check_nothing_lost(site)

    tried, asked = attempt(site, numbers, now())
    assert (len(tried.through), asked) == (3, 6)
    for number in numbers:
        site.do_until(number, "delete")
    check_is_clean(site, numbers)


def test_who_goes_another_way_is_not_held_back(site: Site) -> None:
    numbers, began = listed(site, 2), now()
    attempt(site, numbers[:1], began, secret_key="wrong")
    site.values["connection"] = "another_s3"
    site.take_up(numbers[1])
    assert len(attempt(site, numbers[1:], began)[0].through) == 1


def test_a_refusal_of_an_earlier_run_holds_nobody_back(site: Site) -> None:
    numbers, began = listed(site, 2), now()
    attempt(site, numbers[:1], began, secret_key="wrong")
    assert len(attempt(site, numbers[1:], now() + timedelta(microseconds=1))[0].through) == 1


def test_a_target_that_cannot_be_made_is_on_record(site: Site) -> None:
    numbers = listed(site, 2)

    def targets_of(_config: DrainConfig) -> list[Target]:
        raise Fault(
            FaultKind.CONFIG, "connection nosuch", "is not there", next_command="airflow connections add nosuch"
        )

    tried = try_each(create_item, site.ledger, numbers, who=WHO, targets_of=targets_of, since=now())
    assert [fault.kind for fault in tried.faults] == [FaultKind.CONFIG] * 2
    for number in numbers:
        series = site.load(number)
        assert (series.fault, series.state) == (FaultKind.CONFIG, SeriesState.LISTED)
        assert series.fault_text == "connection nosuch: is not there. Next: airflow connections add nosuch"


def test_what_stopped_a_series_stays_on_record_when_a_later_step_finds_it_behind(site: Site) -> None:
    (number,) = listed(site, 1)
    site.do_until(number, "upload")
    assert site.store is not None and site.store.folder is not None
    series = site.load(number)
    (site.store.folder / series.item / series.files[0].name).unlink()
    with pytest.raises(Fault, match="its keeper does not list it"):
        site.do(number, "prove")
    told = site.load(number).fault_text
    site.take_up(number)  # by another run
    with pytest.raises(Fault, match=r"is created, and prove takes only what is uploaded; .* it stopped before: s3://"):
        site.do(number, "prove")
    assert site.load(number).fault_text == told
    site.do_until(number, "delete")
    check_is_clean(site, [number])
