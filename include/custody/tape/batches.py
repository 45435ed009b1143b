"""Dividing targets and file numbers into tasks: coarse enough to be worth one, each in the order of the tape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MAX_BATCHES = 1000
"""Airflow maps at most 1024 units."""


@dataclass(frozen=True)
class Batch:
    """Some of a sequence that is worked on in one task: from ``start`` up to and without ``stop``.

    :param size_bytes: of those whose size is known.
    """

    start: int
    stop: int
    size_bytes: int

    def __len__(self) -> int:
        return self.stop - self.start


def divide(sizes_bytes: Sequence[int | None], batch_bytes: int, *, most: int = MAX_BATCHES) -> list[Batch]:
    """Divide a sequence of sizes into runs of at most ``batch_bytes``, but never into more than ``most``.

    What is larger, or of unknown size, is a batch of its own. ValueError where ``batch_bytes`` or ``most`` is below 1.
    """
    if batch_bytes < 1 or most < 1:
        raise ValueError("a batch holds at least one byte, and there is at least one of them")
    batches = list(_runs(sizes_bytes, batch_bytes))
    if len(batches) <= most:
        return batches
    per_task = -(-len(batches) // most)
    groups = (batches[at : at + per_task] for at in range(0, len(batches), per_task))
    return [Batch(group[0].start, group[-1].stop, sum(one.size_bytes for one in group)) for group in groups]


def _runs(sizes_bytes: Sequence[int | None], batch_bytes: int) -> Iterator[Batch]:
    start, total = 0, 0
    for at, size in enumerate(sizes_bytes):
        if at > start and (size is None or sizes_bytes[at - 1] is None or total + size > batch_bytes):
            yield Batch(start, at, total)
            start, total = at, 0
        total += size or 0
    if sizes_bytes:
        yield Batch(start, len(sizes_bytes), total)


def pack_numbers(numbers: Iterable[int]) -> str:
    """Numbers as short text, in their order: ``4-9,12,2``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def unpack_numbers(text: str) -> list[int]:
    """The numbers that :func:`pack_numbers` was given; they are not negative. ValueError for other text."""
    numbers: list[int] = []
    for run in text.split(",") if text else ():
        first, _, last = run.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers
