"""What Custody's sql engine does in the comparisons, as programs of their own: ``full|stub|verify|quick|find ...``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from custody.wiki_dump.bz2 import bits, pages
from custody.wiki_dump.bz2.verify import Tools, verify
from custody.wiki_dump.engine.rows import Address, opened
from custody.wiki_dump.engine.siteinfo import plain
from custody.wiki_dump.engine.stubs import StubReader
from custody.wiki_dump.engine.text import TextSource
from custody.wiki_dump.engine.textpass import TextPass


def dump(what: str, first: int, last: int) -> None:
    """Write a range of pages to nowhere, in full or as stubs."""
    words = os.environ
    user, password, port = words["WIKI_USER"], words["WIKI_PASSWORD"], int(words["WIKI_PORT"])
    address = Address(words["WIKI_DB"], None, "127.0.0.1", port, user, password)
    with opened(address) as rows, Path(os.devnull).open("wb") as out:
        rows.snapshot()
        stubs = (page.history for page in StubReader(rows, plain(address.database)).pages(first, last))
        chunks = TextPass(rows, TextSource(rows), checks_visibility=False).fill(stubs) if what == "full" else stubs
        for chunk in chunks:
            out.write(chunk)


def main() -> None:
    """Do what the arguments say."""
    what, *rest = sys.argv[1:]
    if what in {"full", "stub"}:
        dump(what, int(rest[0]), int(rest[1]))
    elif what == "verify":
        verify(Path(rest[0]), tools=Tools(lbzip2="/usr/bin/lbzip2"))
    elif what == "quick":
        bits.check_structure(Path(rest[0]))
    elif what == "find":
        assert pages.find_page(Path(rest[0]), int(rest[1])) is not None


main()
