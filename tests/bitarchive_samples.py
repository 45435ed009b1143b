"""Small WARC and ARC files made by hand, record by record, so that every offset is known."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared" / "data" / "warc"

PAGES = (
    ("http://www.museum.example/", "text/html", b"<h1>museum</h1>" + b"m" * 300),
    ("http://www.museum.example/logo.png", "image/png", b"\x89PNG" + bytes(range(256)) * 4),
    ("http://Archive.example:80/Index.html?b=2&a=1", "text/html", b"<h1>archive</h1>"),
    ("https://archive.example/list.txt", "text/plain", b"one\r\n\r\nWARC/0.9 is not here\n" * 9),
)


def http(mime: str, body: bytes, status: str = "200 OK") -> bytes:
    """An HTTP response."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {mime}; charset=x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def warc_record(
    url: str,
    content: bytes,
    *,
    kind: str = "response",
    number: int = 0,
    mime: str = "application/http;msgtype=response",
) -> bytes:
    """One WARC record with its separator."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{number:032x}>\r\n"
        f"WARC-Date: 2026-01-0{1 + number % 9}T10:00:00Z\r\nWARC-Target-URI: {url}\r\nWARC-IP-Address: 192.0.2.1\r\n"
        f"Content-Type: {mime}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content + b"\r\n\r\n"


def arc_record(
    url: str, content: bytes, *, number: int = 0, mime: str = "text/html", separator: bytes = b"\n"
) -> bytes:
    """One ARC record with its separator."""
    return f"{url} 192.0.2.1 2026010{1 + number % 9}100000 {mime} {len(content)}\n".encode() + content + separator


def version_block(name: str) -> bytes:
    """The first record of an ARC file."""
    text = b"1 0 InternetArchive\nURL IP-address Archive-date Content-type Archive-length\n"
    return f"filedesc://{name} 0.0.0.0 20260101100000 text/plain {len(text)}\n".encode() + text + b"\n"


@dataclass(frozen=True)
class Sample:
    """A file, and where each of its records lies: offset and length."""

    path: Path
    extents: tuple[tuple[int, int], ...]


def write_sample(path: Path, records: Sequence[bytes]) -> Sample:
    """Write records one after the other; each as a gzip member where the name ends in .gz."""
    extents, content = [], b""
    for record in records:
        stored = gzip.compress(record, mtime=0) if path.name.endswith(".gz") else record
        extents.append((len(content), len(stored)))
        content += stored
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Sample(path, tuple(extents))


def warc_records(pages: Sequence[tuple[str, str, bytes]] = PAGES) -> list[bytes]:
    """A warcinfo record and a response for each page."""
    info = warc_record("", b"software: sample\r\n", kind="warcinfo", mime="application/warc-fields")
    return [info, *(warc_record(url, http(mime, body), number=n) for n, (url, mime, body) in enumerate(pages, 1))]


def arc_records(name: str, pages: Sequence[tuple[str, str, bytes]] = PAGES) -> list[bytes]:
    """A version block and a record for each page."""
    return [
        version_block(name),
        *(arc_record(url, http(mime, body), number=n, mime=mime) for n, (url, mime, body) in enumerate(pages, 1)),
    ]


def sample(path: Path) -> Sample:
    """A sample of the kind its name says."""
    is_arc = ".arc" in path.name
    return write_sample(path, arc_records(path.name) if is_arc else warc_records())
