"""What a reader hands out: records, and damages with their place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

MAX_HTTP_HEAD_BYTES = 1 << 20
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+(\d{3})")


class Damaged(Exception):
    """Bytes that are no record, in words for a person."""


class Content(Protocol):
    """The content of a record as it is read; valid until the next record is asked for."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, at most ``size``; empty at the end. Raises Damaged where the file is broken."""
        ...


@dataclass(frozen=True)
class Damage:
    """A stretch of a file that holds no whole record.

    One that begins where the record handed out before it begins takes that record back: it was found broken only when
    it had been read to its end. One of length 0 is no damage: the record before it was misread, and comes again.

    :param offset_bytes: where it begins in the file.
    :param length_bytes: up to the next whole record, or the end of the file.
    :param reason: what is wrong there.
    """

    offset_bytes: int
    length_bytes: int
    reason: str


@dataclass(frozen=True)
class Http:
    """The head of an HTTP response or request.

    :param status: three digits, or empty where there is none.
    :param headers: the last value of each name, names in lower case.
    :param head_bytes: how many bytes came before the payload.
    """

    status: str
    headers: Mapping[str, str]
    head_bytes: int

    @property
    def mime(self) -> str:
        """Type and subtype in lower case, without parameters; empty where not said."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(slots=True)
class Record:
    """One record.

    :param offset_bytes: where it (or its gzip member) begins in the file.
    :param kind: WARC-Type in lower case; of ARC ``filedesc`` for the version block, else ``response``.
    :param date: 14 digits, UTC, or empty.
    :param mime: the record's own content type, as written.
    :param headers: as written, by name in lower case; of ARC the fields of its line.
    :param content: the block: HTTP head and payload of a response.
    :param length_bytes: of head and content in an ARC file that is not compressed; else -1.
    """

    offset_bytes: int
    kind: str
    url: str
    date: str
    ip: str
    mime: str
    content_length: int
    content: Content
    headers: Mapping[str, str] = field(default_factory=dict)
    is_arc: bool = False
    length_bytes: int = -1

    @property
    def holds_http(self) -> bool:
        """Whether the content begins with an HTTP head."""
        if self.is_arc:
            return self.kind == "response" and self.url.startswith(("http:", "https:"))
        return self.mime.replace(" ", "").lower().startswith("application/http")

    def read_http(self) -> Http:
        """Read the HTTP head; what :attr:`content` then still holds is the payload (see :func:`split_http`)."""
        http, rest = split_http(self.content)
        self.content = _Joined(rest, self.content)
        return http


class _Joined:
    """Bytes already read, then the rest."""

    def __init__(self, head: bytes, rest: Content) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int = -1, /) -> bytes:
        if not self._head:
            return self._rest.read(size)
        if size < 0:
            head, self._head = self._head, b""
            return head + self._rest.read()
        head, self._head = self._head[:size], self._head[size:]
        return head


def split_http(content: Content) -> tuple[Http, bytes]:
    """Take the HTTP head off a content; returns it and the bytes of the payload that were read with it.

    Where there is no HTTP head at all, everything is payload.
    """
    read = bytearray()
    end = length = -1
    while end < 0 and len(read) < MAX_HTTP_HEAD_BYTES:
        block = content.read(8192)
        if not block:
            break
        start = max(0, len(read) - 3)
        read += block
        end, length = _head_end(read, start)
    if end < 0:  # a head without payload, or no head
        end, length = len(read), 0
    head = bytes(read[:end])
    status = _STATUS.match(head)
    if not status and not re.match(rb"[A-Z]{3,10} \S+ HTTP/", head):
        return Http("", {}, 0), bytes(read)
    return Http(status[1].decode() if status else "", _headers(head), end + length), bytes(read[end + length :])


def _head_end(read: bytearray, start: int) -> tuple[int, int]:
    """Where the blank line is and how long it is; -1 where there is none yet."""
    crlf, lf = read.find(b"\r\n\r\n", start), read.find(b"\n\n", start)
    if crlf >= 0 and (lf < 0 or crlf < lf):
        return crlf, 4
    return (lf, 2) if lf >= 0 else (-1, 0)


def _headers(head: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in head.splitlines()[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found[name.strip().lower().decode("latin-1")] = value.strip().decode("latin-1")
    return found
