"""Which files go into one item. Pure: a list of candidates in, series out.

Greedy by sorted name within one crawl and crawler: a series is full when the next file does not fit, when it is filled
exactly, or when it has the greatest number of files. What remains waits for more, unless the crawl is finished, the
oldest file has waited long enough, or the disk is under pressure. A file larger than a series may be goes alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from custody.digests import FileState
from custody.drain.names import WarcName


@dataclass(frozen=True)
class Candidate:
    """A file of the job directory that may be packed, as it was seen."""

    warc: WarcName
    state: FileState

    @property
    def size_bytes(self) -> int:
        """Its size when it was seen."""
        return self.state.size_bytes


@dataclass(frozen=True)
class Limits:
    """What a series may hold. Sizes in bytes; ``max_size_bytes`` and ``max_files`` are inclusive."""

    max_size_bytes: int
    max_files: int


@dataclass(frozen=True)
class PackingPlan:
    """Series to be made, in order, and the files that wait for more."""

    series: tuple[tuple[Candidate, ...], ...]
    waiting: tuple[Candidate, ...]


def plan_packing(candidates: Iterable[Candidate], limits: Limits, *, flush: bool, mix: bool = False) -> PackingPlan:
    """Divide candidates into series.

    :param flush: close the last, not yet full series of every group too (crawl finished, age, disk pressure).
    :param mix: let files of several crawls or hosts share an item, as draintasker did.
    """
    ordered = sorted(candidates, key=lambda candidate: (_group(candidate, mix), candidate.warc.name))
    series: list[tuple[Candidate, ...]] = []
    waiting: list[Candidate] = []
    for _, members in groupby(ordered, key=lambda candidate: _group(candidate, mix)):
        full, rest = _fill(list(members), limits)
        series += full
        if rest and flush:
            series.append(tuple(rest))
        else:
            waiting += rest
    return PackingPlan(tuple(series), tuple(waiting))


def _group(candidate: Candidate, mix: bool) -> tuple[str, str]:
    return ("", "") if mix else candidate.warc.group


def _fill(members: Sequence[Candidate], limits: Limits) -> tuple[list[tuple[Candidate, ...]], list[Candidate]]:
    full: list[tuple[Candidate, ...]] = []
    current: list[Candidate] = []
    size = 0
    for member in members:
        if current and size + member.size_bytes > limits.max_size_bytes:
            full.append(tuple(current))
            current, size = [], 0
        current.append(member)
        size += member.size_bytes
        if size >= limits.max_size_bytes or len(current) >= limits.max_files:
            full.append(tuple(current))
            current, size = [], 0
    return full, current
