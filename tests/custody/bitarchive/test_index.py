"""Indexes: pywb's own bytes, merges that equal sort's, and caches that never show a half-made thing."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pytest

from bitarchive_samples import PAGES, SHARED, sample, warc_records, write_sample
from bitarchive_site import Site
from custody.bitarchive import catalogue
from custody.bitarchive.index import merge as merging
from custody.bitarchive.index.build import Indexes, content_job_of
from custody.bitarchive.index.cache import MANIFEST, Cache
from custody.bitarchive.index.cdxj import index_file
from custody.bitarchive.index.lookup import Lookup
from custody.bitarchive.index.names import Kind, job_name, set_name
from custody.bitarchive.index.surt import surt
from custody.faults import Fault, FaultKind

shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared sample files are not here")


@shared
@pytest.mark.parametrize("name", ["iana", "dupes", "example2"])
def test_cdxj_is_that_of_pywb_byte_for_byte(name: str) -> None:
    index = index_file(SHARED / f"pywb/warcs/{name}.warc.gz")
    assert b"".join(line + b"\n" for line in index.lines) == (SHARED / f"pywb/cdxj/{name}.cdxj").read_bytes()
    assert not index.damages


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.arc", "a.arc.gz"])
def test_offsets_and_lengths_lead_to_whole_records(tmp_path: Path, name: str) -> None:
    made = sample(tmp_path / name)
    found = [json.loads(line.split(b" ", 2)[2]) for line in index_file(made.path).lines]
    assert sorted(line["url"] for line in found) == sorted(url for url, _, _ in PAGES)
    separator = 0 if name.endswith(".gz") else (4 if "warc" in name else 1)
    extents = {str(offset): str(length - separator) for offset, length in made.extents}
    assert all(extents[line["offset"]] == line["length"] for line in found)


def test_a_damaged_file_is_indexed_but_for_its_damage(tmp_path: Path) -> None:
    made = sample(tmp_path / "a.warc.gz")
    content = bytearray(made.path.read_bytes())
    offset, length = made.extents[2]
    content[offset + length // 2] ^= 0xFF
    made.path.write_bytes(content)
    index = index_file(made.path)
    assert len(index.lines) == 3
    assert [(damage.offset_bytes, damage.length_bytes) for damage in index.damages] == [(offset, length)]


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://www.Example.com:80/A/../b//c/?Q=1&b=2&a", "com,example)/b/c?a&b=2&q=1"),
        ("http://x.com", "com,x)/"),
        ("https://www2.x.co.uk:443/A/", "uk,co,x)/a"),
        ("http://user:p@www2.x.com:8080/a%2fb%41?x=%7e#f", "com,x:8080)/a/ba?x=~"),
        ("https://1.2.3.4/", "4,3,2,1)/"),
        ("http://3232235777/", "1,1,168,192)/"),
        ("http://bücher.example/ü?ü=1", "example,xn--bcher-kva)/%c3%bc?%c3%bc=1"),
        ("http://x.com/?jsessionid=0123456789abcdef0123456789abcdef&y=2", "com,x)/?y=2"),
        ("http://x.com/(s(abcdefghijklmnopqrstuvwx))/a.aspx", "com,x)/a.aspx"),
        ("dns:www.x.com", "dns:www.x.com"),
        ("urn:uuid:AB-c", "urn:uuid:ab-c"),
        ("metadata://netarkivet.dk/crawl/x", "dk,netarkivet)/crawl/x"),
        ("x.com/y", "com,x)/y"),
        ("http:////x.com/y", "com,x)/y"),
        ("http://x.com/a b", "com,x)/a%20b"),
        ("http://x.com/%", "com,x)/%25"),
        ("http://x.com/a%252541", "com,x)/aa"),
        ("", "-"),
    ],
)
def test_keys_of_urls(url: str, key: str) -> None:
    assert surt(url) == key


def sorted_by_the_system(paths: list[Path]) -> bytes:
    return subprocess.run(
        ["sort", *map(str, paths)], env={"LC_ALL": "C", "PATH": os.environ["PATH"]}, capture_output=True, check=True
    ).stdout


@pytest.mark.parametrize("block_bytes", [16, 64, 1 << 20])
def test_a_merge_equals_sort(tmp_path: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "BLOCK_BYTES", block_bytes)
    dice = random.Random(block_bytes)
    parts = []
    for number in range(9):
        lines = [bytes(dice.choices(b"ab \t~\xff\x01", k=dice.randint(0, 6))) for _ in range(dice.randint(0, 80))]
        path = tmp_path / str(number)
        path.write_bytes(b"".join(line + b"\n" for line in sorted(lines)))
        parts.append(path)
    out = BytesIO()
    merging.merge(parts, out)
    assert out.getvalue() == sorted_by_the_system(parts)


def test_a_part_without_a_last_line_end_is_merged_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a\nc")
    (tmp_path / "b").write_bytes(b"b\n")
    out = BytesIO()
    assert merging.merge([tmp_path / "a", tmp_path / "b"], out) == 3
    assert out.getvalue() == b"a\nb\nc\n"


@pytest.mark.parametrize("block_bytes", [16, 1 << 10, 1 << 20])
def test_a_part_that_is_not_sorted_is_mended_or_refused(
    tmp_path: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "BLOCK_BYTES", block_bytes)
    dice = random.Random(block_bytes)
    refused = 0
    for _ in range(30):
        paths = [tmp_path / "a", tmp_path / "b"]
        for path in paths:
            path.write_bytes(b"".join(b"%04d\n" % dice.randrange(10_000) for _ in range(600)))
        out = BytesIO()
        try:
            merging.merge(paths, out)
        except Fault as fault:
            assert "is not sorted" in fault.reason
            refused += 1
        else:
            assert out.getvalue() == sorted_by_the_system(paths)
    assert refused == 30


@pytest.mark.parametrize(
    ("ids", "name"),
    [
        ([], "empty-cache"),
        ([1], "1-cache"),
        ([2, 1], "1-2-cache"),
        (range(1, 9), "1-2-3-4-d28f2f51ffe4b6d42b3e46a7cd7a72da-cache"),
        (range(1, 10), "1-2-3-4-ef8be5d11d2348e3cf689ae6bf0dd6ef-cache"),
        (range(1, 6), "1-2-3-4-601bcbd12379a3a03bcbad773954109d-cache"),
        ([100, 3, 45, 7, 12], "3-7-12-45-d07dad5d596f810081b977427bb3583f-cache"),
        ([10, 9, 8, 7, 6, 5], "5-6-7-8-fb502280d5969d4d22788d3fe9da6d21-cache"),
    ],
)
def test_names_of_sets_are_those_of_the_old_system(ids: list[int], name: str) -> None:
    assert set_name(ids) == name
    assert job_name(Kind.CRAWL_LOG, 7) == "crawllog-7-cache"
    assert Kind.FULL == "fullcrawllogindex"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def writes(content: bytes, inputs: Mapping[str, str] | None = None):  # type: ignore[no-untyped-def]
    def fill(out: BinaryIO) -> Mapping[str, str]:
        out.write(content)
        return inputs or {}

    return fill


def fails(out: BinaryIO) -> Mapping[str, str]:
    out.write(b"half")
    raise Fault(FaultKind.DATA, "x", "no data")


def test_an_item_is_made_once_and_again_when_its_inputs_change(cache: Cache) -> None:
    first = cache.get(Kind.CDXJ, [1], writes(b"one", {"a": "1"}), inputs={"a": "1"})
    assert cache.get(Kind.CDXJ, [1], fails, inputs={"a": "1"}).sha256 == first.sha256
    second = cache.get(Kind.CDXJ, [1], writes(b"two", {"a": "2"}), inputs={"a": "2"})
    assert second.path.read_bytes() == b"two"


def test_a_filling_that_fails_leaves_no_hit(cache: Cache) -> None:
    with pytest.raises(Fault):
        cache.get(Kind.CDXJ, [1], fails)
    assert cache.look_up(Kind.CDXJ, [1]) is None
    assert [path.name for path in (cache.root / "cdxj").iterdir()] == ["cdxj-1-cache.working"]


def _make(root: Path, counter: Path, kind: Kind) -> None:
    def fill(out: BinaryIO) -> Mapping[str, str]:
        with counter.open("ab") as marks:
            marks.write(b".")
        time.sleep(0.3)
        out.write(b"made")
        return {}

    Cache(root).get(kind, [1, 2], fill)


def test_several_processes_make_an_item_once(cache: Cache, tmp_path: Path) -> None:
    counter = tmp_path / "count"
    spawned = multiprocessing.get_context("fork")
    processes = [spawned.Process(target=_make, args=(cache.root, counter, Kind.FULL)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert counter.read_bytes() == b"."
    item = cache.look_up(Kind.FULL, [1, 2])
    assert item and item.path.read_bytes() == b"made"


def test_a_maker_that_is_killed_leaves_no_hit_and_no_lock(cache: Cache, tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_make, args=(cache.root, tmp_path / "c", Kind.FULL))
    process.start()
    deadline = time.monotonic() + 10
    while not (tmp_path / "c").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert cache.look_up(Kind.FULL, [1, 2]) is None
    assert cache.get(Kind.FULL, [1, 2], writes(b"whole")).path.read_bytes() == b"whole"


@pytest.mark.parametrize("change", ["cut", "other manifest", "no manifest"])
def test_what_is_not_whole_is_no_hit(cache: Cache, change: str) -> None:
    item = cache.get(Kind.CDXJ, [1], writes(b"whole"))
    manifest = item.path.with_name(item.path.name + MANIFEST)
    if change == "cut":
        item.path.write_bytes(b"whol")
    elif change == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text("{")
    assert cache.look_up(Kind.CDXJ, [1]) is None
    assert cache.get(Kind.CDXJ, [1], writes(b"again")).path.read_bytes() == b"again"


def test_verify_finds_changed_bytes(cache: Cache) -> None:
    item = cache.get(Kind.CDXJ, [1], writes(b"whole"))
    item.path.write_bytes(b"WHOLE")
    ((bad, reason),) = cache.verify()
    assert bad.path == item.path and "the manifest says" in reason
    assert cache.look_up(Kind.CDXJ, [1]) is None
    assert [path.name for path in cache.strangers()] == [item.path.name]


def test_what_was_not_used_for_longest_goes_first_and_pinned_items_stay(cache: Cache) -> None:
    for number in (1, 2, 3, 4):
        item = cache.get(Kind.CDXJ, [number], writes(bytes(1000)))
        os.utime(item.path.with_name(item.path.name + MANIFEST), (number, number))
    cache.pin(cache.find("cdxj/cdxj-1-cache"), pinned=True)
    os.utime(cache.root / "cdxj" / ("cdxj-1-cache" + MANIFEST), (1, 1))
    gone = cache.collect(max_bytes=2500)
    assert [item.job_ids for item in gone] == [(2,), (3,)]
    assert [item.job_ids for item in cache.collect(max_age_s=100)] == [(4,)]
    assert [item.job_ids for item in cache.items()] == [(1,)]


def test_jobs_are_told_by_their_whole_number(jobs: Indexes) -> None:
    found = jobs.jobs()
    assert {job: (len(files.metadata), len(files.content)) for job, files in found.items() if job in {31, 32, 311}} == {
        31: (1, 1),
        32: (0, 2),
        311: (0, 1),
    }
    assert content_job_of("31-metadata-1.arc") is None
    assert content_job_of("news-12-5-2026.warc.gz") == 12


def test_the_index_of_a_set_is_the_merge_of_its_jobs(jobs: Indexes) -> None:
    one, two = (jobs.get(Kind.CDXJ, [job]).item.path for job in (31, 32))
    both = jobs.get(Kind.FULL, [32, 31])
    assert both.item.path.name == "31-32-cache"
    assert both.item.path.read_bytes() == sorted_by_the_system([one, two])
    assert len(both.item.path.read_bytes().splitlines()) == 9
    again = jobs.get(Kind.FULL, [31, 32])
    assert again.item.sha256 == both.item.sha256


def test_one_pass_over_metadata_fills_both_caches(jobs: Indexes) -> None:
    log = jobs.get(Kind.CRAWL_LOG, [31]).item
    assert [line.split()[3] for line in log.path.read_bytes().splitlines()] == [
        b"http://a.example/",
        b"http://b.example/",
    ]
    cdx = jobs.cache.look_up(Kind.CDX_DATA, [31])
    assert cdx and cdx.path.read_bytes() == b"a line\nb line\n"
    assert jobs.get(Kind.CDX, [31]).item.path.read_bytes() == b"a line\nb line\n"


def test_a_log_that_inflates_to_more_than_any_real_one_is_refused(
    jobs: Indexes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("custody.bitarchive.index.raw.MAX_RAW_BYTES", 50)
    with pytest.raises(Fault, match="holds a record of more than 50 bytes"):
        jobs.get(Kind.CRAWL_LOG, [31])


def test_a_part_of_a_set_never_goes_by_the_name_of_the_set(jobs: Indexes) -> None:
    with pytest.raises(Fault, match="job 99: has no content files"):
        jobs.get(Kind.FULL, [31, 32, 99])
    found = jobs.get(Kind.FULL, [31, 32, 99], allow_partial=True)
    assert (found.item.path.name, found.item.job_ids, found.missing) == ("31-32-cache", (31, 32), (99,))
    assert jobs.cache.look_up(Kind.FULL, [31, 32, 99]) is None
    with pytest.raises(Fault):
        jobs.get(Kind.FULL, [98, 99], allow_partial=True)


def test_a_new_file_of_a_job_makes_its_indexes_again(jobs: Indexes, site: Site) -> None:
    before = jobs.get(Kind.FULL, [31, 32]).item.sha256
    write_sample(site.root / "one" / "filedir" / "31-7-20260101-00009.warc.gz", warc_records(PAGES[:2]))
    catalogue.adopt(site.archive, site.archive.config.replica("ONE"), who="test")
    after = jobs.get(Kind.FULL, [31, 32]).item
    assert after.sha256 != before
    assert len(after.path.read_bytes().splitlines()) == 11


def test_the_dedup_index_has_digest_url_and_origin_but_no_text(jobs: Indexes) -> None:
    lines = jobs.get(Kind.DEDUP, [31]).item.path.read_text().splitlines()
    ((digest, url, origin, timestamp),) = (line.split() for line in lines)
    assert (len(digest), url, timestamp) == (32, PAGES[1][0], "20260103100000")
    assert origin.startswith("31-7-20260101-00000.warc.gz,")


def test_a_damaged_file_makes_no_index_that_looks_whole(jobs: Indexes, site: Site) -> None:
    path = site.root / "one" / "filedir" / "32-7-20260101-00001.warc.gz"
    content = bytearray(path.read_bytes())
    content[-40] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(Fault, match="is damaged at offset"):
        jobs.get(Kind.FULL, [31, 32])


def test_a_url_is_looked_up_by_its_key(jobs: Indexes, tmp_path: Path) -> None:
    path = jobs.get(Kind.FULL, [31, 32]).item.path
    with Lookup(path) as lookup:
        hits = lookup.find("HTTP://museum.example")
        assert [hit.filename for hit in hits] == [
            f"{job}-7-20260101-0000{n}.warc.gz" for job, n in ((31, 0), (32, 0), (32, 1))
        ]
        assert lookup.find("http://archive.example/INDEX.html?a=1&b=2")
        assert lookup.find("http://nowhere.example/") == []
        assert lookup.find("http://museum.example/l") == []
        for url, _, _ in PAGES:
            assert lookup.find(url)
    (tmp_path / "empty").write_bytes(b"")
    with Lookup(tmp_path / "empty") as lookup:
        assert lookup.find("http://a.example/") == []


def test_every_line_of_a_big_index_is_found(tmp_path: Path) -> None:
    lines = sorted(
        f'com,x)/{number} 2026 {{"url": "u", "filename": "f", "offset": "1", "length": "2"}}' for number in range(3000)
    )
    path = tmp_path / "i.cdxj"
    path.write_text("".join(f"{line}\n" for line in lines))
    with Lookup(path) as lookup:
        assert all(len(lookup.find(f"http://x.com/{number}")) == 1 for number in range(3000))
        assert lookup.find("http://x.com/3000") == lookup.find("http://x.com/") == []
