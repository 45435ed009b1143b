"""Stubs: every page and revision of a wiki as XML, without text, out of one snapshot of its database.

Rows come by ranges of pages, never by OFFSET, and are put into order here: the server sorts nothing.
"""

from __future__ import annotations

import ipaddress
import re
from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from custody.faults import Fault, FaultKind
from custody.wiki_dump.engine.clean import attribute, clean, element, escape
from custody.wiki_dump.engine.rows import Row, Rows, in_list
from custody.wiki_dump.engine.sha1 import combined
from custody.wiki_dump.engine.siteinfo import SiteInfo

PAGES_A_QUERY = 5000
REVISIONS_A_QUERY = 2000
_MAX_ACTORS = 200_000

TEXT, COMMENT, USER = 1, 2, 4
FORMATS = {
    b"wikitext": b"text/x-wiki",
    b"javascript": b"text/javascript",
    b"css": b"text/css",
    b"sanitized-css": b"text/css",
    b"json": b"application/json",
    b"wikibase-item": b"application/json",
    b"wikibase-property": b"application/json",
    b"wikibase-lexeme": b"application/json",
    b"wikibase-mediainfo": b"application/json",
    b"flow-board": b"application/json",
    b"JsonSchema": b"application/json",
    b"Json.JsonConfig": b"application/json",
    b"Tabular.JsonConfig": b"application/json",
    b"Map.JsonConfig": b"application/json",
    b"MassMessageListContent": b"application/json",
    b"GadgetDefinition": b"text/x-wiki",
    b"proofread-page": b"text/x-wiki",
    b"proofread-index": b"text/x-wiki",
}
_PLAIN = b"text/plain"
_IPV4 = re.compile(rb"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|0?[0-9]?[0-9])(?:\.(?!$)|$)){4}")
_NO_CONTRIBUTOR = b'      <contributor deleted="deleted" />\n'
_NEEDED = {"page": "page_latest", "revision": "rev_actor", "slots": "slot_origin", "content": "content_address"}


@dataclass
class PageStub:
    """A page: its head, its revisions, and which of them is the latest (None where that one is not there).

    ``revisions`` of a huge page come in several stubs: ``begins`` and ``ends`` say which is first and last.
    """

    page_id: int
    namespace: int
    head: bytes
    revisions: list[bytes] = field(default_factory=list)
    latest: bytes | None = None
    size_bytes: int = 0
    begins: bool = True
    ends: bool = True

    @property
    def history(self) -> bytes:
        """This stub's XML with all of its revisions."""
        return b"".join((self.head if self.begins else b"", *self.revisions, b"  </page>\n" if self.ends else b""))

    @property
    def current(self) -> bytes | None:
        """The page with its latest revision only; of a huge page, where it ends."""
        return None if self.latest is None or not self.ends else b"".join((self.head, self.latest, b"  </page>\n"))

    @property
    def is_article(self) -> bool:
        """Whether it is no talk page and no user page."""
        return self.namespace != 2 and not (self.namespace > 0 and self.namespace % 2)


@dataclass(frozen=True)
class Oddity:
    """Something of the wiki that could not be dumped as it should be."""

    page_id: int
    rev_id: int
    what: str


