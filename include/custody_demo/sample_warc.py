"""Write small, valid, repeatable WARC files: ISO 28500 records, one gzip member each, with true digests."""

from __future__ import annotations

import base64
import gzip
import hashlib
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

_WORDS = (  # noqa: SIM905
    "archive bucket byte capture copy crawl custody digest disk domain file harvest index keeper letter library "
    "manifest mirror museum newspaper page proof record reel robot seed series shelf tape town website witness"
).split()


@dataclass(frozen=True)
class Capture:
    """One page or picture as it came over the wire."""

    url: str
    content_type: str
    body: bytes


def sha1_label(data: bytes) -> str:
    """Return the digest the way WARC headers carry it: sha1:BASE32."""
    return f"sha1:{base64.b32encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()}"


def write_warc(
    path: Path,
    *,
    dice: random.Random,
    size_bytes: int,
    started: datetime,
    warcinfo: dict[str, str],
    compress_level: int = 6,
) -> None:
    """Write a WARC of at least `size_bytes` compressed bytes (about one capture more): warcinfo, then captures.

    Each capture is a response, its request and a metadata record. The same dice give the same records.
    """
    moment = started
    with path.open("wb") as out:
        fields = "".join(f"{name}: {value}\r\n" for name, value in warcinfo.items()).encode()
        info_id = _record_id(dice)
        out.write(
            _record(
                "warcinfo",
                info_id,
                moment,
                {"WARC-Filename": path.name.removesuffix(".open")},
                "application/warc-fields",
                fields,
                level=compress_level,
            )
        )
        while out.tell() < size_bytes:
            moment += timedelta(milliseconds=dice.randint(20, 900))
            capture = _capture(dice, most_bytes=max(2_000, min(200_000, size_bytes // 8)))
            for record in _capture_records(dice, capture, moment, info_id, compress_level):
                out.write(record)


def _capture(dice: random.Random, *, most_bytes: int) -> Capture:
    host = f"www.{dice.choice(_WORDS)}-{dice.choice(_WORDS)}.example"
    if dice.random() < 0.5:
        return Capture(
            f"http://{host}/{dice.choice(_WORDS)}.jpg",
            "image/jpeg",
            b"\xff\xd8\xff\xe0" + dice.randbytes(dice.randint(1_000, most_bytes)),
        )
    text = " ".join(dice.choices(_WORDS, k=dice.randint(200, 2_000)))
    html = f"<!DOCTYPE html>\n<html><head><title>{host}</title></head><body><p>{text}</p></body></html>\n"
    return Capture(f"http://{host}/{dice.randrange(100_000)}/", "text/html; charset=utf-8", html.encode())


def _capture_records(
    dice: random.Random, capture: Capture, moment: datetime, info_id: str, level: int
) -> Iterator[bytes]:
    host = capture.url.split("/")[2]
    address = f"192.0.2.{dice.randint(1, 254)}"
    response_id = _record_id(dice)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {capture.content_type}\r\nContent-Length: {len(capture.body)}\r\n\r\n"
    common = {"WARC-Target-URI": capture.url, "WARC-Warcinfo-ID": info_id}
    yield _record(
        "response",
        response_id,
        moment,
        {**common, "WARC-IP-Address": address, "WARC-Payload-Digest": sha1_label(capture.body)},
        "application/http; msgtype=response",
        head.encode() + capture.body,
        level=level,
    )
    request = f"GET /{capture.url.split('/', 3)[3]} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sample-crawler\r\n\r\n"
    yield _record(
        "request",
        _record_id(dice),
        moment,
        {**common, "WARC-Concurrent-To": response_id},
        "application/http; msgtype=request",
        request.encode(),
        level=level,
    )
    yield _record(
        "metadata",
        _record_id(dice),
        moment,
        {**common, "WARC-Concurrent-To": response_id},
        "application/warc-fields",
        f"via: http://{host}/\r\nhopsFromSeed: {dice.choice(['L', 'LL', 'LE', 'P'])}\r\n".encode(),
        level=level,
    )


def _record(
    kind: str, record_id: str, moment: datetime, named: dict[str, str], content_type: str, block: bytes, *, level: int
) -> bytes:
    headers = {
        "WARC-Type": kind,
        "WARC-Record-ID": record_id,
        "WARC-Date": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        **named,
        "WARC-Block-Digest": sha1_label(block),
        "Content-Type": content_type,
        "Content-Length": str(len(block)),
    }
    head = "WARC/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    return gzip.compress(head.encode() + block + b"\r\n\r\n", level, mtime=0)


def _record_id(dice: random.Random) -> str:
    return f"<urn:uuid:{uuid.UUID(int=dice.getrandbits(128), version=4)}>"
