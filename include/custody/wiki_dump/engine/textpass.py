"""The text pass: stubs in, the same document with its text out.

Between the two passes a revision may have been suppressed or deleted: that is looked at again before its text is given.
"""

from __future__ import annotations

import re
import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import unescape

from custody.faults import Fault, FaultKind
from custody.wiki_dump.engine.clean import clean, escape
from custody.wiki_dump.engine.rows import Row, Rows
from custody.wiki_dump.engine.sha1 import digest_of, stated_digest
from custody.wiki_dump.engine.stubs import Oddity
from custody.wiki_dump.engine.text import ADDRESSES_A_QUERY, Found, KnownLost, Lost, TextSource

BATCH_BYTES = 256 << 10
"""How much of the stubs is looked at at once: little, so that it stays near the processor until it is written."""
MAX_TEXT_BYTES_AT_ONCE = 16 << 20
TRIES = 5
FIRST_PAUSE_S = 1.0
MAX_LOST_IN_A_ROW = 200

_TEXTS = re.compile(rb'<text bytes="(\d*)" sha1="([^"]*)" location="([^"]*)"[^/]*/>')
_HEAD_BYTES = len(b'<text bytes="" sha1="')
_REVISIONS = re.compile(rb"    <revision>\n      <id>(\d+)<")
_PAGE = re.compile(rb"  <page>\n    <title>[^<]*</title>\n    <ns>-?\d+</ns>\n    <id>(\d+)</id>\n")

Prefetch = Callable[[Mapping[int, tuple[int, bytes]], tuple[int, int]], Mapping[int, bytes]]
"""Given revision numbers with the length and sha1 they must have, escaped texts that have them.

Called in the order of the document; the second argument is the last page and revision of this call.
"""
Place = tuple[bytes, bytes, bytes, int, bytes, bytes]
"""A text element: the XML since the one before it, its revision's number, itself up to its digest as it stands in the
stub; size, sha1 and address of its text.

Plain tuples of plain bytes: a dump has more of them than of anything else.
"""
_Ready = tuple[int, int, bytes]
"""The length and the digest of a text as it is stored; and the text as it is written."""


@dataclass
class Tally:
    """What a text pass did."""

    revisions: int = 0
    prefetched: int = 0
    withheld: int = 0
    lost: list[Oddity] = field(default_factory=list)
    differing: list[Oddity] = field(default_factory=list)


@dataclass
class _Group:
    """Places that are filled at once, the XML behind the last of them, and what was asked for them.

    ``visible``: how many of their revisions may be shown. ``known``: texts of an earlier dump.
    """

    places: list[Place]
    tail: bytes = b""
    revisions: list[bytes] = field(default_factory=list)
    visible: Iterator[Row] | None = None
    known: Mapping[int, bytes] = field(default_factory=dict)
    texts: Iterator[tuple[bytes, Found]] = field(default_factory=lambda: iter(()))


