"""Small series go through the steps together; what becomes of one keeps no other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.drain import batches
from custody.drain.batches import Tried, make_batches, name_batch, plan_batches, try_each
from custody.drain.config import GIB
from custody.drain.manifest import manifest
from custody.drain.pack import pack
from custody.drain.series import Series, SeriesState
from custody.drain.step import Step
from custody.faults import Fault, FaultKind
from drain_site import WHO, Site


@given(st.lists(st.integers(0, 30), max_size=300), st.integers(0, 40))
def test_batches_hold_all_in_order_and_no_more_than_they_may(sizes: list[int], most: int) -> None:
    made = make_batches(list(enumerate(sizes)), most)
    assert [number for batch in made for number in batch] == list(range(len(sizes)))
    for batch in made:
        held = [sizes[number] for number in batch]
        assert 0 < len(held) <= batches.MAX_SERIES
        assert len(held) == 1 or (sum(held) <= most and max(held) < most)
    for before, after in pairwise(made):
        is_full = len(before) == batches.MAX_SERIES or sizes[before[0]] >= most or sizes[after[0]] >= most
        assert is_full or sum(sizes[number] for number in before) + sizes[after[0]] > most


@pytest.mark.parametrize(
    ("gib", "found"),
    [([1] * 12, [10, 2]), ([10, 10], [1, 1]), ([9.9, 0.2], [1, 1]), ([3, 12, 3, 3], [1, 1, 2]), ([0] * 101, [100, 1])],
)
def test_the_default_is_ten_gib(gib: list[float], found: list[int]) -> None:
    sizes = [(number, int(size * GIB)) for number, size in enumerate(gib)]
    assert [len(batch) for batch in make_batches(sizes, 10 * GIB)] == found


def three(disk: Site) -> tuple[Site, list[int]]:
    disk.values["max_files"] = 1
    for serial in range(3):
        disk.write(serial)
    return disk, disk.plan().series_ids


def attempt(site: Site, step: Step, numbers: list[int]) -> Tried:
    return try_each(step, site.ledger, numbers, who=WHO, targets_of=lambda _config: ())


def test_the_sizes_come_from_the_ledger(disk: Site) -> None:
    site, numbers = three(disk)
    two = sum(site.load(number).size_bytes for number in numbers[:2]) + 1
    for gib, found in ((0, [1, 1, 1]), (two / GIB, [2, 1]), (10, [3])):
        site.values["batch_gib"] = gib
        assert [len(batch) for batch in plan_batches(site.ledger, numbers, site.config)] == found
    first, last = site.load(numbers[0]).item, site.load(numbers[-1]).item
    assert name_batch(site.ledger, numbers) == f"{first} … {last} (3 series)"
    assert name_batch(site.ledger, numbers[:1]) == first


def test_one_that_fails_is_left_behind_with_its_own_fault(disk: Site) -> None:
    site, numbers = three(disk)
    stuck = site.load(numbers[1])
    stuck.directory.mkdir()
    (stuck.directory / "somebody").write_text("else's")
    packed = attempt(site, pack, numbers)
    assert [one.id for one in packed.through] == [numbers[0], numbers[2]]
    assert [fault.kind for fault in packed.faults] == [FaultKind.NEEDS_HUMAN]
    assert packed.fault(may_retry=True, is_last=False) is None
    cause = site.load(stuck.id).fault_text
    assert cause and "not ours" in cause

    listed = attempt(site, manifest, numbers)
    assert ([one.id for one in listed.passed], listed.faults) == ([stuck.id], [])
    assert listed.fault(may_retry=True, is_last=False) is None
    assert (site.load(stuck.id).fault_text, site.load(stuck.id).state) == (cause, SeriesState.PLANNED)
    at_the_end = listed.fault(may_retry=True, is_last=True)
    assert at_the_end and at_the_end.kind is FaultKind.NEEDS_HUMAN
    assert stuck.item in str(at_the_end) and "1 of the 3 series" in str(at_the_end)

    alone = attempt(site, manifest, [stuck.id])
    assert "whatever the task before is marked as" in str(alone.fault(may_retry=True, is_last=False))


def test_one_that_is_behind_without_a_reason_is_refused(disk: Site) -> None:
    site, numbers = three(disk)
    attempt(site, pack, numbers[:2])
    listed = attempt(site, manifest, numbers)
    assert [one.id for one in listed.through] == numbers[:2]
    assert ["whatever the task before is marked as" in str(fault) for fault in listed.faults] == [True]
    assert site.load(numbers[2]).fault is FaultKind.NEEDS_HUMAN


def test_without_drainme_the_batch_stops(disk: Site) -> None:
    site, numbers = three(disk)
    attempt(site, pack, numbers[:1])
    (site.job_dir / "DRAINME").unlink()
    tried = attempt(site, pack, numbers)
    assert [one.id for one in tried.through] == numbers[:1]
    fault = tried.fault(may_retry=True, is_last=False)
    assert fault and fault.kind is FaultKind.CANCELLED


def test_a_defect_in_one_series_is_not_the_others(disk: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site, numbers = three(disk)

    def broken(ledger: Any, number: int, **options: Any) -> Series:
        if number == numbers[0]:
            raise ValueError("a defect")
        return pack(ledger, number, **options)

    broken.needs = SeriesState.PLANNED  # type: ignore[attr-defined]
    tried = attempt(site, broken, numbers)  # type: ignore[arg-type]
    assert [one.id for one in tried.through] == numbers[1:]
    assert [(fault.kind, fault.reason) for fault in tried.faults] == [(FaultKind.TRANSIENT, "ValueError: a defect")]
    with pytest.raises(ValueError, match="a defect"):
        attempt(site, broken, numbers[:1])  # type: ignore[arg-type]


NOON = datetime(2999, 1, 1, 12, tzinfo=UTC)


def of(kind: FaultKind, until: datetime | None = None) -> Fault:
    return Fault(kind, str(kind), "found", next_command="look", until=until)


@pytest.mark.parametrize(
    ("kinds", "through", "may_retry", "is_last", "ends_with"),
    [
        (["data", "transient"], 1, True, False, "transient"),
        (["data", "conflict"], 0, True, False, "conflict"),
        (["data", "capacity"], 1, False, False, None),
        (["data", "capacity"], 0, False, False, "data"),
        (["transient"], 1, False, True, "transient"),
        (["cancelled", "auth"], 1, False, False, "auth"),
        (["cancelled", "transient"], 1, True, False, "transient"),
        (["needs_human", "throttled", "transient"], 1, True, False, "throttled"),
        ([], 1, True, True, None),
        ([], 0, True, True, None),
    ],
)
def test_the_end_of_a_step(
    disk: Site, kinds: list[str], through: int, may_retry: bool, is_last: bool, ends_with: str | None
) -> None:
    disk.write()
    done = [disk.load(disk.one_series())] * through
    tried = Tried(4, through=done, faults=[of(FaultKind(kind)) for kind in kinds])
    fault = tried.fault(may_retry=may_retry, is_last=is_last)
    assert (fault.kind if fault else None) == ends_with


def test_the_longest_wait_counts_and_a_fault_alone_is_said_as_it_is() -> None:
    waits = [of(FaultKind.THROTTLED, NOON + timedelta(seconds=more)) for more in (1, 9, 4)]
    fault = Tried(3, faults=[*waits, of(FaultKind.THROTTLED)]).fault(may_retry=False, is_last=False)
    assert fault and fault.until == NOON + timedelta(seconds=9)
    alone = of(FaultKind.DATA)
    assert Tried(1, faults=[alone]).fault(may_retry=True, is_last=False) is alone
    among = Tried(2, faults=[alone]).fault(may_retry=True, is_last=False)
    assert among and str(among) == "data: found (1 of the 2 series of this batch are left). Next: look"
