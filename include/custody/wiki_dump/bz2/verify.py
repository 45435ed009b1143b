"""Reading a whole dump file back: hashed and decompressed in one read, its content counted and judged.

What old tools miss is found: a flipped bit in the middle, a multistream file that lacks its last streams, a document
with its closing tag but without its pages.
"""

from __future__ import annotations

import bz2
import fcntl
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import xxhash
from isal import isal_zlib

from custody.digests import BLOCK_BYTES, Fixity, Hasher, blocks, reading
from custody.faults import Fault, FaultKind
from custody.wiki_dump.bz2.bits import footer, mapped
from custody.wiki_dump.commands import Command, Feed, Pipeline

SUMS = ("md5", "sha1", "sha256")
_PAGE = b"\n  <page>\n"
_PAGE_HEAD = re.compile(rb"\n  <page>\n    <title>[^<]*</title>\n    <ns>-?\d+</ns>\n    <id>(\d+)</id>")
_REVISION = b"\n    <revision>\n"
_LOG_ITEM = re.compile(rb"\n  <logitem>\n    <id>(\d+)</id>")
_TAIL_BYTES = 8192
_SQL_TRAILER = b"-- Dump completed"
_BROKEN: tuple[type[Exception], ...] = (OSError, ValueError, zlib.error, isal_zlib.error)  # type: ignore[assignment]


@dataclass(frozen=True)
class Content:
    """What was counted in a document. ``body``: xxh128 of the text between head and closing tag, empty for others."""

    size_bytes: int
    pages: int = 0
    revisions: int = 0
    first_page: int = 0
    last_page: int = 0
    log_items: int = 0
    body: str = ""


@dataclass(frozen=True)
class Verified:
    """A file that was read to its end and found whole."""

    fixity: Fixity
    content: Content


class Judge(Protocol):
    """Takes a decompressed stream and says what it is, or what is wrong with it."""

    def take(self, block: bytes) -> None:
        """The next bytes."""
        ...

    def verdict(self, subject: str) -> Content:
        """At the end. Faults: DATA."""
        ...


class XmlJudge:
    """A MediaWiki document: head, pages in ascending order, closing tag as the very last thing, no NUL."""

    def __init__(self) -> None:
        self._tail = b""
        self._in_head = True
        self._head = b""
        self._wrong = ""
        self._body = xxhash.xxh3_128()
        self._size = self._pages = self._revisions = self._logs = 0
        self._first = self._last = self._last_log = 0

    def take(self, block: bytes) -> None:
        """See :class:`Judge`."""
        self._size += len(block)
        if b"\0" in block:
            self._wrong = self._wrong or "holds NUL bytes"
        if self._in_head:
            self._head += block
            end = self._head.find(b"</siteinfo>\n")
            if end < 0:
                if len(self._head) > 16 << 20:
                    self._wrong = self._wrong or "has no </siteinfo>"
                return
            if not self._head.startswith(b"<mediawiki"):
                self._wrong = self._wrong or "does not begin with <mediawiki"
            block, self._head, self._in_head = self._head[end + 11 :], self._head[: end + 12], False
        self._count(block)

    def _count(self, block: bytes) -> None:
        text = self._tail + block
        end = len(text) - _TAIL_BYTES  # what stays back: the closing tag, and the head of a page that goes on
        if end > 0:
            self._scan(text, end)
            self._body.update(text[:end])
            text = text[end:]
        self._tail = text

    def _scan(self, text: bytes, end: int) -> None:
        """Count what begins before ``end``."""
        self._revisions += text.count(_REVISION, 0, end + len(_REVISION) - 1)
        at = text.find(_PAGE, 0, end + len(_PAGE) - 1)
        while at >= 0:
            head = _PAGE_HEAD.match(text, at)
            if head is None:
                self._wrong = self._wrong or "holds a page without title or number"
                break
            self._see_page(int(head[1]))
            at = text.find(_PAGE, at + 1, end + len(_PAGE) - 1)
        at = text.find(b"\n  <logitem>\n", 0, end + 13)
        while at >= 0:
            item = _LOG_ITEM.match(text, at)
            number = int(item[1]) if item else 0
            if number <= self._last_log:
                self._wrong = self._wrong or f"log item {number} comes after {self._last_log}"
            self._logs, self._last_log = self._logs + 1, number
            at = text.find(b"\n  <logitem>\n", at + 1, end + 13)

    def _see_page(self, page_id: int) -> None:
        if page_id <= self._last:
            self._wrong = self._wrong or f"page {page_id} comes after {self._last}"
        self._first = self._first or page_id
        self._last = page_id
        self._pages += 1

    def verdict(self, subject: str) -> Content:
        """See :class:`Judge`."""
        if self._in_head:
            raise _bad(subject, self._wrong or "has no </siteinfo>: it is empty or cut")
        tail = self._tail.removesuffix(b"\n")
        if not tail.endswith(b"\n</mediawiki>"):
            raise _bad(subject, "does not end with </mediawiki>")
        self._scan(self._tail, len(self._tail))
        self._body.update(tail[: -len(b"</mediawiki>")])
        if self._wrong:
            raise _bad(subject, self._wrong)
        digest = self._body.hexdigest()
        return Content(self._size, self._pages, self._revisions, self._first, self._last, self._logs, digest)


