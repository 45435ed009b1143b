"""An archive to work on."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitarchive_samples import PAGES, arc_record, sample, version_block, warc_records, write_sample
from bitarchive_site import Site, make_site
from custody.bitarchive import catalogue
from custody.bitarchive.index.build import Indexes
from custody.ledger import Ledger


@pytest.fixture
def site(tmp_path: Path, ledger_sqlite: Ledger) -> Site:
    """Two nodes with two files each."""
    return make_site(tmp_path / "archive", ledger_sqlite)


LOG = (
    b"2026-01-01T00:00:01Z 200 10 http://b.example/ L - text/html #1\n"
    b"2026-01-01T00:00:00Z 200 9 http://a.example/ - -\n"
)


@pytest.fixture
def jobs(site: Site) -> Indexes:
    """Job 31 with content and metadata, job 32 with content, job 311 to be kept apart from 31."""
    filedir = site.root / "one" / "filedir"
    for job in (31, 32, 311):
        sample(filedir / f"{job}-7-20260101-00000.warc.gz")
    write_sample(filedir / "32-7-20260101-00001.warc.gz", warc_records(PAGES[:1]))
    records = [
        version_block("31-metadata-1.arc"),
        arc_record("metadata://kb.example/crawl/index/cdx?jobid=31", b"b line\na line\n", mime="application/x-cdx"),
        arc_record("metadata://kb.example/crawl/logs/crawl.log?jobid=31", LOG, mime="text/plain"),
        arc_record(
            "metadata://kb.example/crawl/reports/crawl-report.txt?jobid=31", b"all is well\n", mime="text/plain"
        ),
        arc_record("metadata://kb.example/crawl/setup/../../../etc/order.xml", b"<order/>", mime="text/xml"),
        arc_record("metadata://kb.example/crawl/reports/crawl-report.txt?again", b"again\n"),
    ]
    write_sample(site.root / "two" / "filedir" / "31-metadata-1.arc", records)
    catalogue.adopt(site.archive, site.archive.config.replica("ONE"), who="test")
    return Indexes(site.archive)
