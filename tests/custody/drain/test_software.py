"""Which program wrote a WARC, as its first record says."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard

from custody.drain.software import software_of

HEAD = b"WARC/1.0\r\nContent-Length: %d\r\nWARC-Type: warcinfo\r\nWARC-Date: 2026-03-01T00:00:00Z\r\n\r\n"
NEXT = b"\r\n\r\nWARC/1.0\r\nWARC-Type: response\r\nContent-Length: 19\r\n\r\nsoftware: a page/1\r\n"


def warc(fields: bytes) -> bytes:
    return HEAD % len(fields) + fields + NEXT


@pytest.mark.parametrize(
    ("fields", "software"),
    [
        (
            b"software: Heritrix/3.4.0-20220727 http://crawler.archive.org\r\nip: 10.0.0.1\r\n",
            "Heritrix/3.4.0-20220727",
        ),
        (b"robots: obey\r\nSoftware:Zeno\r\n", "Zeno"),
        (b"software: " + b"x" * 300 + b"\r\n", "x" * 100),
        (b"software:   \r\nip: 10.0.0.1\r\n", None),
        (b"software: \xff\xfe\r\n", None),
        (b"description: no software: here\r\n", None),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_the_first_word_of_software(tmp_path: Path, pack: object, fields: bytes, software: str | None) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(pack(warc(fields)))  # type: ignore[operator]
    assert software_of(path) == software


@pytest.mark.parametrize(
    "content",
    [
        b"",
        NEXT.lstrip(),
        b"filedesc://a.arc 0.0.0.0 20260301 text/plain 20\nsoftware: x\n",
        gzip.compress(warc(b"software: x\r\n"), mtime=0)[:20],
        b"\x1f\x8bnot gzip at all",
        b"\x28\xb5\x2f\xfdnot zstd at all",
        gzip.compress(bytes(1 << 24), mtime=0),
    ],
)
def test_what_does_not_say_is_no_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(content)
    assert software_of(path) is None
    assert software_of(tmp_path / "gone") is None