class StubReader:
    """Reads a wiki's pages as stubs. :param oddities: takes what is not as it should be."""

    def __init__(self, rows: Rows, site: SiteInfo, *, oddities: list[Oddity] | None = None) -> None:
        self.rows = rows
        self.oddities = oddities if oddities is not None else []
        self._prefixes = site.prefixes()
        self._actors: dict[bytes, bytes] = {}
        self._roles = self._names("slot_roles", "role_id", "role_name")
        self._models = self._names("content_models", "model_id", "model_name")
        self._models_xml: dict[bytes, bytes] = {}
        self._revisions = self._revision_query()

    def _names(self, table: str, key: str, name: str) -> dict[bytes, bytes]:
        return {row[0]: row[1] for row in self.rows.query(f"SELECT {self.rows.number(key)}, {name} FROM {table}")}  # noqa: S608

    def _revision_query(self) -> str:
        for table, column in _NEEDED.items():
            if column not in self.rows.columns(table):
                reason = f"has no {table}.{column}: its schema is older than MediaWiki 1.35"
                raise Fault(FaultKind.CONFIG, "wiki", reason, next_command="update MediaWiki, or use engine: mediawiki")
        number = self.rows.number
        columns = self.rows.columns("revision")
        has_temp = bool(self.rows.columns("revision_comment_temp"))
        comment = "COALESCE(t.revcomment_comment_id, r.rev_comment_id)" if has_temp else "r.rev_comment_id"
        join = "LEFT JOIN revision_comment_temp t ON t.revcomment_rev = r.rev_id" if has_temp else ""
        sha1 = "r.rev_sha1" if "rev_sha1" in columns else "''"
        names = ("r.rev_page", "r.rev_id", "r.rev_parent_id")
        fields = (
            *map(number, names),
            "r.rev_timestamp",
            *map(number, ("r.rev_minor_edit", "r.rev_deleted")),
            sha1,
            number("r.rev_actor"),
            "c.comment_text",
            *map(number, ("s.slot_role_id", "s.slot_origin", "k.content_size")),
            "k.content_sha1",
            number("k.content_model"),
            "k.content_address",
        )
        straight = "STRAIGHT_JOIN" if self.rows.dialect == "mysql" else ""
        return (
            f"SELECT {straight} {', '.join(fields)} FROM revision r "  # noqa: S608
            "LEFT JOIN slots s ON s.slot_revision_id = r.rev_id "
            "LEFT JOIN content k ON k.content_id = s.slot_content_id "
            f"{join} LEFT JOIN comment c ON c.comment_id = {comment} WHERE r.rev_page "
        )

    def pages(self, first: int = 1, last: int | None = None) -> Iterator[PageStub]:
        """All pages from ``first`` to ``last``, ascending; those without a revision are left out."""
        asked: tuple[list[Row], Iterator[Row]] | None = None
        for group in self._groups(first, last):
            if isinstance(group, tuple):
                ahead = None
            else:  # the server works on them while those before them are written
                ahead = group, self.rows.ask(f"{self._revisions}BETWEEN {int(group[0][0])} AND {int(group[-1][0])}")
            if asked is not None:
                yield from self._read(*asked)
            asked = ahead
            if isinstance(group, tuple):
                yield from self._huge(group)
        if asked is not None:
            yield from self._read(*asked)

    def _groups(self, first: int, last: int | None) -> Iterator[list[Row] | Row]:
        """Pages of as many revisions as we hold at once; a page that has more of them comes alone, as a row."""
        after = first - 1
        while batch := self._page_batch(after, last):
            after = int(batch[-1][0])
            counts = self._counts(int(batch[0][0]), after)
            group: list[Row] = []
            size = 0
            for page in batch:
                count = counts.get(page[0], 0)
                if group and size + count > REVISIONS_A_QUERY:
                    yield group
                    group, size = [], 0
                if count > REVISIONS_A_QUERY:
                    yield page
                    continue
                group.append(page)
                size += count
            if group:
                yield group

    def _page_batch(self, after: int, last: int | None) -> list[Row]:
        number = self.rows.number
        limit = "" if last is None else f" AND page_id <= {last}"
        sql = (
            f"SELECT {number('page_id')}, {number('page_namespace')}, page_title, {number('page_is_redirect')}, "  # noqa: S608
            f"{number('page_latest')}, {number('rd_namespace')}, rd_title, rd_interwiki FROM page "
            f"LEFT JOIN redirect ON rd_from = page_id AND page_is_redirect <> 0 "
            f"WHERE page_id > {after}{limit} ORDER BY page_id LIMIT {PAGES_A_QUERY}"
        )
        return list(self.rows.query(sql))

    def _counts(self, first: int, last: int) -> dict[bytes, int]:
        number = self.rows.number
        sql = (
            f"SELECT {number('rev_page')}, {number('COUNT(*)')} FROM revision "  # noqa: S608
            f"WHERE rev_page BETWEEN {first} AND {last} GROUP BY rev_page"
        )
        return {row[0]: int(row[1]) for row in self.rows.query(sql)}

    def _read(self, pages: list[Row], rows: Iterator[Row]) -> Iterator[PageStub]:
        found: defaultdict[bytes, list[Row]] = defaultdict(list)
        for row in rows:
            found[row[0]].append(row)
        self._learn_actors({row[7] for group in found.values() for row in group})
        for page in pages:
            if page[0] in found:
                stub = self._start(page)
                self._add(stub, page, found[page[0]])
                self._finish(stub, page)
                yield stub

    def _huge(self, page: Row) -> Iterator[PageStub]:
        """A page of more revisions than we hold at once: its revision numbers first, then windows of them."""
        sql = f"SELECT {self.rows.number('rev_id')} FROM revision WHERE rev_page = {int(page[0])}"  # noqa: S608
        ids = array("q", sorted(int(row[0]) for row in self.rows.query(sql)))
        first = self._start(page)
        latest: bytes | None = None
        for start in range(0, len(ids), REVISIONS_A_QUERY):
            window = ids[start : start + REVISIONS_A_QUERY]
            within = f"= {int(page[0])} AND r.rev_id BETWEEN {window[0]} AND {window[-1]}"
            rows = list(self.rows.query(self._revisions + within))
            self._learn_actors({row[7] for row in rows})
            is_last = start + REVISIONS_A_QUERY >= len(ids)
            stub = PageStub(first.page_id, first.namespace, first.head, begins=start == 0, ends=is_last)
            self._add(stub, page, rows)
            latest = stub.latest = stub.latest or latest
            if stub.ends:
                self._finish(stub, page)
            yield stub

    def _start(self, page: Row) -> PageStub:
        page_id, namespace, title, is_redirect, _, rd_namespace, rd_title, rd_interwiki = page
        name = self._title(namespace, title)
        lines = [
            b"  <page>\n    ",
            element(b"title", name),
            b"\n    <ns>%b</ns>\n    <id>%b</id>\n" % (namespace, page_id),
        ]
        if is_redirect != b"0" and rd_title:
            target = self._title(rd_namespace, rd_title)
            if rd_interwiki:
                target = b"%b:%b" % (rd_interwiki, target)
            lines.append(b'    <redirect title="%b" />\n' % attribute(target))
        return PageStub(int(page_id), int(namespace), b"".join(lines))

    def _title(self, namespace: bytes, title: bytes) -> bytes:
        return self._prefixes.get(namespace, b"") + title.replace(b"_", b" ")

    def _finish(self, stub: PageStub, page: Row) -> None:
        if stub.latest is None:
            self._odd(stub.page_id, int(page[4]), "the latest revision of the page is not there")

    def _odd(self, page_id: int, rev_id: int, what: str) -> None:
        self.oddities.append(Oddity(page_id, rev_id, what))

    def _add(self, stub: PageStub, page: Row, rows: list[Row]) -> None:
        rows.sort(key=_by_revision)
        latest = page[4]
        with_slots = len({row[1] for row in rows}) < len(rows)
        for row, slots in _by_slots(rows) if with_slots else ((row, None) for row in rows):
            xml = self._revision(row, slots, stub)
            stub.revisions.append(xml)
            if row[1] == latest:
                stub.latest = xml

    def _revision(self, row: Row, slots: list[Row] | None, stub: PageStub) -> bytes:
        _, rev_id, parent, time, minor, deleted, sha1, actor, comment, _, _, _, text_sha1, _, _ = row
        hidden = int(deleted) if deleted != b"0" else 0
        if len(time) != 14 or not time.isdigit():
            self._odd(stub.page_id, int(rev_id), f"its time {time!r} is none")
            time = b"19700101000000"
        parts = [b"    <revision>\n      <id>", rev_id]
        if parent and parent != b"0":
            parts += (b"</id>\n      <parentid>", parent, b"</parentid>\n      <timestamp>")
        else:
            parts.append(b"</id>\n      <timestamp>")
        parts += (time[:4], b"-", time[4:6], b"-", time[6:8], b"T", time[8:10], b":", time[10:12], b":", time[12:])
        parts += (b"Z</timestamp>\n", _NO_CONTRIBUTOR if hidden & USER else self._actors[actor])
        if minor != b"0":
            parts.append(b"      <minor/>\n")
        if hidden & COMMENT:
            parts.append(b'      <comment deleted="deleted" />\n')
        elif comment:
            parts += (b"      <comment>", escape(clean(comment)), b"</comment>\n")
        if slots is None:
            parts += self._slot(row, stub, hidden, main=True)
        else:
            named = sorted((self._role(slot[9]) != b"main", self._role(slot[9]), slot) for slot in slots)
            for other, role, slot in named:
                slot_xml = self._slot(slot, stub, hidden, main=not other)
                parts += _other_slot(role, slot_xml) if other else slot_xml
            sha1 = sha1 or combined([(role, slot[12] or b"") for _, role, slot in named])
        if hidden & TEXT:
            parts.append(b"      <sha1/>\n    </revision>\n")
        elif sha1 := sha1 or text_sha1:
            parts += (b"      <sha1>", sha1, b"</sha1>\n    </revision>\n")
        else:
            parts.append(b"      <sha1 />\n    </revision>\n")
        return b"".join(parts)

    def _slot(self, row: Row, stub: PageStub, hidden: int, *, main: bool) -> tuple[bytes, ...]:
        """A slot's elements, indented as those of the main slot."""
        _, _, _, _, _, _, _, _, _, _, origin, size, sha1, model_id, location = row
        if location is None:  # no slot or no content: what the revision holds cannot be found any more
            self._odd(stub.page_id, int(row[1]), "it has no content on record")
            origin, size, sha1, model_id, location = origin or row[1], b"0", b"", b"", b""
        head = (b"      <origin>", origin, self._model(model_id))
        if hidden & TEXT:
            return (*head, b'<text deleted="deleted" />\n')
        stub.size_bytes += int(size)
        number = location[3:] if location[:3] == b"tt:" else b""
        place = location if number.isdigit() else attribute(location)
        text = (b'<text bytes="', size, b'" sha1="', sha1, b'" location="', place)
        if main and number.isdigit():
            return (*head, *text, b'" id="', number, b'" />\n')
        return (*head, *text, b'" />\n')

    def _model(self, model_id: bytes) -> bytes:
        """What stands between the origin of a slot and its text."""
        if model_id not in self._models_xml:
            model = self._models.get(model_id, b"wikitext")
            form = FORMATS.get(model, _PLAIN)
            xml = b"</origin>\n      <model>%b</model>\n      <format>%b</format>\n      " % (model, form)
            self._models_xml[model_id] = xml
        return self._models_xml[model_id]

    def _role(self, role_id: bytes | None) -> bytes:
        return b"main" if role_id is None else self._roles.get(role_id, b"role-%b" % role_id)

    def _learn_actors(self, wanted: set[bytes]) -> None:
        missing = sorted(actor for actor in wanted if actor not in self._actors)
        if len(self._actors) > _MAX_ACTORS:
            self._actors.clear()
            missing = sorted(wanted)
        if not missing:
            return
        number = self.rows.number
        sql = (
            f"SELECT {number('actor_id')}, {number('actor_user')}, actor_name FROM actor "  # noqa: S608
            f"WHERE actor_id IN ({in_list(missing)})"
        )
        for actor_id, user, name in self.rows.query(sql):
            self._actors[actor_id] = contributor(user, name, b"      ")
        for actor in missing:
            self._actors.setdefault(actor, contributor(None, b"", b"      "))


