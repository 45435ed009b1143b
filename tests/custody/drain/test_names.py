"""What crawlers call their files, what hostile names look like, and what items are called."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.drain.names import NAMINGS, SUFFIXES, Naming, WarcName, is_portable, item_name, naming
from custody.faults import Fault, FaultKind

H3 = "WIDE-20260301110409387-00012-14123~crawler07.us.archive.org~8443"

REAL = [
    ("1", "IAH-20080430204825-00000-blackbook.arc.gz", ("IAH", "20080430204825", "00000", "blackbook")),
    ("heritrix1", "NLA-20050312081255-00417-crawl12.nla.example.arc", ("NLA", "20050312081255", "00417", "crawl12")),
    ("heritrix2", "BNF-20090611124500123-00003-hadoop3.warc.gz", ("BNF", "20090611124500123", "00003", "hadoop3")),
    ("2", f"{H3}.warc.gz", ("WIDE", "20260301110409387", "00012", "crawler07")),
    ("heritrix3", f"{H3}.warc", ("WIDE", "20260301110409387", "00012", "crawler07")),
    ("zeno", "ZENO-20240115093012345-00042-crawl801.warc.gz", ("ZENO", "20240115093012345", "00042", "crawl801")),
    ("zeno", "q-42-20240115093012345-00000-c1.example.warc.zst", ("q-42", "20240115093012345", "00000", "c1")),
    ("warcprox", "warcprox-20190501120000123-00007-k3x9_a2b.warc.gz", ("warcprox", "20190501120000123", "00007", "")),
    ("browsertrix", "rec-8d6c4b1c2f3a-20240523101112345-0.warc.gz", ("rec", "20240523101112345", "0", "")),
    (
        "browsertrix",
        "rec-manual-20240523-8d6c4b1c-2f3-20240523101112345-11.warc.gz",
        ("rec", "20240523101112345", "11", ""),
    ),
]


@pytest.mark.parametrize(("kind", "name", "expected"), REAL)
def test_names_of_real_crawlers_are_taken_apart(kind: str, name: str, expected: tuple[str, ...]) -> None:
    found = naming(kind).parse(name)
    assert found is not None
    assert (found.prefix, found.timestamp, found.serial, found.shost) == expected
    assert found.name == name
    assert is_portable(name)


def test_the_parts_that_only_heritrix_3_has() -> None:
    found = naming("2").parse(f"{H3}.warc.gz")
    assert found is not None
    assert (found.pid, found.host, found.port) == ("14123", "crawler07.us.archive.org", "8443")
    assert found.suffix == ".warc.gz"


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        *((kind, prefix) for kind in "12" for prefix in ("WIDE-W10", "a-b-c-d", "x_y.z-1", "2020-7")),
        ("2", "TEST-20200101000000000-00001"),
    ],
)
def test_a_prefix_may_hold_dashes_and_even_look_like_a_date(kind: str, prefix: str) -> None:
    tail = "crawler07" if kind == "1" else "99~crawler07~80"
    found = naming(kind).parse(f"{prefix}-20260301110409387-00012-{tail}.warc.gz")
    assert found is not None
    assert (found.prefix, found.timestamp, found.serial, found.host) == (
        prefix,
        "20260301110409387",
        "00012",
        "crawler07",
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_file_type_is_known(suffix: str) -> None:
    found = naming("2").parse(H3 + suffix)
    assert found is not None
    assert found.suffix == suffix


HOSTILE = [
    "",
    "x.warc.gz",
    f"-{H3}.warc.gz",
    f".{H3}.warc.gz",
    f"a/{H3}.warc.gz",
    f"../{H3}.warc.gz",
    f"$(id)-{H3}.warc.gz",
    f"a b-{H3}.warc.gz",
    f"a'b-{H3}.warc.gz",
    f'a"b-{H3}.warc.gz',
    f"a\nb-{H3}.warc.gz",
    f"{H3}.warc.gz\n",
    f"{H3}.warc.gz ",
    f"a\udcff-{H3}.warc.gz",
    f"käse-{H3}.warc.gz",
    f"a;b-{H3}.warc.gz",
    f"a\\b-{H3}.warc.gz",
    f"a*-{H3}.warc.gz",
    f"{H3}.warc.gz.open",
    f"{H3}.warc.gz.bad",
    f"{H3}.warc.gz.tmp",
    f"{H3}.WARC.GZ",
    f"{H3}.warc.gz.tombstone",
    f"{H3}.txt",
    H3.replace("20260301110409387", "2026030111\u0660\u0661\u0662387") + ".warc.gz",  # Arabic digits
    H3.replace("00012", "0001²") + ".warc.gz",
]


@pytest.mark.parametrize("kind", sorted(NAMINGS))
@pytest.mark.parametrize("name", HOSTILE)
def test_no_kind_takes_a_hostile_or_unfinished_name(kind: str, name: str) -> None:
    assert naming(kind).parse(name) is None


@given(st.sampled_from(sorted(NAMINGS)), st.text(max_size=12), st.text(max_size=12))
def test_whatever_is_taken_is_safe_in_a_shell_and_in_a_manifest(kind: str, before: str, after: str) -> None:
    for name in (before + f"{H3}.warc.gz" + after, before + "A-20260301110409-0-h" + after + ".warc.gz"):
        if naming(kind).parse(name):
            assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._~=+,@%-]*", name)


def test_a_pattern_of_one_s_own() -> None:
    found = Naming("{prefix}_{serial}_{timestamp}").parse("my-crawl_7_20200102030405.arc.gz")
    assert found == WarcName(
        "my-crawl_7_20200102030405.arc.gz", ".arc.gz", prefix="my-crawl", timestamp="20200102030405", serial="7"
    )


@pytest.mark.parametrize("pattern", ["{prefix}-{timestamp}", "{prefix}-{timestamp}-{serial}-{color}", "all", ""])
def test_a_pattern_that_cannot_name_an_item_is_refused(pattern: str) -> None:
    with pytest.raises(Fault) as refusal:
        Naming(pattern)
    assert refusal.value.kind is FaultKind.CONFIG
    assert "WARC_naming" in refusal.value.subject


def test_the_characters_of_a_pattern_are_not_a_regular_expression() -> None:
    kind = Naming("{prefix}.{timestamp}+{serial}")
    assert kind.parse("a.20200102030405+1.warc")
    assert kind.parse("ax202001020304055551.warc") is None


FIRST, LAST = (
    naming("2").parse(f"WIDE-W10-20101212000001123-{serial}-2214~crawl440.us.archive.org~9443.warc.gz")
    for serial in ("00123", "00131")
)


def test_the_item_of_full_names() -> None:
    assert FIRST and LAST
    assert item_name(FIRST, LAST, compact=False) == "WIDE-W10-20101212000001123-00123-00131-crawl440"


def test_the_item_of_compact_names() -> None:
    assert FIRST and LAST
    assert item_name(FIRST, LAST, compact=True) == "WIDE-W10-20101212000001-crawl440"
    assert FIRST.compact == "WIDE-W10-20101212000001-00123.warc.gz"


def test_a_number_stands_where_draintasker_puts_it() -> None:
    assert FIRST and LAST
    assert item_name(FIRST, LAST, compact=True, number=1) == "WIDE-W10-20101212000001-1-crawl440"
    assert item_name(FIRST, LAST, compact=False, number=2) == "WIDE-W10-20101212000001123-00123-00131-crawl440-2"
    assert item_name(FIRST, LAST, compact=True, number=1, template="{prefix}-{serial}") == "WIDE-W10-00123-1"


def test_the_item_of_a_template() -> None:
    assert FIRST and LAST
    template = "{prefix}.{timestamp14}.{serial}-{lastserial}.{shost}_{pid}"
    assert (
        item_name(FIRST, LAST, compact=True, template=template) == "WIDE-W10.20101212000001.00123-00131.crawl440_2214"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{prefix} {serial}",
        "{prefix}~{serial}",
        "{prefix}/{serial}",
        "{hots}",
        "{}",
        "{prefix",
        "{prefix.nothing}",
        "{prefix[a]}",
        "_{prefix}",
        ".{prefix}",
        "..",
        "käse-{serial}",
        "{prefix}" * 13,
        "{prefix!r}",
    ],
)
def test_a_template_that_makes_no_identifier_is_refused(template: str) -> None:
    assert FIRST and LAST
    with pytest.raises(Fault) as refusal:
        item_name(FIRST, LAST, compact=False, template=template)
    assert refusal.value.kind is FaultKind.CONFIG
    assert "\n" not in str(refusal.value)


def test_a_number_cannot_make_an_identifier_too_long() -> None:
    long = naming("1").parse(f"{'p' * 57}-20101212000001123-00123-crawl440440.warc.gz")
    assert long
    assert len(item_name(long, long, compact=False)) == 99
    with pytest.raises(Fault, match="3 to 100"):
        item_name(long, long, compact=False, number=1)


@given(
    st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+,@%-]{0,30}"), fullmatch=True),
    st.text(string.digits, min_size=12, max_size=17),
    st.text(string.digits, min_size=1, max_size=6),
    st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,60}"), fullmatch=True),
    st.booleans(),
)
def test_an_item_is_legal_or_refused(prefix: str, timestamp: str, serial: str, host: str, compact: bool) -> None:
    warc = WarcName("x", ".warc.gz", prefix=prefix, timestamp=timestamp, serial=serial, host=host)
    try:
        item = item_name(warc, warc, compact=compact)
    except Fault as fault:
        assert fault.kind is FaultKind.CONFIG
    else:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{2,99}", item)


@pytest.mark.parametrize(
    ("name", "portable"),
    [
        ("a.warc.gz", True),
        ("a" * 190 + ".warc.gz", True),
        ("a" * 240 + ".warc.gz", False),  # NAME.tombstone would not fit into a directory
        (".a", False),
        ("-a", False),
        ("~a", False),
        ("a b", False),
        ("ä", False),
        ("", False),
    ],
)
def test_portable_names(name: str, portable: bool) -> None:
    assert is_portable(name) is portable
