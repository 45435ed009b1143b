"""The text pass: stubs in, the same document with its text out.

Between the two passes a revision may have been suppressed or deleted: that is looked at again before its text is given.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import unescape

from custody.faults import Fault, FaultKind
from custody.wiki_dump.engine.clean import clean, escape
from custody.wiki_dump.engine.rows import Rows, in_list
from custody.wiki_dump.engine.sha1 import equals
from custody.wiki_dump.engine.stubs import Oddity
from custody.wiki_dump.engine.text import Found, KnownLost, Lost, TextSource

BATCH_BYTES = 2 << 20
"""How much of the stubs is filled at once."""
MAX_TEXT_BYTES_AT_ONCE = 64 << 20
TRIES = 5
FIRST_PAUSE_S = 1.0
MAX_LOST_IN_A_ROW = 200

_TEXT = b'<text bytes="'
_END = b" />"
_REVISION = b"    <revision>\n      <id>"
_PAGE = re.compile(rb"  <page>\n    <title>[^<]*</title>\n    <ns>-?\d+</ns>\n    <id>(\d+)</id>\n")

Prefetch = Callable[[Mapping[int, tuple[int, bytes]], tuple[int, int]], Mapping[int, bytes]]
"""Given revision numbers with the length and sha1 they must have, escaped texts that have them.

