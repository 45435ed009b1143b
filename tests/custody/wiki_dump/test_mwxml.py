"""The reader that researchers use counts in our dumps what the wiki's own tables hold."""

from __future__ import annotations

import bz2
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import wiki_sample
from custody.wiki_dump.runs import Options
from custody.wiki_dump.whole import dump
from services.mediawiki import MediaWiki
from wiki_farm import FarmSite

pytestmark = pytest.mark.service
DATE = "20260801"
TEXT, COMMENT, USER = 1, 2, 4


def read(path: Path) -> Any:
    mwxml = pytest.importorskip("mwxml", reason="needs requirements-dev.txt")
    return mwxml.Dump.from_file(bz2.open(path))


def test_mwxml_counts_what_sql_counts(farm: FarmSite, wiki: MediaWiki) -> None:
    hidden = wiki_sample.suppress(wiki)
    farm.lists([wiki.name])
    farm.configure(sqlite_dir=str(wiki.home))
    options = Options(jobs=("metahistorybz2dump", "articlesdump"))
    dump(farm.ledger, farm.name, farm.config, who="t", wiki=wiki.name, date=DATE, options=options)
    directory = farm.public(wiki.name, DATE)
    raw = wiki_sample.Raw(wiki)
    rows = {row[0]: row[1:] for row in raw.run("SELECT rev_id, rev_page, rev_deleted, rev_minor_edit FROM revision")}
    slots = Counter(row[0] for row in raw.run("SELECT slot_revision_id FROM slots"))
    pages = {row[0]: row[1:] for row in raw.run("SELECT page_id, page_namespace, page_is_redirect FROM page")}
    raw.close()
    found: dict[int, Any] = {}
    history = read(directory / f"{wiki.name}-{DATE}-pages-meta-history.xml.bz2")
    for page in history:
        assert (page.namespace, bool(page.redirect)) == (pages[page.id][0], bool(pages[page.id][1]))
        for revision in page:
            assert revision.page.id == page.id == rows[revision.id][0]
            found[revision.id] = revision
    assert set(found) == set(rows) and {revision.page.id for revision in found.values()} == set(pages)
    for number, (_, deleted, minor) in rows.items():
        seen = found[number]
        assert seen.minor == bool(minor)
        said = (seen.deleted.text, seen.deleted.comment, seen.deleted.user)
        assert said == tuple(bool(deleted & bit) for bit in (TEXT, COMMENT, USER)), number
        assert (seen.user is None) == bool(deleted & USER) and (seen.text is None) >= bool(deleted & TEXT)
    several = {number for number, count in slots.items() if count > 1}
    assert {number for number, seen in found.items() if len(seen.slots.contents) > 1} == several == {hidden["slots"]}
    articles = read(directory / f"{wiki.name}-{DATE}-pages-articles.xml.bz2")
    counted = Counter(page.namespace for page in articles for _ in page)
    expected = Counter(space for space, _ in pages.values() if space % 2 == 0 and space != 2)
    assert counted == expected and history.site_info.dbname == wiki.name
