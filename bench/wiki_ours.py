"""What Custody's sql engine does in the comparisons, as programs of their own: ``full|stub|text|pack|verify|...``."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from custody.digests import BLOCK_BYTES
from custody.wiki_dump.bz2 import bits, pages
from custody.wiki_dump.bz2.verify import Tools, decompressed, verify
from custody.wiki_dump.engine.rows import Address, Rows, opened
from custody.wiki_dump.engine.siteinfo import FOOTER, plain
from custody.wiki_dump.engine.stubs import StubReader
from custody.wiki_dump.engine.text import TextSource
from custody.wiki_dump.engine.textpass import TextPass


@contextmanager
def wiki() -> Iterator[Rows]:
    """The wiki that the environment names, as it is now."""
    words = os.environ
    user, password, port = words["WIKI_USER"], words["WIKI_PASSWORD"], int(words["WIKI_PORT"])
    with opened(Address(words["WIKI_DB"], None, "127.0.0.1", port, user, password)) as rows:
        rows.snapshot()
        yield rows


def stubs(rows: Rows, first: int, last: int) -> Iterator[bytes]:
    """Stubs of a range of pages."""
    return (page.history for page in StubReader(rows, plain("benchwiki")).pages(first, last))


def filled(rows: Rows, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Stubs with their text; what was suppressed since they were made is looked up."""
    return TextPass(rows, TextSource(rows)).fill(chunks)


def of_file(path: Path) -> Iterator[bytes]:
    """The stubs that an earlier run wrote."""
    with path.open("rb") as stream:
        yield from decompressed(iter(lambda: stream.read(BLOCK_BYTES), b""), path.name, str(path))


def write(chunks: Iterable[bytes], path: str) -> None:
    """Write to a file, compressed with gzip if its name says so."""
    with gzip.open(path, "wb", 3) if path.endswith(".gz") else Path(path).open("wb") as out:
        for chunk in chunks:
            out.write(chunk)


def pack(source: Path, target: Path) -> None:
    """Stubs with their text, as a bz2 file of a dump."""
    from custody.wiki_dump.making import Making
    from custody.wiki_dump.settings import Settings

    header = plain("benchwiki").header()
    with wiki() as rows, Making(target).bz2_document(Settings(lbzip2threads=2), header, FOOTER) as sink:
        for chunk in filled(rows, of_file(source)):
            sink.write(chunk)


def main() -> None:
    """Do what the arguments say."""
    what, *rest = sys.argv[1:]
    if what in {"full", "stub"}:
        with wiki() as rows, wiki() as others:  # as two tasks of a run have it
            chunks = stubs(rows, int(rest[0]), int(rest[1]))
            write(filled(others, chunks) if what == "full" else chunks, rest[2])
    elif what == "text":
        with wiki() as rows:
            write(filled(rows, of_file(Path(rest[0]))), rest[1])
    elif what == "pack":
        pack(Path(rest[0]), Path(rest[1]))
    elif what == "verify":
        verify(Path(rest[0]), tools=Tools(lbzip2="/usr/bin/lbzip2"))
    elif what == "quick":
        bits.check_structure(Path(rest[0]))
    elif what == "find":
        assert pages.find_page(Path(rest[0]), int(rest[1])) is not None


main()
