"""The engine mediawiki: a real MediaWiki's own scripts make the same documents as the engine sql."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

import wiki_sample
import wiki_xml
from custody.faults import Fault, FaultKind
from custody.wiki_dump.runs import Options
from custody.wiki_dump.status import RunState
from custody.wiki_dump.whole import dump
from services.mediawiki import MediaWiki
from wiki_farm import FarmSite

pytestmark = pytest.mark.service
DATE = "20260801"
TEXTS = ("pages-articles", "pages-meta-current", "pages-meta-history")


def configure(farm: FarmSite, wiki: MediaWiki, **keys: object) -> None:
    farm.lists([wiki.name])
    farm.configure(sqlite_dir=str(wiki.home), **keys)


def run_one(farm: FarmSite, wiki: MediaWiki, date: str) -> Path:
    options = Options(skipjobs=("metahistory7zdump",), prefetch=False)
    _, state = dump(farm.ledger, farm.name, farm.config, who=date, wiki=wiki.name, date=date, options=options)
    assert state is RunState.DONE
    return farm.public(wiki.name, date)


def documents(directory: Path, wiki: str, date: str) -> dict[str, bytes]:
    found = {name: bz2.decompress((directory / f"{wiki}-{date}-{name}.xml.bz2").read_bytes()) for name in TEXTS}
    for kind in ("history", "current"):
        name = f"stub-meta-{kind}"
        found[name] = gzip.decompress((directory / f"{wiki}-{date}-{name}.xml.gz").read_bytes())
    return found


def test_both_engines_make_the_same_documents_from_one_wiki(farm: FarmSite, wiki: MediaWiki) -> None:
    header = wiki.dump("--full", "--stub")
    site = _answer(header)
    (farm.home / "siteinfo").mkdir()
    (farm.home / f"siteinfo/{wiki.name}.json").write_text(json.dumps(site))
    configure(farm, wiki, siteinfo_dir=str(farm.home / "siteinfo"))
    sql = documents(run_one(farm, wiki, "20260701"), wiki.name, "20260701")
    assert sql["pages-meta-history"] == wiki.dump("--full")
    assert sql["stub-meta-history"] == header
    configure(farm, wiki, engine="mediawiki", local_settings=str(wiki.settings))
    theirs = documents(run_one(farm, wiki, DATE), wiki.name, DATE)
    for name in ("stub-meta-history", "stub-meta-current"):
        assert theirs[name] == sql[name]
    for name in TEXTS:  # their text pass drops carriage returns and writes quotes as entities
        assert canonical(theirs[name]) == canonical(sql[name])


def canonical(document: bytes) -> bytes:
    tree = wiki_xml.parse(document.replace(b"\r", b""))
    for text in tree.iter("{*}text"):  # of an empty text it leaves out how its blanks are to be kept
        text.attrib.pop("{http://www.w3.org/XML/1998/namespace}space", None)
    return etree.tostring(tree, method="c14n")


def _answer(document: bytes) -> dict[str, Any]:
    from custody.wiki_dump.engines import _as_answer
    from wiki_xml import site_of

    return json.loads(_as_answer(site_of(document)))


def test_a_text_that_mediawiki_leaves_empty_counts_as_lost(farm: FarmSite, wiki: MediaWiki) -> None:
    raw = wiki_sample.Raw(wiki)
    raw.run("DELETE FROM text WHERE old_id = 2")
    raw.close()
    configure(farm, wiki, engine="mediawiki", local_settings=str(wiki.settings))
    options = Options(jobs=("metahistorybz2dump",))
    run, state = dump(farm.ledger, farm.name, farm.config, who="x", wiki=wiki.name, date=DATE, options=options)
    assert state is RunState.PARTIAL
    exceptions = farm.private(wiki.name, DATE) / f"exceptions-{wiki.name}-{DATE}-pages-meta-history.xml.bz2.txt"
    assert "MediaWiki gave none of its" in exceptions.read_text()
    assert run.farm.engine == "mediawiki"


def test_a_script_that_is_missing_or_fails_is_named(farm: FarmSite, wiki: MediaWiki) -> None:
    configure(farm, wiki, engine="mediawiki", local_settings="/nowhere/LocalSettings.php")
    with pytest.raises(Fault) as caught:
        run_one(farm, wiki, DATE)
    assert caught.value.kind in {FaultKind.DATA, FaultKind.CONFIG} and "php" in str(caught.value)
