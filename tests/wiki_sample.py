"""A wiki filled through MediaWiki's own import, then made difficult behind its back."""

from __future__ import annotations

import sqlite3
import zlib
from html import escape

import pymysql

from custody.wiki_dump.engine.sha1 import sha1_base36
from services.mediawiki import MediaWiki

HISTORY = 60


def import_xml() -> bytes:
    """Pages and revisions that have given dump programs trouble."""
    pages = [
        ("Plain", [("Ann", 1, "first", "Text.\n"), ("Bob", 0, "", "Text, changed.\n")]),
        (
            'A & B <x> "quoted" it\'s',
            [("Ann", 0, "a & b < c > d \"e\" 'f'", '&amp; <ref name="x">]]></ref> \'q\' "q"\t|\n')],
        ),
        ("Ünïcødé 😀 ไทย", [("Ünïcødé", 0, "žluťoučký 😀", "ไทย 日本語 \U0001f600 עברית\n")]),
        ("Redirect here", [("Ann", 0, "", '#REDIRECT [[A & B <x> "quoted" it\'s]]')]),
        ("Plain redirect", [("192.0.2.7", 0, "", "#REDIRECT [[Talk:Plain#Part]]")]),
        ("Talk:Plain", [("2001:DB8::1", 0, "v6", "signed"), ("192.0.2.1", 1, "v4", "unsigned")]),
        ("User:Ann", [("Ann", 0, "", "me")]),
        ("User talk:Ann", [("Bob", 0, "", "you")]),
        ("Template:Box", [("Ann", 0, "", "<includeonly>{{{1}}}</includeonly>")]),
        ("Category:Things", [("Ann", 0, "", "")]),
        ("MediaWiki:Common.css", [("Ann", 0, "", "a > b { content: '<&>' }")]),
        ("User:Ann/x.js", [("Ann", 0, "", "if (a < b && c > d) {}")]),
        ("User:Ann/x.json", [("Ann", 0, "", '{"a": "<&>"}')]),
        ("Empty", [("Ann", 0, "", "")]),
        ("Blank lines", [("Ann", 0, "", "\n\n  x  \n\n")]),
        ("Big", [("Ann", 0, "big", "0123456789abcdef & <\n" * 20_000)]),
        ("Many", [("Ann", n % 2, f"change {n}", f"version {n}\n" * 3) for n in range(HISTORY)]),
    ]
    parts = ['<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">']
    minute = 0
    for title, revisions in pages:
        parts.append(f"<page><title>{escape(title)}</title>")
        for name, minor, comment, text in revisions:
            minute += 1
            who = "ip" if name[0].isdigit() else "username"
            parts.append(
                f"<revision><timestamp>2026-01-{1 + minute // 60:02}T10:{minute % 60:02}:00Z</timestamp>"
                f"<contributor><{who}>{escape(name)}</{who}></contributor>{'<minor/>' if minor else ''}"
                f"<comment>{escape(comment)}</comment>"
                f'<text xml:space="preserve">{escape(text)}</text></revision>'
            )
        parts.append("</page>")
    return "".join([*parts, "</mediawiki>"]).encode()


class Raw:
    """The wiki's database, to be written into with bytes."""

    def __init__(self, wiki: MediaWiki) -> None:
        address = wiki.address
        self.is_sqlite = address.sqlite is not None
        self._connection = (
            sqlite3.connect(str(address.sqlite), isolation_level=None)
            if self.is_sqlite
            else pymysql.connect(
                host=address.host,
                port=address.port,
                user=address.user,
                password=address.password,
                database=address.database,
                autocommit=True,
                charset="utf8mb4",
            )
        )

    def run(self, sql: str, *values: object) -> list[tuple]:
        cursor = self._connection.cursor()
        if not self.is_sqlite:
            sql = sql.replace("?", "%s")
        cursor.execute(sql, values)
        rows = list(cursor.fetchall()) if cursor.description else []
        cursor.close()
        return rows

    def one(self, sql: str, *values: object) -> int:
        return int(self.run(sql, *values)[0][0])

    def add_text(self, text: bytes, flags: bytes) -> int:
        self.run("INSERT INTO text (old_text, old_flags) VALUES (?, ?)", text, flags)
        return self.one("SELECT MAX(old_id) FROM text")

    def page(self, title: str) -> int:
        return self.one("SELECT page_id FROM page WHERE page_title = ? AND page_namespace = 0", title)

    def latest(self, title: str) -> int:
        return self.one("SELECT page_latest FROM page WHERE page_title = ? AND page_namespace = 0", title)

    def set_text(self, rev_id: int, stored: bytes, flags: bytes, plain: bytes) -> None:
        """Let a revision's main text be stored in another form."""
        number = self.add_text(stored, flags)
        self.set_content(rev_id, f"tt:{number}".encode(), plain)

    def set_content(self, rev_id: int, address: bytes, plain: bytes) -> None:
        sha1 = sha1_base36(plain)
        self.run(
            "INSERT INTO content (content_size, content_sha1, content_model, content_address) VALUES (?, ?, 1, ?)",
            *(len(plain), sha1, address),
        )
        content = self.one("SELECT MAX(content_id) FROM content")
        self.run("UPDATE slots SET slot_content_id = ? WHERE slot_revision_id = ?", content, rev_id)
        self.run("UPDATE revision SET rev_sha1 = ?, rev_len = ? WHERE rev_id = ?", sha1, len(plain), rev_id)

    def revisions_of(self, title: str) -> list[int]:
        rows = self.run("SELECT rev_id FROM revision WHERE rev_page = ? ORDER BY rev_id", self.page(title))
        return [int(row[0]) for row in rows]

    def close(self) -> None:
        self._connection.close()


