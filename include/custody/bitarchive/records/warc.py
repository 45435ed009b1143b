"""WARC files, read by FastWARC; where it stops, by our own reader of one record, and by the search for the next one.

FastWARC says nothing of a file that is cut in its last record, and reads on past a wrong length. So the last record
before it stops, for whatever reason, is looked at again exactly; only then is the place of a damage known.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fastwarc.warc import ArchiveIterator

from custody.bitarchive.records.member import Body, Span, next_start
from custody.bitarchive.records.model import Damage, Damaged, Record
from custody.faults import Fault, FaultKind, os_errors_as_faults

_VERSION = re.compile(rb"WARC/\d+\.\d+[ \t\r]*\n", re.IGNORECASE)
CANDIDATE = re.compile(rb"\n\r?\n(WARC/\d+\.\d+[ \t\r]*\n)", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]{1,18}")
MAX_HEADERS = 1000
MAX_HEADER_BYTES = 1 << 20


def read_warc(path: Path, *, start_bytes: int = 0) -> Iterator[Record | Damage]:
    """Every record of a WARC file, plain or gzipped, and every damage.

    Faults: DATA where the file is no WARC file at all; OS errors keep their kind.
    """
    for item in iterate_warc(path, start_bytes=start_bytes):
        yield item if isinstance(item, (Record, Damage)) else _translate(item)


def iterate_warc(path: Path, *, start_bytes: int = 0) -> Iterator[Any]:
    """The same at the speed of FastWARC: its own records, our :class:`Record` where it cannot read one, and damages."""
    with os_errors_as_faults(str(path)):
        size = path.stat().st_size
        with path.open("rb") as stream:
            if start_bytes == 0:
                _require_warc(path, stream, size)
            slow = _shares_members(stream, start_bytes)
            position = start_bytes
            while position < size:
                last = None
                if not slow:
                    stream.seek(position)
                    try:
                        for record in ArchiveIterator(stream, parse_http=False):
                            last = record
                            yield record
                    except (OSError, ValueError):
                        pass  # what stopped it is found below, exactly
                position = yield from _after(path, stream, last, position)


def _shares_members(stream: BinaryIO, position: int) -> bool:
    """Whether several records lie in one gzip member: FastWARC then does not know where each begins."""
    span = Span(stream, position)
    try:
        head = read_head(span)
        Body(span, head.content_length).drain()
        _take_separator(span)
        return span.is_gzip and bool(span.peek(1))
    except Damaged:
        return False


def _after(path: Path, stream: BinaryIO, last: Any, position: int) -> Generator[Record | Damage, None, int]:
    """Say what is to be said where FastWARC stopped; returns where to go on."""
    begins = position if last is None else last.stream_pos
    try:
        if last is not None:
            end, length = _look_at(Span(stream, begins))
            if length == last.content_length:
                begins = end
            else:
                yield Damage(begins, 0, "misread")
        span = Span(stream, begins)
        yield from _records_of(span)
        return span.end_bytes
    except Damaged as damage:
        after = next_start(path, begins + 1, CANDIDATE, starts_record)
        if after > begins:
            yield Damage(begins, after - begins, str(damage))
        return after


def _require_warc(path: Path, stream: BinaryIO, size: int) -> None:
    try:
        head = Span(stream, 0).peek(4096) if size else b""
    except Damaged:
        return  # its first member is broken; the others may be whole
    if not _VERSION.match(head.lstrip(b"\r\n")):
        what = "is empty" if not size else f"is no WARC file: it begins with {head[:20]!r}"
        raise Fault(FaultKind.DATA, str(path), what, next_command="look at it with `file`, and move it aside")


def starts_record(head: bytes) -> bool:
    """Whether bytes are the start of a WARC record."""
    return bool(_VERSION.match(head)) and b":" in head


@dataclass(frozen=True)
class Head:
    """The header block of one record."""

    headers: Mapping[str, str]
    content_length: int


def read_head(span: Span) -> Head:
    """Read a record's header block. Raises Damaged where there is none.

    More forgiving than FastWARC: LF for CR LF, any case, folded lines, lines without a colon, repeated names (the first
    counts).
    """
    line = span.read_line()
    if not _VERSION.fullmatch(line):
        raise Damaged(f"no WARC record: {line[:40]!r}")
    headers: dict[str, str] = {}
    name = ""
    start = span.position
    while line := span.read_line():
        if not line.endswith(b"\n") or span.position - start > MAX_HEADER_BYTES or len(headers) > MAX_HEADERS:
            raise Damaged("a WARC header without end")
        text = line.decode("utf-8", "surrogateescape")
        if not text.strip("\r\n"):
            break
        if text[0] in " \t" and name:
            headers[name] = f"{headers[name]} {text.strip()}".strip()
            continue
        name, colon, value = text.partition(":")
        name = name.strip().lower()
        if colon:
            headers.setdefault(name, value.strip())
    length = headers.get("content-length", "")
    if not _DIGITS.fullmatch(length):
        raise Damaged(f"a WARC record without a Content-Length ({length[:20]!r})")
    return Head(headers, int(length))


def _look_at(span: Span) -> tuple[int, int]:
    """Where the next stretch begins, every record of this one looked at, and the last one's length. Raises Damaged."""
    length = -1
    for record in _records_of(span):
        length = record.content_length
    return span.end_bytes, length


def _records_of(span: Span) -> Iterator[Record]:
    """The records of one gzip member, or the one plain record that begins here."""
    offset = span.offset_bytes
    while True:
        while not span.is_gzip and span.peek(1) in {b"\r", b"\n"}:
            span.read(1)  # blank lines before a record
        if not span.peek(1):
            return
        head = read_head(span)
        body = Body(span, head.content_length)
        yield _record(offset, head.headers, head.content_length, body)
        body.drain()
        _take_separator(span)
        if not span.is_gzip or not span.peek(1):
            return


def _take_separator(span: Span) -> None:
    """Two line ends close a record; a sloppy writer's one or none is forgiven where the next record follows."""
    following = span.peek(4)
    if following == b"\r\n\r\n":
        span.read(4)
        return
    while span.peek(1) in {b"\r", b"\n"}:
        span.read(1)
    rest = span.peek(64)
    if rest and not _VERSION.match(rest):
        raise Damaged(f"its length is wrong: {rest[:20]!r} follows its end")


def _record(offset: int, headers: Mapping[str, str], length: int, content: Any) -> Record:
    return Record(
        offset_bytes=offset,
        kind=headers.get("warc-type", "").lower(),
        url=headers.get("warc-target-uri", "").strip("<>"),
        date=_digits(headers.get("warc-date", "")),
        ip=headers.get("warc-ip-address", ""),
        mime=headers.get("content-type", ""),
        content_length=length,
        content=content,
        headers=headers,
    )


def _digits(date: str) -> str:
    return "".join(sign for sign in date if sign.isascii() and sign.isdigit())[:14]


class _Reader:
    """FastWARC's reader of one record, with our exception."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def read(self, size: int = -1, /) -> bytes:
        try:
            return bytes(self._reader.read(size) if size >= 0 else self._reader.read())
        except OSError as error:
            raise Damaged(str(error)) from error


def _translate(record: Any) -> Record:
    headers: dict[str, str] = {}
    for name, value in record.headers:
        headers.setdefault(name.lower(), value)
    return _record(record.stream_pos, headers, record.content_length, _Reader(record.reader))
