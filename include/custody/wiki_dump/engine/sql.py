"""The engine ``sql``: reads MediaWiki's tables itself and writes the documents itself, one snapshot for all stubs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from custody.wiki_dump.access import Access
from custody.wiki_dump.engine.rows import Rows, opened
from custody.wiki_dump.engine.siteinfo import SiteInfo
from custody.wiki_dump.engine.stubs import Oddity, PageStub, StubReader
from custody.wiki_dump.engine.text import TextSource
from custody.wiki_dump.engine.textpass import Prefetch, Tally, TextPass
from custody.wiki_dump.farm_config import FarmConfig


class SqlEngine:
    """See :class:`custody.wiki_dump.engine.base.Engine`."""

    def __init__(self, rows: Rows, site: SiteInfo, farm: FarmConfig, access: Access, stack: ExitStack) -> None:
        self.rows, self.site, self.oddities = rows, site, list[Oddity]()
        self._farm, self._access, self._stack = farm, access, stack
        self._stores: dict[str, Rows] = {}

    def snapshot(self) -> dict[str, str]:
        """See :class:`Engine`."""
        return self.rows.snapshot()

    def pages(self) -> Iterator[PageStub]:
        """See :class:`Engine`."""
        return StubReader(self.rows, self.site, oddities=self.oddities).pages()

    def fill(self, stubs: Iterable[bytes], tally: Tally, *, prefetch: Prefetch | None = None) -> Iterator[bytes]:
        """See :class:`Engine`."""
        source = TextSource(self.rows, cluster=self._store, legacy_encoding=self._farm.legacy_encoding)
        passing = TextPass(self.rows, source, prefetch=prefetch)
        passing.tally = tally
        return passing.fill(stubs)

    def _store(self, name: str) -> Rows:
        """An external store, opened once. Faults: CONFIG where it is not configured."""
        if name not in self._stores:
            address = self._access.store(self._farm, name)
            self._stores[name] = self._stack.enter_context(opened(address))
        return self._stores[name]


@contextmanager
def sql_engine(wiki: str, site: SiteInfo, farm: FarmConfig, access: Access) -> Iterator[SqlEngine]:
    """An engine on a wiki's database. Faults: those of the database."""
    with ExitStack() as stack:
        rows = stack.enter_context(opened(access.address(wiki)))
        yield SqlEngine(rows, site, farm, access, stack)