def deflate(data: bytes) -> bytes:
    engine = zlib.compressobj(wbits=-15)
    return engine.compress(data) + engine.flush()


def fill(wiki: MediaWiki) -> None:
    """Import, and let texts lie as old wikis have them: compressed, in history blobs, not in NFC."""
    wiki.maintenance("importDump.php", "--no-updates", stdin=import_xml())
    raw = Raw(wiki)
    many = raw.revisions_of("Many")
    compressed = "komprimiert ü & <\n".encode()
    raw.set_text(many[0], deflate(compressed), b"utf-8,gzip", compressed)
    old, new = b"first in the blob", b"second in the blob & <"
    keys = [b"a" * 32, b"b" * 32]
    items = (
        b"a:2:{"
        + b"".join(b's:32:"%b";s:%d:"%b";' % (k, len(t), t) for k, t in zip(keys, (old, new), strict=True))
        + b"}"
    )
    squeezed = deflate(items)
    blob = (
        b'O:27:"concatenatedgziphistoryblob":4:{s:8:"mVersion";i:0;s:11:"mCompressed";b:1;'
        b's:6:"mItems";s:%d:"%b";s:12:"mDefaultHash";s:32:"%b";}' % (len(squeezed), squeezed, keys[0])
    )
    raw.set_text(many[1], blob, b"object,utf-8", old)
    number = raw.one("SELECT MAX(old_id) FROM text")
    stub = b'O:15:"historyblobstub":2:{s:6:"mOldId";i:%d;s:5:"mHash";s:32:"%b";}' % (number, keys[1])
    raw.set_text(many[2], stub, b"object,utf-8", new)
    for rev_id, text in zip(
        many[3:9],
        (
            "e\u0301 is not in NFC".encode(),
            b"bell \x07, no UTF-8 \xff\xfe, cut \xe2\x82, overlong \xc0\xaf, surrogate \xed\xa0\x80, end \xf0\x9f\x98",
            b"noncharacters \xef\xbf\xbe \xef\xbf\xbf, 5 \xf8\x88\x80\x80\x80 6 \xfc\x84\x80\x80\x80\x80 \x80\x80",
            b"too large \xf5\x80\x80\x80 and \xf4\x90\x80\x80 broken \xe2(\xa1 \xf0\x90\x28\xbc",
            b"",
            b"a\r\nb",
        ),
        strict=True,
    ):
        raw.set_text(rev_id, text, b"utf-8", text)
    raw.close()


def suppress(wiki: MediaWiki) -> dict[str, int]:
    """Hide things, and add a slot; returns the revisions by what was done to them."""
    raw = Raw(wiki)
    many = raw.revisions_of("Many")
    done = {"text": many[20], "comment": many[21], "user": many[22], "all": many[23], "slots": many[24]}
    for name, bits in (("text", 1), ("comment", 2), ("user", 4), ("all", 15)):
        raw.run("UPDATE revision SET rev_deleted = ? WHERE rev_id = ?", bits, done[name])
    raw.run("INSERT INTO slot_roles (role_name) VALUES (?)", "mediainfo")
    role = raw.one("SELECT MAX(role_id) FROM slot_roles")
    number = raw.add_text(b'{"labels": "<&>"}', b"utf-8")
    sha1 = sha1_base36(b'{"labels": "<&>"}')
    if not raw.run("SELECT 1 FROM content_models WHERE model_name = ?", "json"):
        raw.run("INSERT INTO content_models (model_name) VALUES (?)", "json")
    model = raw.one("SELECT model_id FROM content_models WHERE model_name = ?", "json")
    raw.run(
        "INSERT INTO content (content_size, content_sha1, content_model, content_address) VALUES (?, ?, ?, ?)",
        *(17, sha1, model, f"tt:{number}".encode()),
    )
    content = raw.one("SELECT MAX(content_id) FROM content")
    raw.run("INSERT INTO slots VALUES (?, ?, ?, ?)", done["slots"], role, content, done["slots"])
    raw.run("UPDATE revision SET rev_sha1 = ? WHERE rev_id = ?", "", done["slots"])
    raw.close()
    return done
