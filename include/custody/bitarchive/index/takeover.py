"""NetarchiveSuite's own caches, taken over: each item is compared with what the archive says before it is a hit.

What a cache holds was made from metadata files that are in the archive, so it can be made again, and is: what is equal,
line by line, is in the cache from then on. An old item is never copied on its word alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from custody.bitarchive.get import job_of
from custody.bitarchive.index.build import Indexes, content_job_of
from custody.bitarchive.index.names import NAMED_IDS, Kind, set_name
from custody.bitarchive.index.raw import MAX_RAW_BYTES, lines_of
from custody.faults import Fault, FaultKind, os_errors_as_faults

DIRECTORIES = {"crawllog": Kind.CRAWL_LOG, "cdxdata": Kind.CDX_DATA, "cdxindex": Kind.CDX, "CDX": Kind.CDX}
"""Where the old system kept what is text; the others are Lucene's."""
LUCENE = ("fullcrawllogindex", "dedupcrawllogindex", "FULL_CRAWL_LOG", "DEDUP_CRAWL_LOG")
_OF_JOB = re.compile(r"[A-Za-z_]+-(\d{1,18})-cache")
_OF_SET = re.compile(r"(\d{1,18}(?:-\d{1,18})*)(?:-[0-9a-f]{32})?-cache")


class Verdict(StrEnum):
    """What became of an old item."""

    EQUAL = "equal, in the cache"
    DIFFERENT = "DIFFERENT from the archive, left out"
    UNKNOWN = "not compared, left out"


@dataclass(frozen=True)
class TakenOver:
    """One old item."""

    path: Path
    verdict: Verdict
    reason: str = ""


def take_over(indexes: Indexes, directory: Path) -> Iterator[TakenOver]:
    """Compare every item below an old cache directory; those that are equal are in the cache afterwards.

    Faults: CONFIG where the directory is the archive's own cache: an old item would be overwritten by the new one.
    """
    own = indexes.cache.root
    if own.exists() and own.resolve() in {directory.resolve(), *directory.resolve().parents}:
        command = f"mv {directory} {directory}.old"
        raise Fault(FaultKind.CONFIG, str(directory), "is the archive's own cache", next_command=command)
    for name, kind in DIRECTORIES.items():
        for path in sorted((directory / name).glob("*-cache")):
            try:
                yield _compare(indexes, kind, path)
            except Fault as fault:
                yield TakenOver(path, Verdict.UNKNOWN, fault.reason)
    for name in LUCENE:
        for path in sorted((directory / name).glob("*-cache")):
            reason = "an index of Lucene; the same jobs are indexed anew when they are asked for"
            yield TakenOver(path, Verdict.UNKNOWN, reason)


def _compare(indexes: Indexes, kind: Kind, path: Path) -> TakenOver:
    lines = _read(path)
    jobs = _jobs_of(kind, path.name, lines)
    if not jobs:
        return TakenOver(path, Verdict.UNKNOWN, "its name does not tell which jobs it is of, nor do its lines")
    item = indexes.get(kind, jobs).item
    there = Counter(lines_of(item.path.read_bytes()))
    old = Counter(lines)
    if old == there:
        return TakenOver(path, Verdict.EQUAL)
    reason = (
        f"{(old - there).total()} lines are not in the archive, {(there - old).total()} of the archive are not here"
    )
    return TakenOver(path, Verdict.DIFFERENT, reason)


def _read(path: Path) -> list[bytes]:
    with os_errors_as_faults(str(path)):
        if path.is_symlink() or not path.is_file():
            raise Fault(FaultKind.DATA, str(path), "is no file")
        if path.stat().st_size > MAX_RAW_BYTES:
            raise Fault(FaultKind.DATA, str(path), f"is larger than {MAX_RAW_BYTES} bytes")
        return lines_of(path.read_bytes())


def _jobs_of(kind: Kind, name: str, lines: Sequence[bytes]) -> list[int]:
    """The jobs of an item; of a set of more than four, by the files that its lines name, if their md5 agrees."""
    if kind.is_of_one_job:
        found = _OF_JOB.fullmatch(name)
        return [int(found[1])] if found else []
    found = _OF_SET.fullmatch(name)
    if not found:
        return []
    named = [int(word) for word in found[1].split("-")]
    if len(named) <= NAMED_IDS and set_name(named) == name:
        return named
    words = {word.decode("utf-8", "replace") for line in lines for word in line.split()}
    jobs = sorted({job for word in words if (job := content_job_of(word) or job_of(word)) is not None})
    return jobs if set_name(jobs) == name else []
