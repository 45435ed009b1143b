"""What things in the caches are called: bit for bit as NetarchiveSuite called them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum

NAMED_IDS = 4


class Kind(StrEnum):
    """What a cache holds, and the directory it holds it in."""

    CRAWL_LOG = "crawllog"  # of one job: its crawl log, sorted by URL
    CDX_DATA = "cdxdata"  # of one job: the CDX records of its metadata files, sorted
    CDXJ = "cdxj"  # of one job: CDXJ of its content files, sorted
    REPORTS = "crawlreports"  # of one job: the reports and settings in its metadata files, as a tar
    CDX = "cdxindex"  # of a set: CDX_DATA merged
    FULL = "fullcrawllogindex"  # of a set: CDXJ merged
    DEDUP = "dedupcrawllogindex"  # of a set: digest, URL and origin of everything but text
    PARQUET = "fullparquetindex"  # of a set: FULL as Parquet

    @property
    def is_of_one_job(self) -> bool:
        """Whether an item belongs to one job; else to a set of jobs."""
        return self in {Kind.CRAWL_LOG, Kind.CDX_DATA, Kind.CDXJ, Kind.REPORTS}

    @property
    def made_of(self) -> Kind:
        """What a set of this kind is merged from."""
        return Kind.CDX_DATA if self is Kind.CDX else Kind.CDXJ


def set_name(job_ids: Iterable[int]) -> str:
    """The name of a set: its ids in order; of more than four the first four, and the md5 of all."""
    ids = sorted(set(job_ids))
    joined = "-".join(map(str, ids))
    if len(ids) > NAMED_IDS:
        md5 = hashlib.md5(joined.encode(), usedforsecurity=False).hexdigest()
        joined = "-".join([*map(str, ids[:NAMED_IDS]), md5])
    return f"{joined or 'empty'}-cache"


def job_name(kind: Kind, job_id: int) -> str:
    """The name of one job's item."""
    return f"{kind}-{job_id}-cache"
