"""What mwbzutils did with dumps, as functions: pages cut out and counted, checksums of blocks listed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from custody.digests import BLOCK_BYTES
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.wiki_dump.bz2.bits import fold, mapped, marks
from custody.wiki_dump.bz2.pages import find_page, header_of
from custody.wiki_dump.bz2.verify import decompressed
from custody.wiki_dump.engine.siteinfo import FOOTER

_PAGE_END = b"</page>\n"
_HEAD = re.compile(rb"\s*<page>\s*<title>([^<]*)</title>\s*(?:<ns>[^<]*</ns>\s*)?<id>(\d+)</id>")
_SIZE = re.compile(rb"<text [^>]*?\bbytes=\"(\d+)\"")


@dataclass(frozen=True)
class Page:
    """A page of a dump as it stands there."""

    page_id: int
    title: bytes
    xml: bytes

    @property
    def revisions(self) -> int:
        """How many revisions it has."""
        return self.xml.count(b"<revision>\n")

    @property
    def text_bytes(self) -> int:
        """The sizes its revisions state, summed."""
        return sum(int(size) for size in _SIZE.findall(self.xml))


def plain(path: Path, start: int = 0) -> Iterator[bytes]:
    """The content of a dump file, plain or compressed."""
    with os_errors_as_faults(str(path)), path.open("rb") as stream:
        stream.seek(start)
        yield from decompressed(iter(lambda: stream.read(BLOCK_BYTES), b""), path.name, str(path))


def split(chunks: Iterable[bytes], subject: str) -> Iterator[bytes | Page]:
    """A document: its head as bytes, then its pages. Faults: DATA where it is no dump or is cut."""
    rest, has_head = b"", False
    for chunk in chunks:
        rest += chunk
        if not has_head:
            at = rest.find(b"</siteinfo>\n")
            if at < 0:
                continue
            yield rest[: at + 12]
            rest, has_head = rest[at + 12 :], True
        *found, rest = rest.split(_PAGE_END)
        for xml in found:
            yield _page(xml + _PAGE_END, subject)
    if not has_head or not rest.strip().startswith(FOOTER.strip()):
        raise Fault(FaultKind.DATA, subject, "is no whole MediaWiki dump: head or closing tag is missing")


def _page(xml: bytes, subject: str) -> Page:
    found = _HEAD.match(xml)
    if found is None:
        raise Fault(FaultKind.DATA, subject, f"holds a page without title or number: {xml[:80]!r}")
    return Page(int(found[2]), found[1], xml)


def pages(path: Path) -> Iterator[Page]:
    """All pages of a dump file."""
    return (each for each in split(plain(path), str(path)) if isinstance(each, Page))


def up_to_page(path: Path, first: int, end: int) -> Iterator[bytes]:
    """A dump with the pages from ``first`` on and before ``end``. Faults: CONFIG for numbers below 1."""
    if first < 1 or end < first:
        raise Fault(FaultKind.CONFIG, f"pages {first} to {end}", "is no range: pages are numbered from 1 on")
    if path.suffix == ".bz2" and find_page(path, first) is not None:
        yield from _from_block(path, first, end)
        return
    for each in split(plain(path), str(path)):
        if isinstance(each, bytes):
            yield each
        elif first <= each.page_id < end:
            yield each.xml
        elif each.page_id >= end:
            break
    yield FOOTER


def _from_block(path: Path, first: int, end: int) -> Iterator[bytes]:
    """From the block on in which the page lies: what comes before it is not decompressed."""
    from custody.wiki_dump.bz2.pages import contents

    at = find_page(path, first)
    assert at is not None
    with mapped(path) as data:
        yield header_of(data)
        rest = b""
        for _, content in contents(data, at.offset):
            rest += content
            start = rest.find(b"  <page>\n")
            if start < 0:
                rest = rest[-16:]
                continue
            *found, rest = rest[start:].split(_PAGE_END)
            for xml in found:
                page = _page(xml + _PAGE_END, str(path))
                if page.page_id >= end:
                    yield FOOTER
                    return
                if page.page_id >= first:
                    yield page.xml
    yield FOOTER


def checksums(path: Path) -> Iterator[tuple[int, int, int, bool]]:
    """Of each block and end of stream: byte, bit, checksum, whether it is an end. Faults: DATA where one is wrong."""
    with mapped(path) as data:
        combined = 0
        for mark in marks(data):
            if mark.is_end and mark.crc != combined:
                raise Fault(FaultKind.DATA, str(path), f"the stream that ends at byte {mark.byte} has another checksum")
            combined = 0 if mark.is_end else fold(combined, mark.crc)
            yield mark.byte, mark.shift, mark.crc, mark.is_end
