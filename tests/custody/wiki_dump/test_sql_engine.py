"""The sql engine against MediaWiki's own dumpBackup.php and importDump.php, on SQLite and MariaDB."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from unicodedata import is_normalized, normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wiki_sample
import wiki_xml
from custody.faults import Fault, FaultKind
from custody.wiki_dump.engine import stubs
from custody.wiki_dump.engine.clean import clean
from custody.wiki_dump.engine.logs import log_items
from custody.wiki_dump.engine.mysql_rows import _row
from custody.wiki_dump.engine.rows import Address, opened
from custody.wiki_dump.engine.sha1 import sha1_base36
from custody.wiki_dump.engine.siteinfo import FOOTER, SiteInfo
from custody.wiki_dump.engine.stubs import PageStub, StubReader
from custody.wiki_dump.engine.text import TextSource
from custody.wiki_dump.engine.textpass import TextPass
from services.mediawiki import MediaWiki, install
from wiki_xml import site_of

pytestmark = pytest.mark.service

RAW = wiki_sample.Raw


class Ours:
    """Documents of the sql engine, and what it had to say about them."""

    def __init__(self, wiki: MediaWiki, site: SiteInfo, *, legacy: str | None = None) -> None:
        self._legacy = legacy
        self._site = site
        with opened(wiki.address) as rows:
            rows.snapshot()
            reader = StubReader(rows, site)
            pages = list(reader.pages())
            self.oddities = reader.oddities
            self.stub = self._whole(page.history for page in pages)
            self.full, self.tally = self._filled(rows, (page.history for page in pages))
            self.current, _ = self._filled(rows, (page.current for page in pages if page.current and page.ends))
            self.articles_stub = self._whole(page.current for page in pages if page.current and page.is_article)
            self.logs = self._whole(log_items(rows, site))

    def _whole(self, chunks: Iterable[bytes | None]) -> bytes:
        return b"".join([self._site.header(), *(chunk or b"" for chunk in chunks), FOOTER])

    def _filled(self, rows: object, chunks: Iterable[bytes]) -> tuple[bytes, object]:
        passing = TextPass(rows, TextSource(rows, legacy_encoding=self._legacy), retry_pause_s=0)
        return self._whole(passing.fill(chunks)), passing.tally


def ours(wiki: MediaWiki, theirs: bytes) -> Ours:
    return Ours(wiki, site_of(theirs, wiki.name))


def test_every_document_is_the_one_that_dumpbackup_makes(any_wiki: MediaWiki) -> None:
    full = any_wiki.dump("--full")
    made = ours(any_wiki, full)
    assert made.full == full
    assert made.stub == any_wiki.dump("--full", "--stub")
    assert made.current == any_wiki.dump("--current")
    articles = any_wiki.dump("--current", "--stub", "--filter=notalk", "--filter=namespace:!NS_USER")
    assert made.articles_stub == articles
    assert made.logs == any_wiki.dump("--logs")
    assert not made.oddities and not made.tally.lost and not made.tally.differing
    assert wiki_xml.schema_errors(full) == wiki_xml.schema_errors(made.full) == []
    assert wiki_xml.schema_errors(made.logs) == []


def test_what_is_suppressed_is_absent_and_slots_are_there(wiki: MediaWiki) -> None:
    hidden = wiki_sample.suppress(wiki)
    theirs = wiki.dump("--full")
    made = ours(wiki, theirs)
    tree = {int(each.findtext("{*}id")): each for each in wiki_xml.parse(made.full).iter("{*}revision")}
    for name in ("text", "all"):
        revision = tree[hidden[name]]
        assert dict(revision.find("{*}text").attrib) == {"deleted": "deleted"}
        assert not revision.findtext("{*}sha1")
    assert tree[hidden["user"]].find("{*}contributor").get("deleted")
    assert tree[hidden["comment"]].find("{*}comment").get("deleted")
    slot = tree[hidden["slots"]].find("{*}content")
    assert [slot.findtext("{*}role"), slot.findtext("{*}model"), slot.findtext("{*}text")] == [
        *("mediainfo", "json"),
        '{"labels": "<&>"}',
    ]
    # everything else is as core writes it; core itself tells size and sha1 of a suppressed text
    told = [line for line in theirs.splitlines() if b'deleted="deleted"' not in line]
    kept = [line for line in made.full.splitlines() if b'deleted="deleted"' not in line]
    assert kept == told
    assert wiki_xml.schema_errors(made.full) == []


def test_importdump_reads_it_back_and_the_second_dump_has_the_same_revisions(wiki: MediaWiki, tmp_path: Path) -> None:
    made = ours(wiki, wiki.dump("--full")).full
    second = install(tmp_path / "second")
    second.maintenance("importDump.php", "--no-updates", stdin=made)

    def revisions(document: bytes) -> set[tuple[object, ...]]:
        found = set()
        for page in wiki_xml.parse(document).iter("{*}page"):
            for each in page.iter("{*}revision"):
                texts = [each.findtext(name) for name in ("{*}timestamp", "{*}comment", "{*}text", "{*}model")]
                who = each.find("{*}contributor")
                found.add((page.findtext("{*}title"), who.findtext("{*}username") or who.findtext("{*}ip"), *texts))
        return found

    ours_again = ours(second, second.dump("--full")).full
    lost = {each for each in revisions(made) - revisions(ours_again) if each[0] != "Main Page"}
    assert lost == set()


def test_lost_texts_are_named_and_tried_again_and_suppression_between_the_passes_counts(wiki: MediaWiki) -> None:
    raw = RAW(wiki)
    many = raw.revisions_of("Many")
    raw.set_content(many[10], b"tt:999999", b"gone")
    raw.set_content(many[11], b"es:DB://cluster1/5?flags=utf-8", b"elsewhere")
    raw.set_content(many[12], b"bad:T123", b"")
    raw.set_text(many[13], b"\x00not deflated", b"utf-8,gzip", b"x")
    raw.set_text(many[14], b'O:15:"diffhistoryblob":0:{}', b"utf-8,object", b"x")
    raw.set_text(many[15], b"", b"error", b"x")
    raw.set_text(many[16], b"what lies there", b"utf-8", b"what should lie there")
    raw.run("DELETE FROM slots WHERE slot_revision_id = ?", many[17])
    shared = b"tt:%d" % raw.add_text(b"one text of two", b"utf-8")
    raw.set_content(many[18], shared, b"one text of two")
    raw.set_content(many[19], shared, b"or of one?")
    raw.set_content(many[20], b"tt:00" + shared[3:] + b"?x=1", b"one text of two")
    theirs = wiki.dump("--full", "--stub")  # with text, dumpBackup itself dies of the deflate that is none
    made = ours(wiki, theirs)
    lost = {oddity.rev_id: oddity.what for oddity in made.tally.lost}
    assert set(lost) == {many[n] for n in (10, 11, 13, 14, 15, 17)}
    assert "999999 is not in the table" in lost[many[10]]
    assert "cluster1 is not configured" in lost[many[11]]
    assert [oddity.rev_id for oddity in made.tally.differing] == [many[16], many[19]]
    assert made.full.count(b">one text of two</text>") == 3
    assert [(each.rev_id, each.what) for each in made.oddities] == [(many[17], "it has no content on record")]
    for each in wiki_xml.parse(made.full).iter("{*}revision"):
        if int(each.findtext("{*}id")) in lost:
            assert not each.find("{*}text").text
    with opened(wiki.address) as rows:
        stub = b"".join(page.history for page in StubReader(rows, site_of(theirs)).pages())
        raw.run("UPDATE revision SET rev_deleted = 1 WHERE rev_id = ?", many[30])
        raw.run("DELETE FROM revision WHERE rev_id = ?", many[31])
        of_content = "(SELECT content_address FROM content JOIN slots ON slot_content_id = content_id"
        raw.run(f"DELETE FROM text WHERE 'tt:' || old_id IN {of_content} WHERE slot_revision_id = ?)", many[31])
        passing = TextPass(rows, TextSource(rows), retry_pause_s=0)
        document = b"".join(passing.fill([stub]))
    raw.close()
    assert passing.tally.withheld == 2 and {each.rev_id for each in passing.tally.lost} == set(lost)
    assert b"version 30\n" not in document and b"version 31\n" not in document and b"version 32\n" in document


def test_a_wiki_that_has_lost_everything_stops_the_pass(wiki: MediaWiki, monkeypatch: pytest.MonkeyPatch) -> None:
    RAW(wiki).run("DELETE FROM text")
    monkeypatch.setattr("custody.wiki_dump.engine.textpass.MAX_LOST_IN_A_ROW", 5)
    with pytest.raises(Fault, match="6 texts in a row cannot be had") as caught:
        ours(wiki, wiki.dump("--full", "--stub"))
    assert caught.value.kind is FaultKind.DATA


def test_an_external_store_and_a_legacy_encoding(tmp_path: Path) -> None:
    wiki = install(tmp_path / "wiki", extra=["$wgLegacyEncoding = 'windows-1252';"])
    raw = RAW(wiki)
    plain = "fünf € “quoted”".encode()
    latest = raw.latest("Main_Page")
    raw.set_text(latest, plain.decode().encode("cp1252"), b"", plain)
    made = Ours(wiki, site_of(wiki.dump("--full")), legacy="cp1252")
    assert made.full == wiki.dump("--full")
    raw.run("CREATE TABLE blobs (blob_id INTEGER PRIMARY KEY, blob_text BLOB)")
    raw.run("INSERT INTO blobs VALUES (7, ?)", wiki_sample.deflate(b"far away"))
    raw.set_text(latest, b"DB://cluster1/7", b"external,utf-8,gzip", b"far away")
    with opened(wiki.address) as rows:
        source = TextSource(rows, cluster=lambda name: rows)
        number = raw.one("SELECT MAX(old_id) FROM text")
        wanted = [b"tt:%d" % number, b"es:DB://cluster1/7?flags=utf-8,gzip", b"es:DB://cluster1/8"]
        found = source.fetch(wanted)
    raw.close()
    assert found[wanted[0]] == found[wanted[1]] == b"far away"
    assert "is not there" in found[wanted[2]].why


def test_memory_and_order_do_not_depend_on_a_page_s_size(wiki: MediaWiki, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = wiki.dump("--full")
    before = ours(wiki, theirs)
    monkeypatch.setattr(stubs, "REVISIONS_A_QUERY", 7)
    monkeypatch.setattr(stubs, "PAGES_A_QUERY", 3)
    monkeypatch.setattr("custody.wiki_dump.engine.textpass.BATCH_BYTES", 2000)
    monkeypatch.setattr("custody.wiki_dump.engine.textpass.MAX_TEXT_BYTES_AT_ONCE", 100)
    again = ours(wiki, theirs)
    assert (again.full, again.stub, again.current) == (before.full, before.stub, before.current)
    with opened(wiki.address) as rows:
        reader = StubReader(rows, site_of(theirs))
        pages: list[PageStub] = list(reader.pages())
        assert max(len(page.revisions) for page in pages) == 7
        assert b"".join(p.history for p in reader.pages(5, 9)) in before.stub


def test_an_old_schema_and_a_missing_database_are_named(wiki: MediaWiki, tmp_path: Path) -> None:
    theirs = wiki.dump("--full", "--stub")
    RAW(wiki).run("ALTER TABLE slots RENAME COLUMN slot_origin TO slot_inherited")
    with opened(wiki.address) as rows, pytest.raises(Fault, match=r"older than MediaWiki 1\.35"):
        StubReader(rows, site_of(theirs))
    with pytest.raises(Fault, match="is no SQLite file"), opened(Address("x", tmp_path / "none.sqlite")):
        pass


def test_a_server_that_refuses_or_is_not_there_is_told_apart_and_no_password_is_shown(mariadb_wiki: MediaWiki) -> None:
    address = mariadb_wiki.address
    values = {"host": address.host, "port": address.port, "user": address.user}
    with pytest.raises(Fault) as caught, opened(Address(address.database, password="Wr0ngPassw0rd", **values)):
        pass
    assert caught.value.kind is FaultKind.AUTH and "Wr0ngPassw0rd" not in str(caught.value)
    with pytest.raises(Fault) as caught, opened(Address("nowiki", password=address.password, **values)):
        pass
    assert caught.value.kind is FaultKind.CONFIG
    values["port"] = 1
    with pytest.raises(Fault) as caught, opened(Address("x", password="x", **values)):
        pass
    assert caught.value.kind is FaultKind.TRANSIENT


def test_the_server_sorts_nothing_and_makes_no_table_of_texts(mariadb_wiki: MediaWiki) -> None:
    theirs = mariadb_wiki.dump("--full", "--stub")
    with opened(mariadb_wiki.address) as rows:
        seen: list[str] = []
        query, ask = rows.query, rows.ask

        def spy(sql: str) -> object:
            seen.append(sql)
            return ask(sql)

        rows.query = rows.ask = spy  # type: ignore[method-assign]
        reader = StubReader(rows, site_of(theirs))
        stub = b"".join(page.history for page in reader.pages())
        b"".join(TextPass(rows, TextSource(rows)).fill([stub]))
        b"".join(log_items(rows, site_of(theirs)))
        plans = {sql: list(query(f"EXPLAIN {sql}")) for sql in seen if sql.startswith("SELECT")}
    assert any("old_text" in sql for sql in plans) and any("rev_actor" in sql for sql in plans)
    for sql, plan in plans.items():
        for step in plan:
            extra = (step[-1] or b"").decode()
            assert "filesort" not in extra and "temporary" not in extra, (sql, extra)


def test_sha1_is_written_as_mediawiki_does() -> None:
    assert sha1_base36(b"") == b"phoiac9h4m842xq45sp7s6u21eteeq1"


def test_a_server_that_goes_away_in_the_middle_is_said_and_a_reader_may_leave_early(mariadb_wiki: MediaWiki) -> None:
    endless = "SELECT REPEAT('x', 500) FROM seq_1_to_2000000"
    with opened(mariadb_wiki.address) as rows, opened(mariadb_wiki.address) as other:
        assert next(rows.query("SELECT 1 UNION SELECT 2 UNION SELECT 3"))[0] == b"1"
        assert [row[0] for row in rows.query("SELECT 7")] == [b"7"]
        with pytest.raises(Fault) as caught:
            list(rows.query("SELECT no_such_column FROM page"))
        assert caught.value.kind is FaultKind.CONFIG
        assert list(rows.query("SELECT NULL, ''")) == [(None, b"")]
        number = next(rows.query("SELECT CONNECTION_ID()"))[0]
        reading = rows.query(endless)
        next(reading)
        list(other.query(f"KILL {int(number)}"))
        with pytest.raises(Fault) as caught:
            for _ in reading:
                pass
        assert caught.value.kind is FaultKind.TRANSIENT
    with opened(mariadb_wiki.address) as rows:
        found = next(rows.query("SELECT REPEAT('y', 9000000), REPEAT('z', 9000000)"))  # two packets of the protocol
        assert [len(each) for each in found] == [9_000_000, 9_000_000]


def test_answers_come_in_their_order_whatever_is_asked_between(mariadb_wiki: MediaWiki) -> None:
    with opened(mariadb_wiki.address) as rows:
        first = rows.ask("SELECT seq FROM seq_1_to_5000")
        wrong = rows.ask("SELECT no_such_column FROM page")
        left = rows.ask("SELECT REPEAT('x', 5000) FROM seq_1_to_300")
        last = rows.ask("SELECT 'last'")
        assert [next(first), next(first)] == [(b"1",), (b"2",)]
        assert next(rows.query("SELECT 'between'")) == (b"between",)
        assert next(left) == (b"x" * 5000,)
        left.close()
        assert list(last) == [(b"last",)]
        with pytest.raises(Fault, match="no_such_column") as caught:
            next(wrong)
        assert caught.value.kind is FaultKind.CONFIG
        assert [int(row[0]) for row in first] == list(range(3, 5001))
        rows.ask("SELECT 'nobody reads it'")
        assert list(rows.query(f"SELECT LENGTH('{'long ' * 20_000}')")) == [(b"100000",)]


def test_a_row_that_is_not_as_long_as_it_says_is_not_taken() -> None:
    assert _row(b"\x01a\xfb\xfc\x02\x00bc\x00", 4) == (b"a", None, b"bc", b"")
    for row in (b"\x05abc", b"\x01a\x01", b"\x01ab", b"\xfd\x01", b"\xff"):
        with pytest.raises((ValueError, LookupError)):
            _row(row, 1)


_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]")
_BITS = [b"plain & <text>", b"\n\t\r", b"\0\x1f", "é".encode(), "e\u0301".encode(), "\u212b".encode(), b"\xff"]
_BITS += [b"\xef\xbf\xbe", b"\xef", b"\xc3", b"\xe2\x82", b"\x7f\xc2\x80", "ж漢\U0001f600".encode(), b"\xed\xa0\x80"]


@given(st.lists(st.sampled_from(_BITS) | st.binary(max_size=4) | st.text(max_size=4).map(str.encode)))
def test_text_is_cleaned_as_the_long_way_would(parts: list[bytes]) -> None:
    raw = b"".join(parts)
    long_way = _FORBIDDEN.sub("\ufffd".encode(), raw).decode("utf-8", "mediawiki")
    assert clean(raw) == normalize("NFC", long_way).encode()


def test_characters_below_the_first_accent_are_never_combined() -> None:
    assert all(is_normalized("NFC", "A" + chr(number)) for number in range(0x300))
    assert not is_normalized("NFC", "A" + chr(0x300))
