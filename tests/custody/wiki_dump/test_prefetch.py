"""Text of earlier dumps: taken where it is the same, and never where it is not."""

from __future__ import annotations

import bz2
from pathlib import Path

import pytest

from custody.wiki_dump import runs
from custody.wiki_dump.engine.sha1 import sha1_base36
from custody.wiki_dump.prefetch import is_the_same
from custody.wiki_dump.runs import Options
from custody.wiki_dump.status import RunState
from custody.wiki_dump.whole import dump
from wiki_farm import FarmSite

OLD, NEW = "20260701", "20260801"


@pytest.fixture
def two(farm: FarmSite) -> FarmSite:
    farm.add_wiki("aawiki")
    farm.lists(["aawiki"])
    run_one(farm, OLD)
    return farm


def run_one(farm: FarmSite, date: str, **options: object) -> dict[str, dict[str, int]]:
    run, state = dump(
        farm.ledger, farm.name, farm.config, who="test", wiki="aawiki", date=date, options=Options(**options)
    )
    assert state is RunState.DONE
    with farm.ledger.read() as connection:
        return {file.name: dict(file.counts) for file in runs.files_of(connection, run.id)}


def history(farm: FarmSite, date: str) -> Path:
    return farm.public("aawiki", date) / f"aawiki-{date}-pages-meta-history.xml.bz2"


def read(path: Path) -> bytes:
    return bz2.decompress(path.read_bytes())


def test_text_comes_from_the_dump_before_and_the_document_is_the_same(two: FarmSite) -> None:
    two.database("aawiki").execute("UPDATE text SET old_text = old_text || '!' WHERE old_id = 5")
    two.database("aawiki").execute("DELETE FROM text WHERE old_id = 7")  # the old dump still has it
    counts = run_one(two, NEW)[history(two, NEW).name]
    assert counts["prefetched"] == counts["revisions"] and counts["lost"] == 0
    assert read(history(two, NEW)) == read(history(two, OLD))


def test_what_is_not_the_same_is_not_taken(two: FarmSite) -> None:
    """A dump with a false text, one that is cut, and a revision whose text was changed in the wiki."""
    text = read(history(two, OLD))
    forged = text.replace(b"more.", b"MORE.", 1)
    assert forged != text
    history(two, OLD).write_bytes(bz2.compress(forged))
    counts = run_one(two, NEW)[history(two, NEW).name]
    assert counts["prefetched"] == counts["revisions"] - 1
    assert read(history(two, NEW)) == text
    history(two, NEW).write_bytes(bz2.compress(text)[:-300])
    counts = run_one(two, "20260802")[history(two, "20260802").name]
    assert counts["prefetched"] < counts["revisions"]
    assert read(history(two, "20260802")) == text


def test_it_works_over_parts_and_can_be_switched_off_and_reads_7z(two: FarmSite) -> None:
    more = "[chunks]\nchunksEnabled=1\npagesPerChunkHistory=5,5\ncheckpointTime=1\nrevsPerJob=8\n"
    two.configure(more + "[misc]\nsevenzipprefetch=1\n")
    for date in (NEW, "20260802"):
        counts = [found for name, found in run_one(two, date).items() if ".xml-p" in name and name.endswith("bz2")]
        assert sum(each.get("prefetched", 0) for each in counts) == sum(each["revisions"] for each in counts) > 40
    off = [found for name, found in run_one(two, "20260803", prefetch=False).items() if ".xml-p" in name]
    assert sum(each.get("prefetched", 0) for each in off) == 0


def test_size_and_sha1_are_both_needed() -> None:
    raw = b"a < b & c > d"
    escaped = b"a &lt; b &amp; c &gt; d"
    assert is_the_same(escaped, len(raw), sha1_base36(raw))
    assert not is_the_same(escaped, len(raw) + 1, sha1_base36(raw))
    assert not is_the_same(escaped, len(raw), sha1_base36(b"other"))
    assert is_the_same(b"&amp;lt;", 4, sha1_base36(b"&lt;"))
