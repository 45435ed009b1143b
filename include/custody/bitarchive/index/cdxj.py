"""CDXJ lines of a file, byte for byte those of pywb: ``key timestamp {"url": …, "filename": …}``."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import Any

from custody.bitarchive.index.surt import surt
from custody.bitarchive.names import is_arc
from custody.bitarchive.records.arc import read_arc
from custody.bitarchive.records.member import GZIP_MAGIC
from custody.bitarchive.records.model import Damage, Damaged, Record
from custody.bitarchive.records.warc import iterate_warc

_CONTENT_TYPE = re.compile(rb"\r?\ncontent-type:[ \t]*([^\r\n]*)", re.IGNORECASE)
_STATUS = re.compile(rb"[^ ]* +([^ \r\n]*)")
_MIME_END = re.compile(r"[; ]")
_HTTP_KINDS = frozenset({"response", "request", "revisit"})
_SKIPPED = frozenset({"request", "warcinfo"})
_HEAD_BYTES = 8192
_BLOCK_BYTES = 1 << 16
_PLAIN_TEXT = re.compile(r"[ !#-\[\]-~]*")  # what JSON writes as it is


@dataclass
class Index:
    """The lines of one file, sorted as ``LC_ALL=C sort`` does, without line ends; and what could not be read."""

    lines: list[bytes] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    records: int = 0


@dataclass(slots=True)
class _Pending:
    """A line that wants its length, which is known when the next record begins."""

    offset: int
    head: str
    length: int
    end: str


def index_file(path: Path, name: str | None = None) -> Index:
    """Index one WARC or ARC file. Faults: DATA where it is no such file at all.

    :param name: what the lines call it, where not by its own name.
    """
    name = name or path.name
    index = Index()
    size = path.stat().st_size
    pending: list[_Pending] = []
    separator = _separator_bytes(path)
    end = f', "filename": {quoted(name)}}}'
    items: Iterator[Any] = read_arc(path) if is_arc(name) else iterate_warc(path)
    for item in items:
        if isinstance(item, Damage):
            pending = [line for line in pending if line.offset != item.offset_bytes]
            if item.length_bytes:
                _settle(index, pending, item.offset_bytes, separator)
                index.damages.append(item)
            continue
        offset = item.offset_bytes if isinstance(item, Record) else item.stream_pos
        if pending and pending[0].offset != offset:
            _settle(index, pending, offset, separator)
        index.records += 1
        try:
            line = _line_of_record(item) if isinstance(item, Record) else _line_of_warc(item)
        except (Damaged, OSError):
            continue  # the reader tells of it, with its place, as the next thing
        if line is not None:
            length = item.length_bytes if isinstance(item, Record) else -1
            pending.append(_Pending(offset, line, length, end))
    _settle(index, pending, size, separator)
    index.lines.sort()
    return index


def _separator_bytes(path: Path) -> int:
    """What stands between records: nothing between gzip members, two line ends in a plain WARC file."""
    with path.open("rb") as stream:
        return 0 if stream.read(3) == GZIP_MAGIC else 4


def _settle(index: Index, pending: list[_Pending], next_offset: int, separator: int) -> None:
    for line in pending:
        length = line.length if line.length >= 0 else next_offset - line.offset - separator
        text = f'{line.head}, "length": "{length}", "offset": "{line.offset}"{line.end}'
        index.lines.append(text.encode("utf-8", "surrogateescape"))
    pending.clear()


def _line_of_warc(record: Any) -> str | None:
    """The line of one of FastWARC's own records, up to length and offset."""
    headers: dict[str, str] = {}
    for name, value in record.headers:
        headers.setdefault(name.lower(), value)
    return _line(headers, record.reader, record.content_length)


