"""Readers: every whole record is delivered, and every damage has its exact place."""

from __future__ import annotations

import gzip
import os
import resource
import time
from pathlib import Path

import pytest

from bitarchive_samples import (
    PAGES,
    SHARED,
    Sample,
    arc_record,
    arc_records,
    http,
    sample,
    version_block,
    warc_record,
    warc_records,
    write_sample,
)
from custody.bitarchive.records import Damage, Damaged, Record, read_records, whole_records
from custody.faults import Fault, FaultKind

KINDS = ["a.warc", "a.warc.gz", "a.arc", "a.arc.gz"]
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared sample files are not here")


def read(path: Path) -> tuple[list[tuple[int, str, bytes]], list[Damage]]:
    """What a careful reader keeps: records that were not taken back, and damages."""
    kept: list[tuple[int, str, bytes]] = []
    damages: list[Damage] = []
    for item in read_records(path):
        if isinstance(item, Damage):
            if item.length_bytes:
                damages.append(item)
            if kept and kept[-1][0] == item.offset_bytes:
                kept.pop()
            continue
        try:
            kept.append((item.offset_bytes, item.url, item.content.read()))
        except Damaged:
            kept.append((item.offset_bytes, item.url, b"broken"))
    return kept, damages


@pytest.mark.parametrize("name", KINDS)
def test_every_record_of_a_whole_file_is_read(tmp_path: Path, name: str) -> None:
    made = sample(tmp_path / name)
    kept, damages = read(made.path)
    assert not damages
    assert [offset for offset, _, _ in kept] == [offset for offset, _ in made.extents]
    assert [(url, content) for _, url, content in kept[1:]] == [(url, http(mime, body)) for url, mime, body in PAGES]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("broken", [0, 2, 4])
def test_a_broken_record_costs_itself_alone_and_is_located(tmp_path: Path, name: str, broken: int) -> None:
    made = sample(tmp_path / name)
    offset, length = made.extents[broken]
    content = bytearray(made.path.read_bytes())
    if name.endswith(".gz"):
        content[offset + length // 2] ^= 0x55
    else:
        content[offset : offset + 40] = b"\0" * 40
    made.path.write_bytes(content)
    if not name.endswith(".gz") and broken == 0:
        with pytest.raises(Fault, match=r"is no (W?)ARC file"):
            read(made.path)
        return
    kept, damages = read(made.path)
    assert [offset for offset, _, _ in kept] == [extent[0] for n, extent in enumerate(made.extents) if n != broken]
    assert [(damage.offset_bytes, damage.length_bytes) for damage in damages] == [(offset, length)]
    assert whole_records(made.path) == len(made.extents) - 1


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("cut", [1, 9, 60])
def test_a_cut_file_is_told_from_a_whole_one(tmp_path: Path, name: str, cut: int) -> None:
    made = sample(tmp_path / name)
    os.truncate(made.path, made.path.stat().st_size - cut)
    if not name.endswith(".gz") and cut <= (4 if ".warc" in name else 1):
        return  # only the separator is gone: the record is whole
    kept, damages = read(made.path)
    offset, length = made.extents[-1]
    assert len(kept) == len(made.extents) - 1
    assert [(damage.offset_bytes, damage.length_bytes) for damage in damages] == [(offset, length - cut)]


@pytest.mark.parametrize("name", KINDS)
def test_every_possible_cut_loses_no_record_before_it(tmp_path: Path, name: str) -> None:
    made = sample(tmp_path / name)
    size = made.path.stat().st_size
    for end in range(size - 1, 1, -61):
        os.truncate(made.path, end)
        whole = sum(offset + length <= end for offset, length in made.extents)
        try:
            kept, damages = read(made.path)
        except Fault:
            assert whole == 0
            continue
        slack = 0 if name.endswith(".gz") else 1  # a separator cut off takes no record
        assert whole <= len(kept) <= whole + slack
        assert damages or end in {offset for offset, _ in made.extents} or slack


def test_a_wrong_length_is_damage_and_the_next_record_is_found(tmp_path: Path) -> None:
    records = warc_records()
    for wrong in (10, 10_000):
        changed = [*records]
        good = f"Content-Length: {len(http(*PAGES[1][1:]))}".encode()
        assert good in changed[2]
        changed[2] = changed[2].replace(good, f"Content-Length: {wrong}".encode(), 1)
        for name in ("l.warc", "l.warc.gz"):
            made = write_sample(tmp_path / name, changed)
            kept, damages = read(made.path)
            assert [offset for offset, _, _ in kept] == [e[0] for n, e in enumerate(made.extents) if n != 2], (
                name,
                wrong,
            )
            assert [damage.offset_bytes for damage in damages] == [made.extents[2][0]]


def test_lines_of_a_body_that_look_like_records_are_body(tmp_path: Path) -> None:
    inner = arc_record("http://inner.example/", b"x" * 10) * 20
    made = write_sample(
        tmp_path / "m.arc", [version_block("m.arc"), arc_record("metadata://x/cdx", inner, mime="application/x-cdx")]
    )
    kept, damages = read(made.path)
    assert [content for _, _, content in kept[1:]] == [inner]
    assert not damages


def test_a_separator_may_be_missing_and_a_url_may_hold_blanks(tmp_path: Path) -> None:
    records = [version_block("s.arc"), arc_record("http://a.example/with blank.html", b"abc", separator=b"")]
    made = write_sample(
        tmp_path / "s.arc", [*records, arc_record("http://b.example/", b"def", mime="text/html; charset=utf 8")]
    )
    kept, damages = read(made.path)
    assert [(url, content) for _, url, content in kept[1:]] == [
        ("http://a.example/with blank.html", b"abc"),
        ("http://b.example/", b"def"),
    ]
    assert not damages


def test_an_arc_with_an_xml_version_block_and_version_2_lines(tmp_path: Path) -> None:
    fields = b"URL IP-address Archive-date Content-type Result-code Checksum Location Offset Filename Archive-length"
    text = b"2 0 IA\n" + fields + b"\n<arcmetadata>\n\n</arcmetadata>\n"
    block = (
        f"filedesc://v2.arc 0.0.0.0 20260101100000 text/plain 200 - - 0 v2.arc {len(text)}\n".encode() + text + b"\n"
    )
    line = b"http://a.example/ 192.0.2.9 20260102000000 text/html 200 abc - 300 v2.arc 5\nhello\n"
    kept, damages = read(write_sample(tmp_path / "v2.arc", [block, line]).path)
    assert [(url, content) for _, url, content in kept] == [
        ("filedesc://v2.arc", text),
        ("http://a.example/", b"hello"),
    ]
    assert not damages


@pytest.mark.parametrize("name", ["t.arc", "t.warc", "t.arc.gz", "t.warc.gz"])
@pytest.mark.parametrize("content", [b"", b"just some text\nof two lines\n", b"\0" * 5000])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Fault) as caught:
        read(path)
    assert caught.value.kind is FaultKind.DATA
    assert str(path) in str(caught.value)


