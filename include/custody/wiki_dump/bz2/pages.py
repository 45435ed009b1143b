"""Finding pages in a compressed dump without reading all of it: by bisection over its blocks.

Page numbers ascend in a dump; both page and revision numbers have 64 bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from custody.faults import Fault, FaultKind
from custody.wiki_dump.bz2.bits import Buffer, Mark, footer, last_marks, mapped, marks, next_block
from custody.wiki_dump.bz2.blocks import decompress_block

_PAGE_ID = re.compile(rb"<page>\s*<title>[^<]*</title>\s*(?:<ns>[^<]*</ns>\s*)?<id>(\d+)</id>")
_ANY_ID = re.compile(rb"<revision>\s*<id>(\d+)</id>")
_OVERLAP_BYTES = 4096


@dataclass(frozen=True)
class Position:
    """A block by its byte in the file, and the first page that begins in it."""

    offset: int
    page_id: int


def find_page(path: Path, page_id: int) -> Position | None:
    """The last block whose first page is not after ``page_id``; None where the first page already is.

    Works on a file that is cut, as far as it goes. Faults: CONFIG for a page number below 1, DATA for no bzip2 file.
    """
    if page_id < 1:
        raise Fault(FaultKind.CONFIG, f"page {page_id}", "pages are numbered from 1 on")
    with mapped(path) as data:
        _require_bzip2(data, path)
        found: Position | None = None
        seen: dict[int, Position | None] = {}
        low, high = 0, len(data)
        while low < high:
            middle = (low + high) // 2
            mark = next_block(data, middle if middle > 4 else 0)
            if mark is None or mark.byte not in seen:
                seen[-1 if mark is None else mark.byte] = _first_page_from(data, mark)
            at = seen[-1 if mark is None else mark.byte]
            if at is None or at.page_id > page_id:
                high = middle
                continue
            if found is None or at.page_id >= found.page_id:
                found = at
            low = max(at.offset, middle) + 1
        return found


def _first_page_from(data: Buffer, mark: Mark | None) -> Position | None:
    """This block or the first one after it in which a page begins."""
    tail = b""
    began: Mark | None = None
    while mark is not None:
        content = decompress_block(data, mark)
        if content is not None:
            joined = tail + content
            found = _PAGE_ID.search(joined)
            if found:
                owner = began if began is not None and found.start() < len(tail) else mark
                return Position(owner.byte, int(found[1]))
            # a page's head may lie across two blocks: it belongs to the block in which it begins
            cut = joined.rfind(b"<page>", max(0, len(joined) - _OVERLAP_BYTES))
            tail, began = (joined[cut:], mark) if cut >= 0 else (joined[-5:], mark)
        mark = next_block(data, mark.byte + 1)
    return None


def contents(data: Buffer, start: int = 0) -> Iterator[tuple[Mark, bytes]]:
    """Every readable block from a byte on, with its content."""
    mark = next_block(data, start)
    while mark is not None:
        content = decompress_block(data, mark)
        if content is not None:
            yield mark, content
        mark = next_block(data, mark.byte + 1)


def last_id(path: Path, kind: str) -> int | None:
    """The number of the last page or revision that begins in a file; None where none is found.

    :param kind: ``page`` or ``rev``.
    """
    pattern = _PAGE_ID if kind == "page" else _ANY_ID
    with mapped(path) as data:
        _require_bzip2(data, path)
        blocks = [mark for mark in last_marks(data) if not mark.is_end]
        text = b""
        end = len(data)
        while blocks:
            for mark in reversed(blocks):
                text = (decompress_block(data, mark) or b"") + text[: _OVERLAP_BYTES * 4]
                found = [int(each[1]) for each in pattern.finditer(text)]
                if found:
                    return found[-1]
            end = blocks[0].byte
            blocks = _blocks_before(data, end)
    return None


def _blocks_before(data: Buffer, end: int, window: int = 1 << 21) -> list[Mark]:
    start = end
    while start > 0:
        start = max(0, start - window)
        found = [mark for mark in marks(data, start, end) if not mark.is_end]
        if found:
            return found
    return []


def has_footer(path: Path) -> bool:
    """Whether the file ends with the end of a stream."""
    with mapped(path) as data:
        return len(data) > 4 and data[:3] == b"BZh" and footer(data) is not None


def last_block(path: Path) -> bytes | None:
    """The content of the last block that can be decompressed; None where there is none."""
    with mapped(path) as data:
        end = len(data)
        blocks = [mark for mark in last_marks(data) if not mark.is_end] if data[:3] == b"BZh" else []
        while blocks:
            for mark in reversed(blocks):
                content = decompress_block(data, mark)
                if content is not None:
                    return content
            end = blocks[0].byte
            blocks = _blocks_before(data, end)
    return None


def header_of(data: Buffer) -> bytes:
    """The document up to and with ``</siteinfo>``."""
    text = b""
    for _, content in contents(data):
        text += content
        end = text.find(b"</siteinfo>")
        if end >= 0:
            return text[: end + len(b"</siteinfo>")] + b"\n"
        if len(text) > 16 << 20:
            break
    raise Fault(FaultKind.DATA, "dump", "has no </siteinfo>: it is no MediaWiki dump, or is cut")


def from_offset(path: Path, offset: int, *, raw: bool = False) -> Iterator[bytes]:
    """The header and everything from the first page after a byte of the file on; ``raw``: from the block on."""
    with mapped(path) as data:
        _require_bzip2(data, path)
        if not raw:
            yield header_of(data)
        started, tail = raw, b""
        for _, content in contents(data, offset):
            if started:
                yield content
                continue
            text = tail + content
            at = text.find(b"  <page>\n")
            if at >= 0:
                started = True
                yield text[at:]
            else:
                tail = text[-16:]


def _require_bzip2(data: Buffer, path: Path) -> None:
    if data[:3] != b"BZh":
        raise Fault(FaultKind.DATA, str(path), "is no bzip2 file")
