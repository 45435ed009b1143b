"""ARC files, read by their declared lengths.

A record is a line (``url ip date mime length``, or the ten fields of version 2), that many bytes, and a line feed that
some writers leave out. URLs and types hold blanks in real files, so a line is taken apart from its right end. What
looks like a record within a body is body.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from custody.bitarchive.records.member import Body, Span, next_start
from custody.bitarchive.records.model import Damage, Damaged, Record
from custody.faults import Fault, FaultKind, os_errors_as_faults

_SCHEME = rb"[A-Za-z][A-Za-z0-9+.-]{0,30}:"
_FIELDS = rb"(?P<url>%s\S(?:[^\r\n]*\S)?|%s) (?P<ip>[0-9A-Fa-f.:]+|-) (?P<date>[0-9]{8,17}|-) (?P<mime>[^\r\n]*?) " % (
    _SCHEME,
    _SCHEME + rb"//",
)
_LINE_1 = re.compile(_FIELDS + rb"(?P<length>[0-9]{1,18})\r?\n")
_LINE_2 = re.compile(_FIELDS + rb"(?:[0-9]{3}|-) \S+ \S+ [0-9-]+ \S+ (?P<length>[0-9]{1,18})\r?\n")
_SHORT_BLOCK = re.compile(rb"(?P<url>filedesc://\S*) - - (?:- )?(?P<length>[0-9]{1,18})\r?\n")
CANDIDATE = re.compile(
    rb"[\n>](%s[^\r\n]{0,9000} [0-9A-Fa-f.:-]+ [0-9]{8,17} [^\r\n]{0,300} [0-9]{1,18}\r?\n)" % _SCHEME
)


def read_arc(path: Path, *, start_bytes: int = 0) -> Iterator[Record | Damage]:
    """Every record of an ARC file, plain or gzipped, the version block among them, and every damage.

    :param start_bytes: begin at this offset, which is the start of a record.
    Faults: DATA where the file is no ARC file at all; OS errors keep their kind.
    """
    with os_errors_as_faults(str(path)):
        size = path.stat().st_size
        with path.open("rb") as stream:
            if start_bytes == 0:
                _require_arc(path, stream, size)
            position = begins = start_bytes
            while position < size:
                span = Span(stream, position)
                begins = position
                try:
                    if span.is_gzip:
                        yield from _records_of_member(span)
                        position = span.end_bytes
                        continue
                    while _skip_separators(span):
                        begins = span.end_bytes
                        yield from _one_record(span, begins)
                    position = size
                except Damaged as damage:
                    position = next_start(path, begins + 1, CANDIDATE, starts_record)
                    yield Damage(begins, position - begins, str(damage))


def _require_arc(path: Path, stream: BinaryIO, size: int) -> None:
    """A file whose first bytes are no version block and no record line is no ARC file."""
    try:
        head = Span(stream, 0).peek(4096) if size else b""
    except Damaged:
        return  # its first member is broken; the others may be whole
    if not starts_record(head):
        what = "is empty" if not size else f"is no ARC file: it begins with {head[:20]!r}"
        raise Fault(FaultKind.DATA, str(path), what, next_command="look at it with `file`, and move it aside")


def starts_record(head: bytes) -> bool:
    """Whether bytes are the start of an ARC record."""
    return bool(_LINE_1.match(head) or _LINE_2.match(head) or _SHORT_BLOCK.match(head))


def _skip_separators(span: Span) -> bool:
    """Skip line ends; returns whether anything follows."""
    while (following := span.peek(1)) in {b"\n", b"\r"}:
        span.read(1)
    return bool(following)


def _records_of_member(span: Span) -> Iterator[Record]:
    """Commonly one; some writers compressed a whole file as one member."""
    while True:
        yield from _one_record(span, span.offset_bytes)
        if not _skip_separators(span):
            return


def _one_record(span: Span, offset_bytes: int) -> Iterator[Record]:
    line = span.read_line()
    found = _LINE_2.fullmatch(line) or _LINE_1.fullmatch(line) or _SHORT_BLOCK.fullmatch(line)
    if not found:
        raise Damaged(f"no ARC record line: {line[:60]!r}")
    fields = {name: value.decode("utf-8", "surrogateescape") for name, value in found.groupdict().items()}
    body = Body(span, int(fields["length"]))
    url = fields["url"]
    yield Record(
        offset_bytes=offset_bytes,
        kind="filedesc" if url.startswith("filedesc:") else "response",
        url=url,
        date=fields.get("date", "").strip("-")[:14],
        ip=fields.get("ip", "").strip("-"),
        mime=fields.get("mime", ""),
        content_length=body.left,
        content=body,
        headers=fields,
        is_arc=True,
        length_bytes=-1 if span.is_gzip else len(line) + body.left,
    )
    body.drain()