def contributor(user: bytes | None, name: bytes, indent: bytes) -> bytes:
    """The element of a user: an address as ``ip``, everybody else by name and number."""
    if (not user or user == b"0") and is_ip(name):
        inner = element(b"ip", name)
    else:
        inner = element(b"username", name) + b"\n%b  <id>%b</id>" % (indent, user or b"0")
    return b"%b<contributor>\n%b  %b\n%b</contributor>\n" % (indent, indent, inner, indent)


def is_ip(name: bytes) -> bool:
    """Whether a user's name is an address."""
    if _IPV4.fullmatch(name):
        return True
    if b":" not in name or b"." in name or b"%" in name:
        return False
    try:
        ipaddress.IPv6Address(name.decode("ascii"))
    except ValueError:
        return False
    return True


def _other_slot(role: bytes, elements: tuple[bytes, ...]) -> Iterator[bytes]:
    """The element of a slot beside the main one: the same within, and deeper."""
    yield b"      <content>\n        %b\n" % element(b"role", role)
    for line in b"".join(elements).splitlines(keepends=True):
        yield b"  " + line
    yield b"      </content>\n"


def _by_slots(rows: list[Row]) -> Iterator[tuple[Row, list[Row] | None]]:
    """Rows of each revision: its first, and all of them where they are several."""
    for _, group in groupby(rows, key=_by_revision):
        slots = list(group)
        yield slots[0], slots if len(slots) > 1 else None


def _by_revision(row: Row) -> int:
    return int(row[1])
