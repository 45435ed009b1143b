"""Files, records and metadata out of the archive, and every way it can be asked for wrongly."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bitarchive_samples import PAGES, arc_records, http, sample, warc_records, write_sample
from bitarchive_site import FILES, Site
from custody.bitarchive import catalogue, get
from custody.faults import Fault, FaultKind


def test_a_file_comes_out_whole_and_compared(site: Site, tmp_path: Path) -> None:
    target = get.get_file(site.archive, FILES[1], tmp_path)
    assert target == tmp_path / FILES[1]
    assert target.read_bytes() == site.path(FILES[1]).read_bytes()
    with pytest.raises(Fault, match="is there already"):
        get.get_file(site.archive, FILES[1], tmp_path)
    with get.open_file(site.archive, FILES[1], start=7) as (stream, size):
        assert (stream.read(), size) == (target.read_bytes()[7:], target.stat().st_size)


def test_a_changed_file_is_not_handed_out(site: Site, tmp_path: Path) -> None:
    site.path(FILES[0]).write_bytes(b"x" * site.path(FILES[0]).stat().st_size)
    with pytest.raises(Fault) as caught:
        get.get_file(site.archive, FILES[0], tmp_path / "out.warc.gz")
    assert caught.value.kind is FaultKind.DATA
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    "name", ["none.warc", "../one/filedir/a-1.warc.gz", "/etc/passwd", "..", "", "a-1.warc.gz/..", "a\0.warc"]
)
def test_what_is_not_there_is_said_at_once(site: Site, tmp_path: Path, name: str) -> None:
    start = time.monotonic()
    with pytest.raises(Fault) as caught:
        get.get_file(site.archive, name, tmp_path / "out")
    assert time.monotonic() - start < 10
    assert caught.value.kind is FaultKind.CONFIG
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_record_comes_out_with_every_byte(site: Site, name: str) -> None:
    made = sample(site.root / "again" / name)
    for (offset, _), (url, mime, body) in zip(made.extents[1:], PAGES, strict=True):
        with get.open_record(site.archive, name, offset) as record:
            assert (record.url, record.content.read()) == (url, http(mime, body))


@pytest.mark.parametrize("name", FILES)
def test_four_ways_to_ask_wrongly_are_told_apart(site: Site, name: str) -> None:
    extents = sample(site.root / "again" / name).extents
    size = site.path(name).stat().st_size

    def asked(offset: int, file: str = name) -> Fault:
        with pytest.raises(Fault) as caught, get.open_record(site.archive, file, offset) as record:
            record.content.read()
        return caught.value

    assert "no such file" in asked(0, "none.warc").reason
    for offset in (size, size + 1, 10**15, -1):
        assert f"is past the end: the file has {size} bytes" in asked(offset).reason
    for offset in (1, extents[2][0] - 1, extents[2][0] + 1, size - 1):
        assert "no record begins there" in asked(offset).reason
    near = f"the nearest that do: {extents[1][0]}, {extents[2][0]}"
    assert near in asked(extents[1][0] + 1).reason
    content = bytearray(site.path(name).read_bytes())
    offset, length = extents[-1]
    site.path(name).write_bytes(content[: offset + length - 30])
    fault = asked(offset)
    assert (fault.kind, "the record is corrupt" in fault.reason) == (FaultKind.DATA, True)
    if name.endswith(".gz"):
        content[offset + length // 2] ^= 0xFF
        site.path(name).write_bytes(content)
        assert "the record is corrupt" in asked(offset).reason


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("12-metadata-1.arc", 12),
        ("12-7-metadata-1.warc.gz", 12),
        ("dk-12-7-metadata-3.warc", 12),
        ("12-1-metadata-1.warc", 12),
        ("112-metadata-1.arc", 112),
        ("12-metadata-x.arc", None),
        ("12-1-20260101-00000-host.warc.gz", None),
        ("metadata-1.arc", None),
    ],
)
def test_the_job_of_a_metadata_file(name: str, job: int | None) -> None:
    assert get.job_of(name) == job


def test_metadata_of_exactly_one_job(site: Site) -> None:
    for name in ("1-metadata-1.arc", "1-metadata-2.arc", "11-metadata-1.arc", "21-1-metadata-1.warc"):
        records = arc_records(name) if name.endswith("arc") and not name.endswith("warc") else warc_records()
        write_sample(site.root / "two" / "filedir" / name, records)
    catalogue.adopt(site.archive, site.archive.config.replica("ONE"), who="test")
    assert get.metadata_files(site.archive, 1) == ["1-metadata-1.arc", "1-metadata-2.arc"]
    expected = b"".join((site.root / "two" / "filedir" / f"1-metadata-{number}.arc").read_bytes() for number in (1, 2))
    assert b"".join(get.get_metadata(site.archive, 1)) == expected
    with pytest.raises(Fault, match="No metadata found for job 2 "):
        get.metadata_files(site.archive, 2)


def test_a_big_record_is_streamed(site: Site) -> None:
    big = os.urandom(1 << 20) * 8
    from bitarchive_samples import warc_record

    records = [*warc_records(), warc_record("http://big.example/", http("x/y", big))]
    made = write_sample(site.root / "one" / "filedir" / "big.warc.gz", records)
    catalogue.adopt(site.archive, site.archive.config.replica("ONE"), who="test")
    with get.open_record(site.archive, "big.warc.gz", made.extents[-1][0]) as record:
        assert record.content.read(20).startswith(b"HTTP/1.1 200 OK")
        size = 20
        while block := record.content.read(1 << 16):
            assert len(block) <= 1 << 16
            size += len(block)
    assert size == len(http("x/y", big))
