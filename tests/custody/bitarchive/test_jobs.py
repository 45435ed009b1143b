"""The library of jobs, on files with known answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import pytest

from bitarchive_samples import PAGES, SHARED, arc_record, sample, version_block, write_sample
from bitarchive_site import FILES, Site
from custody.bitarchive.batch import accounts
from custody.bitarchive.jobs import ArchiveFile, FileBatchJob, RecordBatchJob, RecordFilter
from custody.bitarchive.jobs.library import LIBRARY

shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared sample files are not here")


def run(job: FileBatchJob, paths: Iterable[Path]) -> bytes:
    """The job in this process, without a sandbox."""
    out = BytesIO()
    for path in paths:
        job.process_file(ArchiveFile(path.name, path, path.stat().st_size), out)
    made = BytesIO()
    return made.getvalue() if job.post_process(BytesIO(out.getvalue()), made) else out.getvalue()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [sample(tmp_path / name).path for name in FILES]


def test_the_library_has_the_names_of_the_old_system() -> None:
    assert {"ChecksumJob", "FileListJob", "ArchiveExtractCDXJob", "URLsearch", "MimeSearch"} <= set(LIBRARY)
    assert all((job.__doc__ or "").strip() for job in LIBRARY.values())


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_checksums(files: list[Path], algorithm: str) -> None:
    expected = "".join(f"{path.name}##{hashlib.new(algorithm, path.read_bytes()).hexdigest()}\n" for path in files)
    assert run(LIBRARY["ChecksumJob"](algorithm), files).decode() == expected


def test_whole_files_and_lists(files: list[Path]) -> None:
    assert run(LIBRARY["FileListJob"](), files).decode().split() == list(FILES)
    assert run(LIBRARY["GetFileBatchJob"](), files) == b"".join(path.read_bytes() for path in files)


def test_mime_counts_of_all_files_together(files: list[Path]) -> None:
    made = b"".join(run(LIBRARY["Mimetypes"](), files).splitlines(keepends=True))
    rows = {line.split("\t")[0]: int(line.split("\t")[1]) for line in made.decode().splitlines()}
    assert rows == {"image/png": 4, "text/html": 8, "text/plain": 4}


def test_searches(files: list[Path]) -> None:
    urls = run(LIBRARY["URLsearch"](r"http://www\.museum\..*png"), files).decode().splitlines()
    assert [line.split("\t")[:2] for line in urls] == [["http://www.museum.example/logo.png", "image/png"]] * 4
    mimes = run(LIBRARY["MimeSearch"]("text/.*"), files).decode().splitlines()
    assert len(mimes) == 12
    both = run(LIBRARY["UrlAndMimeSearch"](".*list.*", "text/plain"), files).decode().splitlines()
    assert [line.split("\t")[3] for line in both] == list(FILES)
    assert run(LIBRARY["URLsearch"]("museum"), files) == b""  # the whole URL must match


def test_an_offset_in_an_answer_leads_to_the_record(files: list[Path]) -> None:
    for line in run(LIBRARY["URLsearch"](".*logo.*"), files).decode().splitlines():
        name, offset = line.split("\t")[3:]
        path = next(path for path in files if path.name == name)
        made = sample(path.parent / "again" / name)
        assert int(offset) == made.extents[2][0]


def test_duplicates_are_found_across_files(files: list[Path]) -> None:
    lines = run(LIBRARY["DeduplicationFinder"](), files).decode().splitlines()
    assert len(lines) == 16
    assert {line.split("\t")[0] for line in lines} == {hashlib.sha1(body).hexdigest() for _, _, body in PAGES}
    assert run(LIBRARY["DeduplicationFinder"](), files[:1]) == b""


def test_metadata_and_crawl_log_lines(tmp_path: Path) -> None:
    log = (
        b"2026-01-01T00:00:00.000Z 200 10 http://www.museum.example/a L http://x.example/ text/html #1\n"
        b"2026-01-01T00:00:01.000Z 200 10 http://other.example/b L http://museum.example/ text/html #1\n"
        b"2026-01-01T00:00:02.000Z 404 10 http://notmuseum.example/c L http://x.example/ text/html #1"
    )
    path = write_sample(
        tmp_path / "12-metadata-1.arc",
        [
            version_block("x"),
            arc_record("metadata://kb.example/crawl/setup/order.xml?jobid=12", b"<order/>", mime="text/xml"),
            arc_record("metadata://kb.example/crawl/logs/crawl.log?jobid=12", log, mime="text/plain"),
        ],
    ).path
    assert run(LIBRARY["GetMetadataArchiveBatchJob"](".*order.xml.*", "text/xml"), [path]) == b"<order/>"
    assert run(LIBRARY["GetMetadataArchiveBatchJob"](), [path]).endswith(b"<order/>" + log)
    assert run(LIBRARY["CrawlLogLinesMatchingRegexp"](r".* 404 .*"), [path]) == log.splitlines()[2] + b"\n"
    about = run(LIBRARY["HarvestedUrlsForDomainBatchJob"]("museum.example"), [path])
    assert about.splitlines() == log.splitlines()[:2]


class Count(RecordBatchJob):
    def __init__(self, chosen: RecordFilter) -> None:
        self.record_filter = chosen

    def process_record(self, record: object, out: object) -> None:
        out.write(b".")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        (RecordFilter.NO_FILTER, 20),
        (RecordFilter.EXCLUDE_FILE_HEADERS, 16),
        (RecordFilter.ONLY_HTTP_ENTRIES, 16),
        (RecordFilter.EXCLUDE_NON_RESPONSE_RECORDS, 16),
    ],
)
def test_filters(files: list[Path], chosen: RecordFilter, count: int) -> None:
    assert len(run(Count(chosen), files)) == count


@pytest.mark.slow
def test_every_job_of_the_library_runs_in_the_sandbox(site: Site) -> None:
    arguments = {"URLsearch": [".*"], "MimeSearch": [".*"], "UrlAndMimeSearch": [".*", ".*"]}
    arguments["HarvestedUrlsForDomainBatchJob"] = ["museum.example"]
    for name in LIBRARY:
        found = site.run(name, *arguments.get(name, []), key=name, regexp="[ab].*")
        errors = accounts.describe_errors(site.archive, found.batch.id)
        assert found.summary == "Processed 2 files with 0 failures", errors


@shared
def test_the_cdx_of_a_real_arc_is_that_of_the_old_system(tmp_path: Path) -> None:
    path = SHARED / "netarchivesuite/fyensdk.arc"
    ours = {tuple(line.split()[:7]) for line in run(LIBRARY["ArchiveExtractCDXJob"](), [path]).decode().splitlines()}
    known = (SHARED / "netarchivesuite/fyensdk.cdx").read_text().splitlines()
    theirs = {tuple(line.split()[:7]) for line in known}
    assert len(theirs) == 189
    assert ours == theirs
