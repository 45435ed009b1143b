"""Which files go together: every rule of packing, for any files."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.digests import FileState
from custody.drain.names import WarcName
from custody.drain.packing import Candidate, Limits, PackingPlan, plan_packing


def candidate(name: str, size_bytes: int, group: tuple[str, str] = ("P", "h")) -> Candidate:
    prefix, host = group
    return Candidate(WarcName(name, ".warc.gz", prefix=prefix, host=host), FileState(size_bytes, 0, 0))


def group_of(one: Candidate) -> tuple[str, str]:
    return one.warc.group


candidates = st.lists(
    st.builds(
        candidate,
        st.text("abcdef0123456789-", min_size=1, max_size=8),
        st.integers(1, 120),
        st.tuples(st.sampled_from("PQ"), st.sampled_from("hi")),
    ),
    max_size=40,
    unique_by=lambda one: one.warc.name,
)
limits = st.builds(Limits, st.integers(1, 200), st.integers(1, 8))


@given(candidates, limits, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_the_rules_of_packing(files: list[Candidate], most: Limits, flush: bool, mix: bool, dice: object) -> None:
    plan = plan_packing(files, most, flush=flush, mix=mix)
    shuffled = list(files)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan_packing(shuffled, most, flush=flush, mix=mix) == plan, "the order of the listing must not matter"
    _every_file_in_exactly_one_place(files, plan)
    for series in plan.series:
        assert series
        assert sum(one.size_bytes for one in series) <= most.max_size_bytes or len(series) == 1
        assert len(series) <= most.max_files
        assert [one.warc.name for one in series] == sorted(one.warc.name for one in series)
        assert mix or len({group_of(one) for one in series}) == 1
    if flush:
        assert not plan.waiting
    for members in _by_group(files, mix):
        _greedy(plan, members, most, flush)


def _every_file_in_exactly_one_place(files: list[Candidate], plan: PackingPlan) -> None:
    placed = [one.warc.name for series in plan.series for one in series] + [one.warc.name for one in plan.waiting]
    assert sorted(placed) == sorted(one.warc.name for one in files)


def _by_group(files: Sequence[Candidate], mix: bool) -> list[set[str]]:
    groups: dict[object, set[str]] = {}
    for one in files:
        groups.setdefault(None if mix else group_of(one), set()).add(one.warc.name)
    return list(groups.values())


def _greedy(plan: PackingPlan, members: set[str], most: Limits, flush: bool) -> None:
    """Within a group: files follow each other by name, and a series ends only where the next file does not fit."""
    series = [one for one in plan.series if one[0].warc.name in members]
    waiting = [one for one in plan.waiting if one.warc.name in members]
    order = [one.warc.name for group in series for one in group] + [one.warc.name for one in waiting]
    assert order == sorted(order)
    following = [*series[1:], waiting]
    for here, after in zip(series, following, strict=False):
        size = sum(one.size_bytes for one in here)
        is_full = size >= most.max_size_bytes or len(here) == most.max_files
        if after:
            assert is_full or size + after[0].size_bytes > most.max_size_bytes
        else:
            assert is_full or flush
    if waiting:
        assert sum(one.size_bytes for one in waiting) < most.max_size_bytes
        assert len(waiting) < most.max_files


def sizes(plan: PackingPlan) -> list[list[int]]:
    return [[one.size_bytes for one in series] for series in plan.series]


@pytest.mark.parametrize(
    ("given_sizes", "flush", "expected", "waiting"),
    [
        ([400, 400, 400], True, [[400, 400], [400]], 0),  # W11: the remainder must not exceed an item
        ([600, 600], False, [[600]], 1),  # W12: the overflow at the last file closes a series
        ([500, 500], False, [[500, 500]], 0),  # filled exactly: closed at once
        ([2000], False, [[2000]], 0),  # larger than an item: alone, and at once
        ([10, 2000, 10], False, [[10], [2000]], 1),
        ([10, 2000, 10], True, [[10], [2000], [10]], 0),
        ([], True, [], 0),
        ([1], False, [], 1),
    ],
)
def test_known_packings(given_sizes: list[int], flush: bool, expected: list[list[int]], waiting: int) -> None:
    files = [candidate(f"{number:03}", size) for number, size in enumerate(given_sizes)]
    plan = plan_packing(files, Limits(1000, 500), flush=flush)
    assert sizes(plan) == expected
    assert len(plan.waiting) == waiting


def test_two_crawls_never_share_an_item_unless_told_to() -> None:
    files = [candidate(f"{number:03}", 10, ("PQ"[number % 2], "h")) for number in range(6)]
    most = Limits(1000, 500)
    assert [len(series) for series in plan_packing(files, most, flush=True).series] == [3, 3]
    assert [len(series) for series in plan_packing(files, most, flush=True, mix=True).series] == [6]
