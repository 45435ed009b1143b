"""What every engine gives: the pages of a wiki as stubs, and stubs filled with text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from custody.wiki_dump.engine.siteinfo import SiteInfo
from custody.wiki_dump.engine.stubs import Oddity, PageStub
from custody.wiki_dump.engine.textpass import Prefetch, Tally


class Engine(Protocol):
    """Makes the documents of one wiki."""

    site: SiteInfo
    oddities: list[Oddity]

    def snapshot(self) -> dict[str, str]:
        """Begin to see the wiki as it is now, where the engine can; what is known of that moment."""
        ...

    def pages(self) -> Iterator[PageStub]:
        """All pages, ascending."""
        ...

    def fill(self, stubs: Iterable[bytes], tally: Tally, *, prefetch: Prefetch | None = None) -> Iterator[bytes]:
        """Pages of stubs become pages with text; ``tally`` takes what could not be had."""
        ...
