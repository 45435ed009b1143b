"""Is this WARC or ARC file whole? Checked in the same read that makes its digests.

Bytes are pushed in as they are read. Compressed members are inflated to their end (their checksums are then compared);
every record must have a header of its kind, a length, and that many bytes. Block digests (``WARC-Block-Digest``) are
compared too except in gzip files, whose members have a checksum; that of a zstd frame is optional. A file that was cut
exactly between two records cannot be told from a whole one by its own bytes: the number of records is reported for
whoever knows how many there should be.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

import zstandard
from isal import igzip_lib, isal_zlib

_SLICE_BYTES = 32 << 10
_MAX_HEADER_BYTES = 1 << 20
_LENGTH = re.compile(rb"\r?\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r?(?:\n|$)", re.IGNORECASE)
_DIGEST = re.compile(rb"\r?\nwarc-block-digest:[ \t]*sha1:([A-Z2-7]{32})[ \t]*\r?(?:\n|$)", re.IGNORECASE)
_ZSTD_DICTIONARY_MAGIC = b"\x5d\x2a\x4d\x18"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAX_DICTIONARY_BYTES = 64 << 20
_ARC_LENGTH = re.compile(rb"[0-9]{1,18}")
_INFLATE_ERRORS = (cast("type[Exception]", igzip_lib.IsalError), zstandard.ZstdError)


class Damaged(Exception):
    """What is wrong with the file, in words for a person."""


class Checker(Protocol):
    """Takes the bytes of a file in order."""

    def feed(self, block: bytes | memoryview) -> None:
        """Take the next bytes; raises Damaged at the first thing wrong."""
        ...

    def close(self) -> None:
        """Tell that this was all; raises Damaged where more should have come."""
        ...


class Records:
    """Counts records and holds each to its declared length.

    :param is_arc: ARC instead of WARC.
    :param check_digests: compare block digests (WARC only).
    """

    def __init__(self, *, is_arc: bool, check_digests: bool) -> None:
        self.count = 0
        self._is_arc = is_arc
        self._check_digests = check_digests and not is_arc
        self._header = bytearray()
        self._left = 0  # bytes of the current body still to come
        self._in_body = False
        self._sha1: hashlib._Hash | None = None
        self._expected_sha1 = b""

    def feed(self, block: bytes | memoryview) -> None:
        """Take the next uncompressed bytes."""
        view = memoryview(block)
        while view:
            view = self._body(view) if self._in_body else self._head(view)

    def close(self) -> None:
        """Tell that this was all."""
        if self._in_body:
            raise Damaged(f"cut inside record {self.count}: {self._left} bytes are missing")
        if self._header.strip(b"\r\n"):
            raise Damaged(f"cut inside the header of record {self.count + 1}")
        if not self.count:
            raise Damaged("holds no record")

    def _body(self, view: memoryview) -> memoryview:
        taken = view[: self._left]
        if self._sha1:
            self._sha1.update(taken)
        self._left -= len(taken)
        if not self._left:
            self._end_record()
        return view[len(taken) :]

    def _head(self, view: memoryview) -> memoryview:
        """Collect a header; the separator before it (CR LF CR LF, or LF for ARC) is skipped."""
        start = max(0, len(self._header) - 3)
        self._header += view
        if self._header[:1] in b"\r\n":
            self._header = bytearray(self._header.lstrip(b"\r\n"))
            start = 0
        if not self._is_arc and not b"WARC/".startswith(self._header[:5].upper()):
            raise Damaged(f"record {self.count + 1} does not start with WARC/: {bytes(self._header[:20])!r}")
        mark = b"\n" if self._is_arc else b"\r\n\r\n"
        end = self._header.find(mark, start)
        if end < 0:
            if len(self._header) > _MAX_HEADER_BYTES:
                raise Damaged(f"record {self.count + 1} has a header without end")
            return view[len(view) :]
        end += len(mark)
        rest = bytes(self._header[end:])
        head = bytes(self._header[:end])
        self._header.clear()
        self._begin_record(head)
        return memoryview(rest)

    def _begin_record(self, head: bytes) -> None:
        self.count += 1
        self._left = self._length(head)
        digest = _DIGEST.search(head) if self._check_digests else None
        if digest:
            self._sha1 = hashlib.sha1(usedforsecurity=False)
            self._expected_sha1 = digest[1].upper()
        self._in_body = True
        if not self._left:
            self._end_record()

    def _length(self, head: bytes) -> int:
        if self._is_arc:
            words = head.split()
            is_first = self.count == 1
            if len(words) < 4 or not _ARC_LENGTH.fullmatch(words[-1]) or is_first > head.startswith(b"filedesc:"):
                raise Damaged(f"record {self.count} has no ARC header line: {head[:60]!r}")
            return int(words[-1])
        length = _LENGTH.search(head)
        if not length:
            raise Damaged(f"record {self.count} has no Content-Length")
        return int(length[1])

    def _end_record(self) -> None:
        self._in_body = False
        if self._sha1:
            found = base64.b32encode(self._sha1.digest())
            self._sha1 = None
            if found != self._expected_sha1:
                raise Damaged(f"record {self.count}: its block digest is {found.decode()}, not as recorded")


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes | memoryview, /) -> bytes: ...


class Members:
    """Inflates one compressed member after another into ``records``."""

    def __init__(self, records: Records, new: Callable[[], _Decompressor]) -> None:
        self._records = records
        self._new = new
        self._current: _Decompressor | None = None
        self._offset = 0
        self._member_offset = 0

    def feed(self, block: bytes | memoryview) -> None:
        """Take the next compressed bytes, in slices: what follows a member's end is copied, so it is kept short."""
        view = memoryview(block)
        for start in range(0, len(view), _SLICE_BYTES):
            self._feed_slice(bytes(view[start : start + _SLICE_BYTES]))

    def _feed_slice(self, data: bytes) -> None:
        while data:
            if self._current is None:
                self._current = self._new()
                self._member_offset = self._offset
            try:
                inflated = self._current.decompress(data)
            except _INFLATE_ERRORS as error:
                raise Damaged(f"the compressed member at offset {self._member_offset} is broken ({error})") from error
            rest = self._current.unused_data if self._current.eof else b""
            self._offset += len(data) - len(rest)
            if self._current.eof:
                self._current = None
            data = rest
            self._records.feed(inflated)

    def close(self) -> None:
        """Tell that this was all."""
        if self._current is not None:
            raise Damaged(f"cut inside the compressed member at offset {self._member_offset}")
        self._records.close()


