"""Dividing work into tasks: every one once, in order, about the asked size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.tape.batches import divide, pack_numbers, unpack_numbers

SIZES = st.lists(st.none() | st.integers(0, 1000), max_size=60)


@given(SIZES, st.integers(1, 2000), st.integers(1, 10))
def test_every_one_is_in_one_batch_in_order(sizes: list[int | None], batch_bytes: int, most: int) -> None:
    found = divide(sizes, batch_bytes, most=most)
    assert [at for one in found for at in range(one.start, one.stop)] == list(range(len(sizes)))
    assert all(len(one) > 0 for one in found)
    assert len(found) <= most
    assert sum(one.size_bytes for one in found) == sum(size or 0 for size in sizes)


@given(SIZES, st.integers(1, 2000))
def test_a_batch_is_no_larger_than_asked_unless_it_is_one(sizes: list[int | None], batch_bytes: int) -> None:
    for one in divide(sizes, batch_bytes):
        assert len(one) == 1 or one.size_bytes <= batch_bytes
        assert len(one) == 1 or None not in sizes[one.start : one.stop]


def test_known_divisions() -> None:
    assert [(one.start, one.stop) for one in divide([4, 4, 4, 9, 1, None, 1], 8)] == [
        (0, 2),
        (2, 3),
        (3, 4),
        (4, 5),
        (5, 6),
        (6, 7),
    ]
    assert divide([], 8) == []


@pytest.mark.parametrize(("batch_bytes", "most"), [(0, 1), (1, 0)])
def test_no_batches_of_nothing(batch_bytes: int, most: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        divide([1], batch_bytes, most=most)


@given(st.lists(st.integers(0, 10_000), max_size=100))
def test_numbers_survive_being_packed(numbers: list[int]) -> None:
    assert unpack_numbers(pack_numbers(numbers)) == numbers


def test_runs_of_numbers_are_short() -> None:
    assert pack_numbers([*range(4, 10), 12, 2]) == "4-9,12,2"
    with pytest.raises(ValueError, match="x"):
        unpack_numbers("1,x")
