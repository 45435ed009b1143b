"""Texts of an earlier dump, taken over only where revision number, length and sha1 are those on record now.

The earlier file's own words are not believed: what it holds is hashed again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from custody.faults import Fault
from custody.host import LocalHost
from custody.wiki_dump.bz2.tools import plain
from custody.wiki_dump.engine.sha1 import equals
from custody.wiki_dump.engine.textpass import Prefetch
from custody.wiki_dump.jobs import OUTPUTS
from custody.wiki_dump.layout import DumpName, parse_name
from custody.wiki_dump.making import tool
from custody.wiki_dump.runs import FileRow, Run
from custody.wiki_dump.status import JobState, read_runinfo
from custody.wiki_dump.work import Work

_BLOCK_BYTES = 1 << 20
_END = b"    </revision>\n"
_PAGE = re.compile(rb"  <page>\n    <title>[^<]*</title>\n    <ns>-?\d+</ns>\n    <id>(\d+)</id>")
_REVISION = re.compile(rb"    <revision>\n      <id>(\d+)</id>")
_TEXT = re.compile(rb'<text bytes="\d+" sha1="[^"]*" xml:space="preserve">(.*)</text>\n', re.DOTALL)


@dataclass(frozen=True)
class OldText:
    """A revision's text in an earlier dump, as it stands there: escaped."""

    page_id: int
    rev_id: int
    text: bytes


def prefetch_for(work: Work, file: FileRow, stack: ExitStack) -> Prefetch | None:
    """What an earlier good dump can give for this file; None where there is none or nobody wants it."""
    if not work.run.options.prefetch:
        return None
    paths = _earlier_files(work.run, file)
    if not paths:
        return None
    work.log(f"{file.name}: text is taken from {', '.join(path.name for path in paths)} where it is the same")
    return _Reader(work, paths).take


def _earlier_files(run: Run, file: FileRow) -> list[Path]:
    """The files of the newest run in which the same job is done, that have pages of ours, in order."""
    wanted = run.options.prefetchdate
    for date in reversed(run.places.dates()):
        if date >= run.date or (wanted is not None and date != wanted):
            continue
        directory = run.places.run(date)
        try:
            done = read_runinfo((directory / "dumpruninfo.txt").read_text("utf-8", "replace"))
        except OSError:
            continue
        if done.get(file.job) != JobState.DONE:
            continue
        found = _files_in(directory, run, date, file)
        if found:
            return found
    return []


def _files_in(directory: Path, run: Run, date: str, file: FileRow) -> list[Path]:
    dump = OUTPUTS[file.job][0]
    parsed = [(name, path) for path in sorted(directory.iterdir()) if (name := parse_name(path.name))]
    kinds = ("7z", "bz2") if run.settings.sevenzipprefetch else ("bz2",)
    for kind in kinds:
        ours = [
            (name, path)
            for name, path in parsed
            if (name.wiki, name.date, name.dump, name.compression) == (run.wiki.name, date, dump, kind)
        ]
        ranged = [(name, path) for name, path in ours if name.pages and _overlaps(name, file)]
        whole = [(name, path) for name, path in ours if not name.pages and name.part is None]
        chosen = sorted(ranged, key=lambda each: each[0].pages or (0, 0)) if ranged else whole
        if chosen:
            return [path for _, path in chosen]
    return []


def _overlaps(name: DumpName, file: FileRow) -> bool:
    assert name.pages is not None
    return name.pages[0] <= (file.last_page or 0) and name.pages[1] >= (file.first_page or 0)


class _Reader:
    """Reads earlier files once, front to back, beside the text pass."""

    def __init__(self, work: Work, paths: list[Path]) -> None:
        self._work = work
        self._texts: Iterator[OldText] = (text for path in paths for text in texts_of(self._open(path)))
        self._next: OldText | None = None
        self._ended = False

    def _open(self, path: Path) -> Iterator[bytes]:
        if path.suffix != ".7z":
            yield from plain(path)
            return
        argv = (tool(self._work.run.settings, "sevenzip"), "e", "-so", "-bd", "--", str(path))
        with LocalHost().stream(argv) as stream:
            while block := stream.read(_BLOCK_BYTES):
                yield block

    def take(self, wanted: Mapping[int, tuple[int, bytes]], last: tuple[int, int]) -> Mapping[int, bytes]:
        """See :data:`custody.wiki_dump.engine.textpass.Prefetch`."""
        found: dict[int, bytes] = {}
        while (old := self._peek()) is not None and (old.page_id, old.rev_id) <= last:
            self._next = None
            if old.rev_id in wanted and is_the_same(old.text, *wanted[old.rev_id]):
                found[old.rev_id] = old.text
        return found

    def _peek(self) -> OldText | None:
        if self._next is None and not self._ended:
            try:
                self._next = next(self._texts, None)
            except Fault as fault:  # an earlier dump that is damaged is no reason to fail: the wiki itself is asked
                self._work.log(f"no more text from earlier dumps: {fault}")
            self._ended = self._next is None
        return self._next


def is_the_same(text: bytes, size: int, sha1: bytes) -> bool:
    """Whether an escaped text is the one on record."""
    raw = text.replace(b"&lt;", b"<").replace(b"&gt;", b">").replace(b"&amp;", b"&") if b"&" in text else text
    return len(raw) == size and equals(raw, sha1)


def texts_of(chunks: Iterator[bytes]) -> Iterator[OldText]:
    """The revisions of a document that have one text, in their order; memory does not grow with a page's size."""
    rest = b""
    page_id = 0
    for chunk in chunks:
        rest += chunk
        *found, rest = rest.split(_END)
        for piece in found:
            if (page := _PAGE.search(piece)) is not None:
                page_id = int(page[1])
            revision, text = _REVISION.search(piece), _TEXT.search(piece)
            if revision is not None and text is not None and piece.count(b"<text ") == 1:
                yield OldText(page_id, int(revision[1]), text[1])