class ZstdFile:
    """A .warc.zst: an optional dictionary in a skippable frame, then one frame a record."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._lead = bytearray()
        self._members: Members | None = None

    def feed(self, block: bytes | memoryview) -> None:
        """Take the next compressed bytes."""
        if self._members:
            self._members.feed(block)
            return
        self._lead += block
        if len(self._lead) < 8:
            return
        used = 0
        if self._lead[:4] == _ZSTD_DICTIONARY_MAGIC:
            used = 8 + int.from_bytes(self._lead[4:8], "little")
            if used > _MAX_DICTIONARY_BYTES:
                raise Damaged(f"its zstd dictionary has {used} bytes, which cannot be right")
            if len(self._lead) < used:
                return
        try:
            decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary(bytes(self._lead[8:used])))
        except zstandard.ZstdError as error:
            raise Damaged(f"its zstd dictionary is broken ({error})") from error
        self._members = Members(self._records, decompressor.decompressobj)
        self._members.feed(memoryview(bytes(self._lead[used:])))

    def close(self) -> None:
        """Tell that this was all."""
        if not self._members:
            raise Damaged("is too short for a zstd file")
        self._members.close()


def _dictionary(content: bytes) -> zstandard.ZstdCompressionDict | None:
    """A dictionary as its frame holds it, plain or compressed; None for no content. Raises ZstdError."""
    if content[:4] == _ZSTD_MAGIC:
        if not 0 < zstandard.frame_content_size(content) <= _MAX_DICTIONARY_BYTES:
            raise zstandard.ZstdError("compressed, of unknown or impossible size")
        content = zstandard.ZstdDecompressor().decompress(content)
    return zstandard.ZstdCompressionDict(content) if content else None


def checker_for(suffix: str) -> tuple[Checker, Records]:
    """The checker of a file by its suffix, and the records it will have counted."""
    records = Records(is_arc=suffix.startswith(".arc"), check_digests=not suffix.endswith(".gz"))
    if suffix.endswith(".gz"):
        return Members(records, lambda: isal_zlib.decompressobj(31)), records
    if suffix.endswith(".zst"):
        return ZstdFile(records), records
    return records, records


def check_wacz(path: Path) -> None:
    """Read every member of a WACZ (a zip file) to its end; raises Damaged where one's checksum is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            is_wacz = "datapackage.json" in archive.namelist()
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise Damaged(f"is no whole zip file ({error})") from error
    if broken:
        raise Damaged(f"its member {broken} is broken")
    if not is_wacz:
        raise Damaged("has no datapackage.json: it is no WACZ")