class TextPass:
    """Fills stubs.

    :param checks_visibility: whether to look again which revisions may be shown; not needed within one snapshot.
    :param prefetch: asked before the database.
    :param retry_pause_s: before the second try of a text; doubles.
    """

    def __init__(
        self,
        rows: Rows,
        source: TextSource,
        *,
        checks_visibility: bool = True,
        prefetch: Prefetch | None = None,
        retry_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._rows = rows
        self._source = source
        self._checks = checks_visibility
        self._prefetch = prefetch
        self._pause_s = retry_pause_s
        self._lost_in_a_row = 0
        self._page_id = 0
        self.tally = Tally()

    def fill(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Chunks of stubs, cut only between pages or revisions, become chunks of the document."""
        asked: _Group | None = None
        for stubs in _batches(chunks):
            for group in self._groups(stubs):
                self._ask(group)  # its texts are on their way while those before them are written
                if asked is not None:
                    yield self._filled(asked)
                asked = group
        if asked is not None:
            yield self._filled(asked)

    def _groups(self, stubs: bytes) -> Iterator[_Group]:
        """The places of a batch, cut so that no group has more text than we hold at once."""
        places, tail = _places(stubs)
        self.tally.revisions += len({place[1] for place in places})
        for start in range(0, len(places), ADDRESSES_A_QUERY):
            for group in _cut(places[start : start + ADDRESSES_A_QUERY]):
                yield _Group(group)
        yield _Group([], tail)

    def _ask(self, group: _Group) -> None:
        if not group.places:
            return
        places = group.places
        if self._checks:
            group.revisions = list(dict.fromkeys([place[1] for place in places]))
            group.visible = self._rows.ask(f"SELECT {self._rows.number('COUNT(*)')} {_may_be_shown(group.revisions)}")
        if self._prefetch is not None:
            group.known = self._prefetched(group, self._prefetch)
            places = [place for place in places if int(place[1]) not in group.known]
        group.texts = self._source.ask(dict.fromkeys([place[5] for place in places]))

    def _filled(self, group: _Group) -> bytes:
        shown = self._shown(group)
        texts: dict[bytes, _Ready | Lost | KnownLost] = {}
        for address, found in group.texts:
            texts[address] = _ready(found) if isinstance(found, bytes) else found
        if shown is not None:  # a text that nobody may see is not waited for
            wanted = {place[5] for place in group.places if place[1] in shown}
            texts = {address: text for address, text in texts.items() if address in wanted}
        self._ask_again(texts)
        parts: list[bytes] = []
        known = group.known
        for before, revision, head, size, sha1, address in group.places:
            if shown is not None and revision not in shown:
                self.tally.withheld += 1
                parts += (before, b'<text deleted="deleted" />')
                continue
            if known and int(revision) in known:
                self.tally.prefetched += 1
                text = known[int(revision)]
            elif isinstance(ready := texts[address], tuple):
                self._lost_in_a_row = 0
                length, digest, text = ready
                if length != size or (sha1 and digest != stated_digest(sha1)):
                    self._differs(revision, size, sha1, length)
                    head = b'<text bytes="%d" sha1="%b' % (length, sha1)
            else:
                parts += (before, self._without(revision, size, sha1, ready))
                continue
            if text:
                parts += (before, head, b'" xml:space="preserve">', text, b"</text>")
            else:
                parts += (before, head, b'" xml:space="preserve" />')
        parts.append(group.tail)
        return b"".join(parts)

    def _without(self, revision: bytes, size: int, sha1: bytes, found: Lost | KnownLost) -> bytes:
        """The element of a text that cannot be had."""
        if isinstance(found, KnownLost):
            self._lost_in_a_row = 0
            return b'<text bytes="0" sha1="%b" xml:space="preserve" />' % sha1
        self.tally.lost.append(Oddity(0, int(revision), found.why))
        self._lost_in_a_row += 1
        if self._lost_in_a_row > MAX_LOST_IN_A_ROW:
            reason = f"{self._lost_in_a_row} texts in a row cannot be had; the last: {found.why}"
            raise Fault(FaultKind.DATA, f"revision {int(revision)}", reason, next_command="check the text storage")
        return b'<text bytes="%d" sha1="%b" />' % (size, sha1)

    def _differs(self, revision: bytes, size: int, sha1: bytes, length: int) -> None:
        """Note a text that is not the one on record."""
        recorded = f"{size} bytes, sha1 {sha1.decode('ascii', 'replace')}"
        why = f"its text ({length} bytes) is not what is on record ({recorded})"
        self.tally.differing.append(Oddity(0, int(revision), why))

    def _shown(self, group: _Group) -> set[bytes] | None:
        """The revisions whose text may be shown at this moment; None where all may."""
        if group.visible is None or int(next(group.visible)[0]) == len(group.revisions):
            return None
        sql = f"SELECT {self._rows.number('rev_id')} {_may_be_shown(group.revisions)}"
        return {row[0] for row in self._rows.query(sql)}

    def _prefetched(self, group: _Group, prefetch: Prefetch) -> Mapping[int, bytes]:
        counts = Counter(place[1] for place in group.places)
        wanted = {
            int(revision): (size, sha1)
            for _, revision, _, size, sha1, _ in group.places
            if sha1 and counts[revision] == 1
        }
        for before, *_ in reversed(group.places):
            if (page_id := _last_page(before)) is not None:
                self._page_id = page_id
                break
        return prefetch(wanted, (self._page_id, int(group.places[-1][1])))

    def _ask_again(self, texts: dict[bytes, _Ready | Lost | KnownLost]) -> None:
        """What cannot be had is asked for again, with growing pauses."""
        pause_s = self._pause_s
        for _ in range(TRIES - 1):
            lost = [address for address, text in texts.items() if isinstance(text, Lost)]
            if not lost or self._lost_in_a_row > 0:  # a wiki that has lost a whole range is not waited for each time
                break
            time.sleep(pause_s)
            pause_s *= 2
            for address, found in self._source.fetch(lost).items():
                texts[address] = _ready(found) if isinstance(found, bytes) else found


def _ready(text: bytes) -> _Ready:
    return len(text), digest_of(text), escape(clean(text))


def _may_be_shown(revisions: list[bytes]) -> str:
    return f"FROM revision WHERE rev_id IN ({b','.join(revisions).decode()}) AND rev_deleted % 2 = 0"


def _batches(chunks: Iterable[bytes]) -> Iterator[bytes]:
    batch: list[bytes] = []
    size_bytes = 0
    for chunk in chunks:
        batch.append(chunk)
        size_bytes += len(chunk)
        if size_bytes >= BATCH_BYTES:
            yield b"".join(batch)
            batch, size_bytes = [], 0
    yield b"".join(batch)


def _cut(places: list[Place]) -> Iterator[list[Place]]:
    """Groups with no more text than we hold at once."""
    sizes = [place[3] for place in places]
    size_bytes = first = 0
    if sum(sizes) > MAX_TEXT_BYTES_AT_ONCE:
        for at, more in enumerate(sizes):
            if at > first and size_bytes + more > MAX_TEXT_BYTES_AT_ONCE:
                yield places[first:at]
                size_bytes, first = 0, at
            size_bytes += more
    yield places[first:]


def _places(stubs: bytes) -> tuple[list[Place], bytes]:
    """The text elements of a batch that say where their text is; and the XML behind the last of them."""
    places: list[Place] = []
    found = list(_TEXTS.finditer(stubs))
    done = 0
    for text, revision in zip(found, _owners(stubs, found), strict=True):
        size, sha1, address = text.groups()
        start, end = text.span()
        if b"&" in address:
            address = unescape(address.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        head = stubs[start : start + len(size) + len(sha1) + _HEAD_BYTES]
        places.append((stubs[done:start], revision, head, int(size or 0), sha1, address))
        done = end
    return places, stubs[done:]


def _owners(stubs: bytes, texts: list[re.Match[bytes]]) -> Iterable[bytes]:
    """The number of the revision that each text element belongs to."""
    revisions: list[bytes] = _REVISIONS.findall(stubs)
    if len(revisions) == len(texts) and b"<content>" not in stubs and b"<text d" not in stubs:
        return revisions  # each has one text
    starts = [each.start() for each in _REVISIONS.finditer(stubs)]
    return [revisions[bisect(starts, text.start()) - 1] for text in texts]


def _last_page(xml: bytes) -> int | None:
    at = xml.rfind(b"  <page>\n")
    found = _PAGE.match(xml, at) if at >= 0 else None
    return int(found[1]) if found else None
