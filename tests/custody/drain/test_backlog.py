"""One run takes the whole backlog of a disk."""

from __future__ import annotations

from custody.drain.series import SeriesState
from drain_site import STEPS, WHO, Site, check_is_clean

SERIES = 100


def test_one_run_drains_a_hundred_series(site: Site) -> None:
    site.values["max_files"] = 1
    for serial in range(SERIES):
        site.write(serial, size_bytes=500)
    numbers = site.plan().series_ids
    assert len(numbers) == SERIES
    ledger, targets = site.ledger, (site.target,)
    for step in STEPS.values():
        for number in numbers:
            step(ledger, number, who=WHO, targets=targets)
    assert {site.load(number).state for number in numbers} == {SeriesState.CLEAN}
    check_is_clean(site, numbers[::33])
    assert site.on_disk() == []
    assert site.store is not None
    assert sum(key.endswith(".warc.gz") for key in site.store.objects()) == SERIES
    assert len(site.events("deleted")) == SERIES
    again = site.plan()
    assert (again.series_ids, again.waiting) == ([], ())
