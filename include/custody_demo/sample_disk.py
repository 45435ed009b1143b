"""A crawler's disk as an operator finds it: finished WARCs of two crawls, one still open, one cut, one stray."""

from __future__ import annotations

import enum
import hashlib
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from custody_demo.sample_warc import write_warc


class Fate(enum.StrEnum):
    """What a drain has to do with a file."""

    DRAINED = "drained"  # packed, uploaded, proven, and only then deleted
    OPEN = "open"  # the crawler still writes it: not touched
    CUT = "cut"  # ends in the middle of a gzip member: kept on the disk, under a name that says so
    UNMATCHED = "unmatched"  # its name fits no pattern: not touched


@dataclass(frozen=True)
class SampleFile:
    """One file as it was written, and what should become of it."""

    path: Path
    size_bytes: int
    md5: str
    fate: Fate

    @property
    def name(self) -> str:
        """The file name."""
        return self.path.name


@dataclass(frozen=True)
class SampleCrawl:
    """One crawler at work on the disk; the fields of its file names."""

    prefix: str
    host: str
    pid: int
    port: int = 8443
    first_serial: int = 0


CRAWLS = (
    SampleCrawl(prefix="WIDE-W10", host="crawler07.example.org", pid=14123),
    SampleCrawl(prefix="NEWS-DAILY", host="crawler12.example.org", pid=2201, first_serial=310),
)

FIRST_DAY = datetime(2026, 3, 1, 11, 4, 9, 387_000, tzinfo=UTC)


@dataclass(frozen=True)
class SampleDisk:
    """The disk and everything that was put on it."""

    root: Path
    job_dir: Path
    xfer_dir: Path
    files: tuple[SampleFile, ...]

    def of(self, fate: Fate) -> list[SampleFile]:
        """Return the files of one fate, in the order of their names."""
        return [each for each in self.files if each.fate is fate]

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(each.size_bytes for each in self.files)


def make_sample_disk(
    root: Path,
    *,
    job: str = "wide",
    seed: int = 2026,
    crawls: Sequence[SampleCrawl] = CRAWLS,
    files_per_crawl: int = 10,
    file_size_bytes: int = 280_000,
    first_day: datetime = FIRST_DAY,
    odd_files: bool = True,
    compress_level: int = 6,
) -> SampleDisk:
    """Make `root`/1/crawling/JOB/warcs and `root`/1/incoming/JOB and return what is in them.

    :param file_size_bytes: about the size of each file; they differ by a fifth
    :param first_day: UTC; when the first crawl began, the next one a day later; names and file times follow it
    :param odd_files: put the open, the cut and the stray file among them
    """
    job_dir, xfer_dir = root / "1/crawling" / job / "warcs", root / "1/incoming" / job
    job_dir.mkdir(parents=True)
    xfer_dir.mkdir(parents=True)
    dice = random.Random(seed)  # noqa: S311  (repeatable sample data, not a secret)
    files: list[SampleFile] = []

    def write(name: str, crawl: SampleCrawl, started: datetime, fate: Fate) -> None:
        path = job_dir / name
        size_bytes = int(file_size_bytes * dice.uniform(0.8, 1.2))
        info = _warcinfo(crawl, job)
        write_warc(
            path, dice=dice, size_bytes=size_bytes, started=started, warcinfo=info, compress_level=compress_level
        )
        if fate is Fate.CUT:
            os.truncate(path, path.stat().st_size - 1_000)
        os.utime(path, (started.timestamp() + 600, started.timestamp() + 600))
        files.append(_sample_file(path, fate))

    for number, crawl in enumerate(crawls):
        moment = first_day + timedelta(days=number)
        for serial in range(crawl.first_serial, crawl.first_serial + files_per_crawl):
            write(_name(crawl, moment, serial), crawl, moment, Fate.DRAINED)
            moment += timedelta(minutes=dice.randint(10, 50), milliseconds=dice.randint(1, 999))
        if odd_files and number == 0:
            write(_name(crawl, moment, crawl.first_serial + files_per_crawl), crawl, moment, Fate.CUT)
            moment += timedelta(minutes=30)
            name = _name(crawl, moment, crawl.first_serial + files_per_crawl + 1) + ".open"
            write(name, crawl, moment, Fate.OPEN)
            write("by-hand.warc.gz", crawl, moment, Fate.UNMATCHED)
    (job_dir / "DRAINME").touch()
    (job_dir / "FINISH_DRAIN").touch()
    return SampleDisk(root, job_dir, xfer_dir, tuple(sorted(files, key=lambda each: each.name)))


def remove_sample_disk(root: Path) -> None:
    """Remove a disk that `make_sample_disk` made; anything else at that place is left alone and is an error."""
    if not root.exists():
        return
    if not any(root.glob("1/crawling/*/warcs")):
        raise ValueError(f"{root} is not a sample disk; move it away by hand")
    shutil.rmtree(root)


def md5_of(path: Path) -> str:
    """Return the md5 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _sample_file(path: Path, fate: Fate) -> SampleFile:
    return SampleFile(path=path, size_bytes=path.stat().st_size, md5=md5_of(path), fate=fate)


def _name(crawl: SampleCrawl, moment: datetime, serial: int) -> str:
    stamp = f"{moment:%Y%m%d%H%M%S}{moment.microsecond // 1000:03d}"
    return f"{crawl.prefix}-{stamp}-{serial:05d}-{crawl.pid}~{crawl.host}~{crawl.port}.warc.gz"


def _warcinfo(crawl: SampleCrawl, job: str) -> dict[str, str]:
    return {
        "software": "Heritrix/3.4.0-20240909 http://crawler.archive.org",
        "hostname": crawl.host,
        "format": "WARC File Format 1.0",
        "conformsTo": "http://bibnum.bnf.fr/WARC/WARC_ISO_28500_version1_latestdraft.pdf",
        "isPartOf": job,
        "description": f"Sample crawl {crawl.prefix}",
        "robots": "obey",
    }