class LinesJudge:
    """Text: not empty, no NUL, its last line ended; of a table's dump, the line that says it was completed."""

    def __init__(self, *, is_sql: bool = False, may_be_empty: bool = False) -> None:
        self._is_sql, self._may_be_empty = is_sql, may_be_empty
        self._size = 0
        self._tail = b""
        self._nul = False

    def take(self, block: bytes) -> None:
        """See :class:`Judge`."""
        self._size += len(block)
        self._tail = (self._tail + block)[-512:]

    def verdict(self, subject: str) -> Content:
        """See :class:`Judge`."""
        if not self._size and self._may_be_empty:
            return Content(0)
        if not self._size:
            raise _bad(subject, "is empty")
        if not self._tail.endswith(b"\n"):
            raise _bad(subject, "is cut: its last line has no end")
        if self._is_sql and not self._tail.splitlines()[-1].startswith(_SQL_TRAILER):
            raise _bad(subject, "is cut: it does not say that it was completed")
        return Content(self._size)


def judge_for(name: str) -> Judge:
    """The judge of a file by its name."""
    name = name.removesuffix(".inprog")
    stem = name.rpartition(".")[0]
    if re.search(r"\.xml(-p\d+p\d+)?$", stem) and "abstract" not in stem:
        return XmlJudge()
    is_index = stem.endswith("-multistream-index.txt")  # of a wiki without articles it is empty
    return LinesJudge(is_sql=stem.endswith(".sql"), may_be_empty=is_index)


@dataclass(frozen=True)
class Tools:
    """Programs that decompress; None where it is done here."""

    lbzip2: str | None = None
    sevenzip: str | None = None


def verify(path: Path, *, tools: Tools | None = None, name: str | None = None) -> Verified:
    """Read a whole file once: digests of its bytes, and its content decompressed and judged. Faults: DATA, CONFIG."""
    tools = tools or Tools()
    name = (name or path.name).removesuffix(".inprog")
    judge = judge_for(name)
    hasher = Hasher(SUMS)
    if name.endswith(".7z"):
        _read_7z(path, hasher, judge, tools)
    elif name.endswith(".bz2") and tools.lbzip2:
        _read_piped(path, hasher, judge, tools.lbzip2)
        with mapped(path) as data:
            if footer(data) is None:  # lbzip2 says nothing of bytes behind the end
                raise _bad(str(path), "has something behind its end, or is cut")
    else:
        with reading(path) as descriptor:
            for plain in decompressed(_hashed(descriptor, hasher), name, str(path)):
                judge.take(plain)
    return Verified(hasher.fixity(), judge.verdict(str(path)))


def _hashed(descriptor: int, hasher: Hasher) -> Iterator[bytes]:
    for block in blocks(descriptor):
        hasher.update(block)
        yield bytes(block)


def decompressed(raw: Iterator[bytes], name: str, subject: str) -> Iterator[bytes]:
    """The content of a gz or bz2 stream of any number of members; of another file, its bytes. Faults: DATA."""
    if name.endswith(".bz2"):
        return _members(raw, bz2.BZ2Decompressor, subject)
    if name.endswith(".gz"):
        return _members(raw, lambda: isal_zlib.decompressobj(wbits=31), subject)
    return raw


def _members(raw: Iterator[bytes], make: Callable[[], Any], subject: str) -> Iterator[bytes]:
    engine = make()
    fresh, anything = True, False
    for block in raw:
        data = block
        while data:
            try:
                plain = engine.decompress(data)
            except _BROKEN as error:
                raise _bad(subject, f"cannot be decompressed ({error})") from error
            anything, fresh = True, False
            if plain:
                yield plain
            if not engine.eof:
                break
            data = engine.unused_data
            engine, fresh = make(), True
    if not fresh or not anything:
        raise _bad(subject, "is cut" if anything else "is empty")


def _read_piped(path: Path, hasher: Hasher, judge: Judge, lbzip2: str) -> None:
    """All cores decompress while we hash what goes in and judge what comes out."""
    source, target = os.pipe()
    with suppress(OSError):
        fcntl.fcntl(target, fcntl.F_SETPIPE_SZ, BLOCK_BYTES)
    errors: list[BaseException] = []

    def pump() -> None:
        try:
            out = Path(f"/dev/fd/{target}")
            with reading(path) as descriptor, Feed(Pipeline((Command((lbzip2, "-dc")),), out)) as feed:
                for block in blocks(descriptor):
                    hasher.update(block)
                    feed.write(bytes(block))
        except BaseException as error:
            errors.append(error)
        finally:
            os.close(target)

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        while block := os.read(source, BLOCK_BYTES):
            judge.take(block)
    finally:
        os.close(source)
        thread.join()
    if errors:
        error = errors[0]
        if isinstance(error, Fault) and error.kind is FaultKind.DATA:
            raise _bad(str(path), f"cannot be decompressed ({error.reason})") from error
        raise error


def _read_7z(path: Path, hasher: Hasher, judge: Judge, tools: Tools) -> None:
    if not tools.sevenzip:
        raise Fault(FaultKind.CONFIG, "tools.sevenzip", "is needed to read .7z files back", next_command="install 7zip")
    with reading(path) as descriptor:
        for block in blocks(descriptor):
            hasher.update(block)
    from custody.host import LocalHost

    try:
        with LocalHost().stream((tools.sevenzip, "e", "-so", "-bd", "-t7z", "--", str(path))) as stream:
            while plain := stream.read(BLOCK_BYTES):
                judge.take(plain)
    except Fault as fault:
        if fault.kind is FaultKind.DATA:
            raise _bad(str(path), f"cannot be decompressed ({fault.reason})") from fault
        raise


def _bad(subject: str, reason: str) -> Fault:
    return Fault(FaultKind.DATA, subject, reason, next_command="make this file again")
