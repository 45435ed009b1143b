"""Where records begin: whether it is here, and if not, where near here."""

from __future__ import annotations

from pathlib import Path

from custody.bitarchive.records import arc as arc_reader
from custody.bitarchive.records import warc as warc_reader
from custody.bitarchive.records.member import Span, next_start
from custody.bitarchive.records.model import Damaged

NEAR_BYTES = 4 << 20
"""How far back the nearest start is searched for."""


def starts_record_at(path: Path, offset: int, *, arc: bool) -> bool:
    """Whether a record, or the gzip member of one, begins at ``offset``."""
    module = arc_reader if arc else warc_reader
    with path.open("rb") as stream:
        span = Span(stream, offset)
        if span.is_gzip != _is_gzip(path):
            return False
        try:
            head = span.peek(4096)
        except Damaged:
            return span.is_gzip  # a member begins here, and is broken: that is another fault
    if module.starts_record(head):
        return span.is_gzip or offset == 0 or _follows_an_end(path, offset)
    return False


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return Span(stream, 0).is_gzip


def _follows_an_end(path: Path, offset: int) -> bool:
    """In plain files a record follows a line end, or the ``>`` of a page whose writer left the line end out."""
    with path.open("rb") as stream:
        stream.seek(offset - 1)
        return stream.read(1) in {b"\n", b">"}


def nearest_starts(path: Path, offset: int, *, arc: bool) -> list[int]:
    """The last start before ``offset`` and the first after it, as far as there are any near."""
    module = arc_reader if arc else warc_reader
    size = path.stat().st_size
    after = next_start(path, offset + 1, module.CANDIDATE, module.starts_record)
    before = -1
    position = max(0, offset - NEAR_BYTES)
    if position == 0:
        before = 0
        position = 1
    while (found := next_start(path, position, module.CANDIDATE, module.starts_record)) < min(offset, size):
        before, position = found, found + 1
    return [start for start in (before, after) if 0 <= start < size]