def _line_of_record(record: Record) -> str | None:
    if not record.is_arc:
        return _line(record.headers, record.content, record.content_length)
    if record.kind == "filedesc":
        return None
    url = record.url.replace("\r", "%0D").replace("\n", "%0A").replace("\x0c", "%0C").replace("\x00", "%00")
    status, rest = "200", b""
    if record.holds_http:
        head, rest = _read_head(record.content)
        status = _status(head) if head else "-"
        if status == "-":
            return None
    mime = _MIME_END.split(record.mime, maxsplit=1)[0] or "unk"
    return _text(url, record.date, mime, "", status, _sha1(rest, record.content), "")


def _line(headers: Any, content: Any, length: int) -> str | None:
    kind = headers.get("warc-type", "")
    if kind in _SKIPPED:
        return None
    url = headers.get("warc-target-uri", "").strip("<>")
    content_type = headers.get("content-type", "")
    if not url or content_type == "application/warc-fields":
        return None
    status, mime, rest = "200", content_type, b""
    if kind in _HTTP_KINDS and length and url.startswith(("http:", "https:")):
        head, rest = _read_head(content)
        status = _status(head)
        found = _CONTENT_TYPE.search(head)
        mime = found[1].decode("utf-8", "replace").strip() if found else ""
        if status == "-":
            return None
    mime = "warc/revisit" if kind == "revisit" else (_MIME_END.split(mime, maxsplit=1)[0] if mime else "unk")
    if kind == "metadata" and mime == "text/anvl":
        return None
    digest = headers.get("warc-payload-digest", "").removeprefix("sha1:")
    if not digest and kind != "revisit":
        digest = _sha1(rest, content)
    return _text(
        url,
        _timestamp(headers.get("warc-date", "")),
        mime,
        headers.get("warc-identified-payload-type", ""),
        status if kind == "response" else "",
        digest,
        headers.get("warc-json-metadata", ""),
    )


def _timestamp(date: str) -> str:
    return date[0:4] + date[5:7] + date[8:10] + date[11:13] + date[14:16] + date[17:19]


def _text(url: str, timestamp: str, mime: str, detected: str, status: str, digest: str, metadata: str) -> str:
    try:
        key = surt(url)
    except ValueError:  # a port that is none: it is found under itself
        key = url.replace(" ", "%20")
    parts = []
    if metadata:
        parts.append(f'"metadata": {_quoted(metadata)}')
    parts.append(f'"url": {_quoted(url)}')
    if mime and mime != "-":
        parts.append(f'"mime": {_quoted(mime)}')
    if detected and detected != "-":
        parts.append(f'"mime-detected": {_quoted(detected)}')
    if status and status != "-":
        parts.append(f'"status": {_quoted(status)}')
    if digest and digest != "-":
        parts.append(f'"digest": {_quoted(digest)}')
    return f"{key} {timestamp} {{{', '.join(parts)}"


def _quoted(text: str) -> str:
    return f'"{text}"' if _PLAIN_TEXT.fullmatch(text) else quoted(text)


def _read_head(content: Any) -> tuple[bytes, bytes]:
    """The HTTP head (without its blank line), and what of the payload was read with it."""
    read = b""
    while block := content.read(_HEAD_BYTES):
        start = max(0, len(read) - 3)
        read += block
        end = read.find(b"\r\n\r\n", start)
        if end >= 0:
            return read[:end], read[end + 4 :]
        end = read.find(b"\n\n", start)
        if end >= 0:
            return read[:end], read[end + 2 :]
        if len(read) > 1 << 20:
            break
    return read, b""


def _status(head: bytes) -> str:
    found = _STATUS.match(head)
    status = found[1].decode("latin-1") if found else ""
    if status == "204" and b"Error" in head.split(b"\n", 1)[0]:
        return ""
    return status or ""


def _sha1(rest: bytes, content: Any) -> str:
    digest = hashlib.sha1(rest, usedforsecurity=False)
    while block := content.read(_BLOCK_BYTES):
        digest.update(block)
    return base64.b32encode(digest.digest()).decode()
