"""The sample disk is a true crawler's disk: other people's readers agree."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator as FastIterator
from warcio.archiveiterator import ArchiveIterator

from custody_demo.sample_disk import Fate, SampleDisk, make_sample_disk, md5_of, remove_sample_disk

HERITRIX = re.compile(r"[A-Z0-9-]+-\d{17}-\d{5}-\d+~[a-z0-9.]+~\d+\.warc\.gz")


@pytest.fixture
def disk(tmp_path: Path) -> SampleDisk:
    return make_sample_disk(tmp_path / "disk", files_per_crawl=3, file_size_bytes=60_000)


def test_the_same_seed_makes_the_same_disk(tmp_path: Path) -> None:
    first, second, other = (
        make_sample_disk(tmp_path / name, seed=seed, files_per_crawl=2, file_size_bytes=30_000)
        for name, seed in (("first", 1), ("second", 1), ("other", 2))
    )
    assert [(each.name, each.md5) for each in first.files] == [(each.name, each.md5) for each in second.files]
    assert not {each.md5 for each in first.files} & {each.md5 for each in other.files}


def test_two_crawls_and_three_odd_files(disk: SampleDisk) -> None:
    assert {fate: len(disk.of(fate)) for fate in Fate} == {
        Fate.DRAINED: 6,
        Fate.OPEN: 1,
        Fate.CUT: 1,
        Fate.UNMATCHED: 1,
    }
    assert {each.path for each in disk.files} | {disk.job_dir / "DRAINME", disk.job_dir / "FINISH_DRAIN"} == set(
        disk.job_dir.iterdir()
    )
    assert all(each.md5 == md5_of(each.path) for each in disk.files)
    assert all(HERITRIX.fullmatch(each.name) for each in disk.of(Fate.DRAINED) + disk.of(Fate.CUT))
    assert not any(HERITRIX.fullmatch(each.name) for each in disk.of(Fate.OPEN) + disk.of(Fate.UNMATCHED))


def test_warcio_finds_every_digest_right(disk: SampleDisk) -> None:
    for each in disk.of(Fate.DRAINED):
        kinds = []
        with each.path.open("rb") as file:
            for record in ArchiveIterator(file, check_digests=True):
                record.content_stream().read()
                assert record.digest_checker.passed, record.digest_checker.problems
                assert record.rec_headers["WARC-Block-Digest"].startswith("sha1:")
                kinds.append(record.rec_type)
        assert kinds[:4] == ["warcinfo", "response", "request", "metadata"]
        assert len(kinds) % 3 == 1


def test_fastwarc_finds_every_digest_right(disk: SampleDisk) -> None:
    for each in disk.of(Fate.DRAINED):
        with each.path.open("rb") as file:
            for record in FastIterator(file, parse_http=False):
                assert record.verify_block_digest(consume=False)


def test_only_the_cut_file_is_cut(disk: SampleDisk) -> None:
    for each in disk.files:
        if each.fate is Fate.CUT:
            with pytest.raises(EOFError):
                gzip.decompress(each.path.read_bytes())
        else:
            assert gzip.decompress(each.path.read_bytes()).startswith(b"WARC/1.0\r\n")


def test_only_a_sample_disk_is_removed(disk: SampleDisk, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match="not a sample disk"):
        remove_sample_disk(tmp_path / "photos")
    remove_sample_disk(disk.root)
    remove_sample_disk(disk.root)
    assert [each.name for each in tmp_path.iterdir()] == ["photos"]