def test_records_of_one_big_gzip_member_are_read(tmp_path: Path) -> None:
    for name, records in (("one.warc.gz", warc_records()), ("one.arc.gz", arc_records("one.arc"))):
        path = tmp_path / name
        path.write_bytes(gzip.compress(b"".join(records), mtime=0))
        kept, damages = read(path)
        assert (len(kept), damages) == (5, [])


def test_a_warc_that_fastwarc_refuses_is_read_by_our_own(tmp_path: Path) -> None:
    sloppy = (
        warc_record("http://a.example/", b"body")
        .replace(b"\r\n", b"\n", 8)
        .replace(b"Content-Length:", b"content-length:\n ")
    )
    made = write_sample(tmp_path / "s.warc", [*warc_records()[:2], sloppy, *warc_records()[2:]])
    kept, damages = read(made.path)
    assert [offset for offset, _, _ in kept] == [offset for offset, _ in made.extents]
    assert not damages


def test_memory_is_flat_and_bodies_need_not_be_read(tmp_path: Path) -> None:
    big = warc_record("http://a.example/big", bytes(64 << 20), kind="resource", mime="x/y")
    small = warc_record("http://a.example/small", b"s", kind="resource", mime="x/y")
    made = write_sample(tmp_path / "big.warc.gz", [big, small])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    del big
    urls = []
    for item in read_records(made.path):
        assert isinstance(item, Record)
        urls.append(item.url)
    assert urls == ["http://a.example/big", "http://a.example/small"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000


def test_garbage_without_end_is_searched_once(tmp_path: Path) -> None:
    made = sample(tmp_path / "g.warc.gz")
    with made.path.open("ab") as out:
        out.write(b"\x1f\x8b\x08" * 300_000)
    start = time.process_time()
    kept, damages = read(made.path)
    assert len(kept) == len(made.extents)
    assert len(damages) == 1
    assert time.process_time() - start < 15


@shared
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("netarchivesuite/12345-metadata-4.arc", 19),
        ("netarchivesuite/fyensdk.arc", 190),
        ("jwat-arc/IAH-20080430204825-00000-blackbook.arc.gz", 300),
        ("jwat-warc/IAH-20080430204825-00000-blackbook.warc.gz", 822),
        ("jwat-warc/valid-warcfile-fields-continuation.warc", 1),
        ("jwat-warc/valid-warcfile-utf8.warc", 1),
        ("jwat-warc/valid-warcfile-upper-lower-case.warc", 5),
        ("pywb/warcs/iana.warc.gz", 343),
    ],
)
def test_files_of_others_have_the_known_number_of_records(name: str, count: int) -> None:
    kept, damages = read(SHARED / name)
    assert (len(kept), damages) == (count, [])


@shared
@pytest.mark.parametrize("change", ["flip", "cut", "crc"])
def test_the_known_damaged_file_gives_821_records_and_one_place(tmp_path: Path, change: str) -> None:
    content = bytearray((SHARED / "jwat-warc/IAH-20080430204825-00000-blackbook.warc.gz").read_bytes())
    offset, length = 969881, 2568
    if change == "cut":
        offset, length = 2495755, len(content) - 2495755 - 5
        del content[-5:]
    else:
        content[offset + (length - 6 if change == "crc" else length // 2)] ^= 1
    path = tmp_path / "d.warc.gz"
    path.write_bytes(content)
    kept, damages = read(path)
    assert len(kept) == 821
    assert [(damage.offset_bytes, damage.length_bytes) for damage in damages] == [(offset, length)]


def test_samples_are_what_they_say(tmp_path: Path) -> None:
    made: Sample = sample(tmp_path / "x.warc.gz")
    assert len(made.extents) == len(PAGES) + 1
