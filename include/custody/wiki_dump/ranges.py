"""Dividing a wiki into ranges of pages, by revisions and by bytes; and the index of a stub file that this is done with.

A stub file is gzip members: the head, groups of pages, the closing tag. The index says where each group begins, so that
a task reads only its own part of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from custody.faults import Fault, FaultKind
from custody.publish import write_atomic
from custody.wiki_dump.settings import Settings

GROUP_REVISIONS = 5000
MAX_PARTS = 1000


@dataclass(frozen=True)
class Group:
    """Pages that lie in one member of a stub file."""

    first: int
    last: int
    offset: int
    end: int
    pages: int
    revisions: int
    size_bytes: int


@dataclass(frozen=True)
class StubIndex:
    """The groups of one stub file."""

    name: str
    groups: tuple[Group, ...]

    def save(self, path: Path) -> None:
        """Write it down."""
        rows = [list(vars(group).values()) for group in self.groups]
        write_atomic(path, json.dumps({"name": self.name, "groups": rows}).encode() + b"\n", mode=0o600)

    @classmethod
    def load(cls, path: Path) -> StubIndex:
        """Read it. Faults: DATA."""
        try:
            content = json.loads(path.read_bytes())
            return cls(content["name"], tuple(Group(*row) for row in content["groups"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            next_command = "make the stubs again: job xmlstubsdump"
            raise Fault(
                FaultKind.DATA, str(path), f"is no index of stubs ({error})", next_command=next_command
            ) from error


@dataclass(frozen=True)
class Range:
    """Pages from ``first`` to ``last`` of one part."""

    first: int
    last: int
    part: int | None
    pages: int
    revisions: int


def group_size(settings: Settings) -> tuple[int, int]:
    """How many revisions and bytes a member may hold, so that ranges can be cut between members."""
    return max(1, min(GROUP_REVISIONS, settings.maxrevs, settings.revsPerJob)), max(1, settings.maxrevbytes)


def bounds(settings: Settings) -> list[int]:
    """The last page of each part but the last one, which has no end; empty for a dump in one part."""
    if not settings.chunksEnabled:
        return []
    counts = settings.pagesPerChunkHistory
    total, found = 0, []
    for count in counts[:-1]:
        total += count
        found.append(total)
    return found


def part_bounds(settings: Settings, last_page: int) -> list[int]:
    """As :func:`bounds`; a single number makes equal parts."""
    counts = settings.pagesPerChunkHistory
    if settings.chunksEnabled and len(counts) == 1:
        if last_page // counts[0] > MAX_PARTS:
            reason = f"{counts[0]} makes {last_page // counts[0]} parts; at most {MAX_PARTS} are made"
            raise Fault(FaultKind.CONFIG, "chunks.pagesPerChunkHistory", reason, next_command="name a larger number")
        return list(range(counts[0], last_page, counts[0]))
    return bounds(settings)


def part_of(page_id: int, ends: Sequence[int]) -> int:
    """The number of the part a page belongs to, from 1."""
    from bisect import bisect_left

    return bisect_left(ends, page_id) + 1


def divide(groups: Sequence[Group], settings: Settings, *, part: int | None, first: int, last: int) -> list[Range]:
    """Ranges of one part that follow each other without a gap. A page that is too large alone is alone.

    :param first: the first page of the part, from which its first range counts.
    :param last: the last page, at which its last range ends.
    """
    if not settings.checkpointTime:
        pages, revisions = sum(group.pages for group in groups), sum(group.revisions for group in groups)
        return [Range(first, last, part, pages, revisions)]
    found: list[Range] = []
    if not groups:
        return [Range(first, last, part, 0, 0)]
    start = first
    for taken in _gather(groups, settings.revsPerJob, settings.maxrevbytes):
        pages, revisions = sum(group.pages for group in taken), sum(group.revisions for group in taken)
        found.append(Range(start, taken[-1].last, part, pages, revisions))
        start = taken[-1].last + 1
    if found:
        end = found.pop()
        found.append(Range(end.first, max(last, end.last), part, end.pages, end.revisions))
    return found


def _gather(groups: Sequence[Group], most_revisions: int, most_bytes: int) -> Iterator[list[Group]]:
    taken: list[Group] = []
    revisions = size = 0
    for group in groups:
        if taken and (revisions + group.revisions > most_revisions or size + group.size_bytes > most_bytes):
            yield taken
            taken, revisions, size = [], 0, 0
        taken.append(group)
        revisions, size = revisions + group.revisions, size + group.size_bytes
    if taken:
        yield taken