Called in the order of the document; the second argument is the last page and revision of this call.
"""


@dataclass
class Tally:
    """What a text pass did."""

    revisions: int = 0
    prefetched: int = 0
    withheld: int = 0
    lost: list[Oddity] = field(default_factory=list)
    differing: list[Oddity] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """A text element: where it stands in the batch, whose it is, and what its text must be."""

    start: int
    end: int
    page_id: int
    rev_id: int
    size: int
    sha1: bytes
    address: bytes


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
        batch: list[bytes] = []
        size = 0
        for chunk in chunks:
            batch.append(chunk)
            size += len(chunk)
            if size >= BATCH_BYTES:
                yield from self._fill_batch(b"".join(batch))
                batch, size = [], 0
        yield from self._fill_batch(b"".join(batch))

    def _fill_batch(self, stubs: bytes) -> Iterator[bytes]:
        places = list(_places(stubs, self._page_id))
        self._page_id = places[-1].page_id if places else self._page_id
        self.tally.revisions += len({place.rev_id for place in places})
        shown = self._shown(places)
        position = 0
        for group in _groups(places):
            known = self._prefetched(group, shown)
            texts = self._fetch([place for place in group if place.rev_id in shown and place.rev_id not in known])
            parts: list[bytes] = []
            for place in group:
                parts.append(stubs[position : place.start])
                position = place.end
                if place.rev_id not in shown:
                    self.tally.withheld += 1
                    parts.append(b'<text deleted="deleted" />')
                elif place.rev_id in known:
                    parts += self._element(place, len_of=place.size, text=known[place.rev_id])
                else:
                    parts += self._resolved(place, texts[place.address])
            yield b"".join(parts)
        yield stubs[position:]

    def _element(self, place: _Place, *, len_of: int, text: bytes) -> tuple[bytes, ...]:
        head = b'<text bytes="%d" sha1="%b" xml:space="preserve"' % (len_of, place.sha1)
        return (head, b">", text, b"</text>") if text else (head, b" />")

    def _resolved(self, place: _Place, found: Found) -> tuple[bytes, ...]:
        if isinstance(found, Lost):
            self.tally.lost.append(Oddity(0, place.rev_id, found.why))
            self._lost_in_a_row += 1
            if self._lost_in_a_row > MAX_LOST_IN_A_ROW:
                reason = f"{self._lost_in_a_row} texts in a row cannot be had; the last: {found.why}"
                raise Fault(FaultKind.DATA, f"revision {place.rev_id}", reason, next_command="check the text storage")
            return (b'<text bytes="%d" sha1="%b" />' % (place.size, place.sha1),)
        self._lost_in_a_row = 0
        if isinstance(found, KnownLost):
            return self._element(place, len_of=0, text=b"")
        if len(found) != place.size or (place.sha1 and not equals(found, place.sha1)):
            recorded = f"{place.size} bytes, sha1 {place.sha1.decode()}"
            why = f"its text ({len(found)} bytes) is not what is on record ({recorded})"
            self.tally.differing.append(Oddity(0, place.rev_id, why))
        return self._element(place, len_of=len(found), text=escape(clean(found)))

    def _shown(self, places: list[_Place]) -> set[int]:
        """The revisions whose text may be shown at this moment."""
        ids = sorted({place.rev_id for place in places})
        if not self._checks:
            return set(ids)
        found: set[int] = set()
        for start in range(0, len(ids), 2000):
            part = in_list([b"%d" % rev_id for rev_id in ids[start : start + 2000]])
            sql = f"SELECT {self._rows.number('rev_id')} FROM revision WHERE rev_id IN ({part}) AND rev_deleted % 2 = 0"  # noqa: S608
            found.update(int(row[0]) for row in self._rows.query(sql))
        return found

    def _prefetched(self, places: list[_Place], shown: set[int]) -> Mapping[int, bytes]:
        if self._prefetch is None:
            return {}
        counts: dict[int, int] = {}
        for place in places:
            counts[place.rev_id] = counts.get(place.rev_id, 0) + 1
        wanted = {
            place.rev_id: (place.size, place.sha1)
            for place in places
            if place.rev_id in shown and counts[place.rev_id] == 1 and place.sha1
        }
        known = self._prefetch(wanted, (places[-1].page_id, places[-1].rev_id))
        self.tally.prefetched += len(known)
        return known

    def _fetch(self, places: list[_Place]) -> dict[bytes, Found]:
        """Texts by address; what cannot be had is asked for again, with growing pauses."""
        found = self._source.fetch(dict.fromkeys(place.address for place in places))
        pause_s = self._pause_s
        for _ in range(TRIES - 1):
            lost = [address for address, text in found.items() if isinstance(text, Lost)]
            if not lost or self._lost_in_a_row > 0:  # a wiki that has lost a whole range is not waited for each time
                break
            time.sleep(pause_s)
            pause_s *= 2
            found |= self._source.fetch(lost)
        return found


def _places(stubs: bytes, page_id: int) -> Iterator[_Place]:
    """The text elements of a batch: found by their beginning, which is no part of any escaped text."""
    before, *pieces = stubs.split(_TEXT)
    rev_id = _last_revision(before, 0)
    page_id = _last_page(before, page_id)
    start = len(before)
    for piece in pieces:
        head, _, rest = piece.partition(_END)
        values = head.split(b'"')
        length = len(_TEXT) + len(piece)
        if len(values) >= 5 and values[3] == b" location=":
            address = values[4] if b"&" not in values[4] else unescape(values[4].decode()).encode()
            end = start + len(_TEXT) + len(head) + len(_END)
            yield _Place(start, end, page_id, rev_id, int(values[0] or 0), values[2], address)
        if _REVISION in rest:
            rev_id = _last_revision(rest, rev_id)
            page_id = _last_page(rest, page_id)
        start += length


def _last_revision(piece: bytes, known: int) -> int:
    at = piece.rfind(_REVISION)
    return known if at < 0 else int(piece[at + len(_REVISION) : piece.index(b"<", at + len(_REVISION))])


def _last_page(piece: bytes, known: int) -> int:
    at = piece.rfind(b"  <page>\n")
    found = _PAGE.match(piece, at) if at >= 0 else None
    return int(found[1]) if found else known


def _groups(places: list[_Place]) -> Iterator[list[_Place]]:
    """Cut so that no group has more text than we hold at once."""
    group: list[_Place] = []
    size = 0
    for place in places:
        if group and size + place.size > MAX_TEXT_BYTES_AT_ONCE:
            yield group
            group, size = [], 0
        group.append(place)
        size += place.size
    if group:
        yield group
