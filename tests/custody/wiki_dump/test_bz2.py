"""bzip2 from the inside: what the old tools answered, what they missed, and numbers beyond 32 bits."""

from __future__ import annotations

import bz2
import gzip
import mmap
import random
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import wiki_xml
from custody.cli.wiki import wiki as wiki_group
from custody.faults import Fault, FaultKind
from custody.wiki_dump.bz2 import pages, tools
from custody.wiki_dump.bz2.bits import check_structure, mapped, marks, single_stream
from custody.wiki_dump.bz2.blocks import Splicer, decompress_block, list_blocks
from custody.wiki_dump.bz2.verify import Tools, verify

SAMPLE = wiki_xml.SHARED / "sample-pages-articles.xml.bz2"
HEADER = b"<mediawiki>\n  <siteinfo>\n    <sitename>x</sitename>\n  </siteinfo>\n"
LBZIP2 = "/usr/bin/lbzip2"
needs_sample = pytest.mark.skipif(not SAMPLE.exists(), reason="the sample dump is not at hand")


def page(number: int, size: int = 3000, rev: int | None = None) -> bytes:
    noise = random.Random(number).randbytes(size // 2).hex().encode()
    return (
        b"  <page>\n    <title>T%d</title>\n    <ns>0</ns>\n    <id>%d</id>\n    <revision>\n      <id>%d</id>\n"
        b'      <text bytes="%d">%b</text>\n    </revision>\n  </page>\n' % (number, number, rev or number, size, noise)
    )


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dump of some blocks: pages 10, 20, ... 6000."""
    path = tmp_path_factory.mktemp("bz2") / "x-pages.xml.bz2"
    path.write_bytes(bz2.compress(HEADER + b"".join(page(n) for n in range(10, 6010, 10)) + b"</mediawiki>\n", 1))
    return path


def call(*arguments: object) -> tuple[int, bytes]:
    done = CliRunner().invoke(wiki_group, [str(each) for each in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit | Fault), done.exception
    return done.exit_code, done.stdout_bytes


@needs_sample
def test_the_sample_answers_as_the_old_tools_did() -> None:
    assert call("last-id", SAMPLE) == (0, b"page_id:2689\n")
    assert call("last-id", "-t", "rev", SAMPLE) == (0, b"rev_id:21026\n")
    assert call("check-footer", SAMPLE)[0] == 0
    assert call("last-block", SAMPLE)[1].endswith(b"</mediawiki>")
    for page_id, answer in ((1, "3 page_id:1"), (500, "309073 page_id:359"), (99999, "1604604 page_id:2521")):
        assert call("find-page", SAMPLE, page_id) == (0, f"position:{answer}\n".encode())
    lines = call("show-crcs", SAMPLE)[1].splitlines()
    assert lines[0] == b"offset:3 bits:0 crc:0xdecaf38f" and lines[1].endswith(b"0xc55acbf0")
    found = verify(SAMPLE)
    assert (found.content.pages, found.content.first_page, found.content.last_page) == (2040, 1, 2689)
    assert verify(SAMPLE, tools=Tools(LBZIP2)) == found


def test_every_page_is_found_in_the_block_it_begins_in(dump: Path) -> None:
    with mapped(dump) as data:
        blocks = [mark for mark in marks(data) if not mark.is_end]
        assert len(blocks) > 10
        text = bz2.decompress(bytes(data))
        assert b"".join(decompress_block(data, mark, 1) or b"" for mark in blocks) == text
    for wanted in (10, 15, 1990, 3000, 3009, 5999, 6000, 10**12):
        found = pages.find_page(dump, wanted)
        assert found is not None and found.page_id <= wanted
        following = pages.find_page(dump, wanted + 400)
        assert following is not None and following.offset >= found.offset
        there = min(wanted // 10 * 10, 6000)
        assert page(there) in b"".join(tools.up_to_page(dump, there, wanted + 1))
    assert pages.find_page(dump, 9) is None
    assert call("find-page", dump, 9)[0] == 255
    with pytest.raises(Fault, match="from 1 on"):
        pages.find_page(dump, 0)


def test_ids_have_64_bits(tmp_path: Path) -> None:
    path = tmp_path / "x.xml.bz2"
    big = 2**31 + 5
    path.write_bytes(bz2.compress(HEADER + page(big, rev=2**40) + b"</mediawiki>\n"))
    assert (pages.last_id(path, "page"), pages.last_id(path, "rev")) == (big, 2**40)
    assert pages.find_page(path, 2**33) is not None


def test_a_page_of_many_blocks_is_found_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.xml.bz2"
    path.write_bytes(bz2.compress(HEADER + page(3) + page(7, 3_000_000) + b"</mediawiki>\n", 1))
    began = time.monotonic()
    assert pages.last_id(path, "page") == 7
    found = pages.find_page(path, 8)
    assert found is not None and found.page_id in {3, 7}
    assert time.monotonic() - began < 20


def test_cuts_and_bytes_behind_the_end_are_seen_without_decompressing(dump: Path, tmp_path: Path) -> None:
    whole = dump.read_bytes()
    path = tmp_path / "x.xml.bz2"
    cuts = [1, 2, 5, 11, 12, 100, len(whole) // 2, len(whole) - 10, len(whole) - 1, len(whole)]
    cuts += random.Random(1).sample(range(1, len(whole)), 40)
    for cut in cuts:
        path.write_bytes(whole[: len(whole) - cut])
        with pytest.raises(Fault) as caught:
            check_structure(path)
        assert caught.value.kind is FaultKind.DATA
        assert not pages.has_footer(path)
    for behind in (b"\0" * 100, b"x", b"BZh"):
        path.write_bytes(whole + behind)
        with pytest.raises(Fault):
            check_structure(path)
    path.write_bytes(whole + whole)
    assert check_structure(path).streams == 2
    path.write_bytes(bz2.compress(b""))
    assert check_structure(path).blocks == 0


def test_blocks_are_the_same_however_a_file_is_looked_through(
    dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "two.bz2"
    path.write_bytes(dump.read_bytes() + bz2.compress(b"") + dump.read_bytes())
    for each, streams in ((dump, 1), (path, 3)):
        with mapped(each) as data:
            whole = marks(data)
            assert [mark.is_end for mark in whole].count(True) == streams
            assert marks(data, blocks_only=True) == [mark for mark in whole if not mark.is_end]
            ends = [after.bit for mark, after in pairwise(whole) if not mark.is_end]
            assert [block.end for block in list_blocks(data, each)] == ends
            assert (single_stream(data) is None) == (streams > 1)
            with monkeypatch.context() as patch:
                patch.setattr("custody.wiki_dump.bz2.bits._WINDOW_BYTES", mmap.PAGESIZE)
                assert marks(data) == whole and marks(data, 5) == whole[1:]
        assert check_structure(each).blocks == [mark.is_end for mark in whole].count(False)


@pytest.mark.parametrize("program", [None, LBZIP2])
def test_what_the_old_checks_missed_is_found_by_verify(dump: Path, tmp_path: Path, program: str | None) -> None:
    whole = dump.read_bytes()
    path = tmp_path / "x-pages.xml.bz2"
    found = verify(dump, tools=Tools(program))
    assert (found.content.pages, found.content.revisions) == (600, 600)
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 16
    text = bz2.decompress(whole)
    cases = {
        "flip": bytes(flipped),
        "tail": whole[:-1],
        "behind": whole + b"\0" * 100,
        "streams": bz2.compress(HEADER) + bz2.compress(page(1)),
        "nul": bz2.compress(text.replace(b"T10", b"T\0\0")),
        "order": bz2.compress(HEADER + page(2) + page(1) + b"</mediawiki>\n"),
        "twice": bz2.compress(HEADER + page(2) + page(2) + b"</mediawiki>\n"),
        "more": bz2.compress(text + b"more"),
        "nothing": b"",
        "headless": bz2.compress(page(1) + b"</mediawiki>\n"),
        "page": bz2.compress(b"<html>500 Internal Server Error</html>\n"),
    }
    for name, content in cases.items():
        path.write_bytes(content)
        with pytest.raises(Fault) as caught:
            verify(path, tools=Tools(program))
        assert caught.value.kind is FaultKind.DATA, name
    assert call("verify", dump, path)[0] == 1


def test_gzip_and_sql_are_judged_too(tmp_path: Path) -> None:
    path = tmp_path / "x-page.sql.gz"
    good = gzip.compress(b"INSERT;\n") + gzip.compress(b"-- Dump completed on 2026-08-01\n")
    path.write_bytes(good)
    assert verify(path).content.size_bytes == 40
    flipped = bytearray(good)
    flipped[-6] ^= 1
    for bad in (good[:-9], good[:-1], bytes(flipped), gzip.compress(b"INSERT;\n"), gzip.compress(b""), b""):
        path.write_bytes(bad)
        with pytest.raises(Fault):
            verify(path)


@settings(max_examples=25)
@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=6))
def test_blocks_of_several_files_become_one_stream(texts: list[bytes]) -> None:
    splicer = Splicer()
    joined = b""
    for text in texts:
        packed = bz2.compress(text)
        for block in list_blocks(packed, Path("x")):
            joined += b"".join(splicer.add(packed, block))
    joined += splicer.finish()
    decoder = bz2.BZ2Decompressor()
    assert decoder.decompress(joined) == b"".join(texts)
    assert decoder.eof and not decoder.unused_data


def test_pages_are_cut_out_counted_and_recompressed(dump: Path, tmp_path: Path) -> None:
    code, text = call("up-to-page", dump, 500, 530)
    assert code == 0 and text == HEADER + page(500) + page(510) + page(520) + b"</mediawiki>\n"
    assert call("up-to-page", dump, 7000, 8000)[1] == HEADER + b"</mediawiki>\n"
    assert call("revs-per-page", "-b", dump)[1].startswith(b"page:10 revs:1 bytes:3000\n")
    offset = pages.find_page(dump, 3000)
    assert offset is not None
    whole = call("from-offset", dump, offset.offset)[1]
    assert whole.startswith(HEADER) and whole.endswith(b"</mediawiki>\n")
    assert b"<id>%d</id>" % offset.page_id in whole[:400]
    multi, index = tmp_path / "multi.xml.bz2", tmp_path / "index.bz2"
    assert call("recompress", dump, multi, index) == (0, f"{multi}: 600 pages\n".encode())
    assert bz2.decompress(multi.read_bytes()) == bz2.decompress(dump.read_bytes())
    lines = list(_index(index))
    assert [page_id for _, page_id in lines] == list(range(10, 6010, 10)) and len({offset for offset, _ in lines}) == 6
    assert call("check-index", multi, index) == (0, b"6 streams are where the index says\n")


def _index(path: Path) -> Iterator[tuple[int, int]]:
    with bz2.open(path) as lines:
        for line in lines:
            offset, page_id, _ = line.split(b":", 2)
            yield int(offset), int(page_id)
