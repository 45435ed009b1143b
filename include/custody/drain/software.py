"""Which program wrote a WARC: the field ``software`` of the warcinfo it begins with."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import zstandard

_READ_BYTES = 64 << 10
_MAX_WORD = 100
_FIELD = re.compile(rb"^software:[ \t]*([\x21-\x7e]+)", re.IGNORECASE | re.MULTILINE)
_IS_WARCINFO = re.compile(rb"WARC/[^\r\n]*\r?\n(?:[^\r\n]+\r?\n)*?WARC-Type:[ \t]*warcinfo[ \t]*\r?\n", re.IGNORECASE)


def software_of(path: Path) -> str | None:
    """Its first word, such as ``heritrix/3.4.0``; None where the file does not begin with one, or cannot be read.

    No more than the first 64 kB are read, and no more than that is unpacked.
    """
    try:
        with path.open("rb") as stream:
            start = _unpack(stream.read(_READ_BYTES))
    except (OSError, zlib.error, zstandard.ZstdError):
        return None
    if not _IS_WARCINFO.match(start):
        return None
    end = re.search(rb"\r?\n\r?\nWARC/", start)  # where the next record begins
    found = _FIELD.search(start, 0, end.start() if end else len(start))
    return found[1][:_MAX_WORD].decode("ascii") if found else None


def _unpack(start: bytes) -> bytes:
    if start.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=31).decompress(start, _READ_BYTES)
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        with zstandard.ZstdDecompressor().stream_reader(start) as reader:
            return reader.read(_READ_BYTES)
    return start
