"""What is said of an item: draintasker's fields, in UTC, with its typing error mended."""

from __future__ import annotations

import re

import pytest

from custody.drain.metadata import describe_item
from custody.faults import Fault, FaultKind
from drain_site import Site, warc_name


def test_the_fields_of_an_item(disk: Site) -> None:
    disk.values |= {
        "collections": "web/wide/wide42",
        "title_prefix": "Webwide Crawldata",
        "description": "CRAWLHOST:CRAWLJOB from START_DATE to END_DATE",
        "operator": "me@example.org",
        "metadata": {"subject": ["a", "b"], "creator": None, "two words": "x", "year": 2026},
    }
    disk.write(name=warc_name(7, stamp="20101212000001123"))
    disk.write(name=warc_name(9, stamp="20101213010203456"))
    series = disk.do(disk.one_series(), "pack", "manifest")
    item = describe_item(series)
    assert item.identifier == series.item
    assert item.size_hint_bytes == series.size_bytes
    fields = dict(item.metadata)
    assert re.fullmatch(r"\d{14}", str(fields.pop("lastdate")))
    expected = {
        "mediatype": "web",
        "subject": ["a", "b"],
        "collection": ["wide42", "wide", "web"],
        "title": "Webwide Crawldata 2010-12-12T00:00:01UTC to 2010-12-13T01:02:03UTC",
        "description": "crawler07.example.org:wide from Sun Dec 12 00:00:01 UTC 2010 to Mon Dec 13 01:02:03 UTC 2010",
        "sponsor": "Internet Archive",
        "contributor": "Internet Archive",
        "operator": "me@example.org",
        "scanningcenter": "sanfrancisco",
        "crawljob": "wide",
        "scandate": "20101212000001",
        "date": "2010",
        "numwarcs": "2",
        "sizehint": str(series.size_bytes),
        "firstfiledate": "20101212000001123",
        "lastfiledate": "20101213010203456",
        "firstfileserial": "00007",
        "lastfileserial": "00009",
        "crawler": "sample-crawler/1",
        "year": "2026",
    }
    assert {name: fields.get(name) for name in expected} == expected
    assert "creator" not in fields
    assert "two words" not in fields


def test_a_time_that_is_none_is_no_crash(disk: Site) -> None:
    disk.write(name=warc_name(1, stamp="20209999999999999"))
    series = disk.do(disk.one_series(), "pack", "manifest")
    assert describe_item(series).metadata["scandate"] == "20209999999999"


def test_a_pattern_that_was_changed_since_is_named_or_harmless(disk: Site) -> None:
    disk.write(1)
    number = disk.one_series()
    disk.do(number, "pack", "manifest")
    disk.values["WARC_naming"] = "{prefix}_{timestamp}_{serial}"
    disk.take_up(number)
    try:
        assert describe_item(disk.load(number)).identifier == disk.load(number).item
    except Fault as fault:
        assert fault.kind is FaultKind.CONFIG
        assert "WARC_naming" in str(fault)


@pytest.mark.parametrize("word", ["a/b", "a&b", "\\1", "$HOME", "%s", "{x}"])
def test_no_character_of_a_value_breaks_a_description(disk: Site, word: str) -> None:
    disk.values["description"] = f"{word} CRAWLJOB {word}"
    disk.write(1)
    series = disk.do(disk.one_series(), "pack", "manifest")
    assert describe_item(series).metadata["description"] == f"{word} wide {word}"
