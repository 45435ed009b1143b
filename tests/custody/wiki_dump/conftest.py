"""Wikis for the tests of the room: real MediaWikis, filled once a session."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import wiki_sample
from services.databases import DatabaseServer
from services.mediawiki import MediaWiki, install
from wiki_farm import FarmSite, make_farm


@pytest.fixture(scope="session")
def _sample_home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="custody-wiki-", dir="/tmp"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def filled_wiki(_sample_home: Path) -> MediaWiki:
    """A filled wiki in SQLite; copy it with ``wiki_copy`` before changing it."""
    wiki = install(_sample_home / "filled")
    wiki_sample.fill(wiki)
    return wiki


@pytest.fixture
def wiki(filled_wiki: MediaWiki, tmp_path: Path) -> MediaWiki:
    """A filled wiki in SQLite of the test's own."""
    home = tmp_path / "wiki"
    shutil.copytree(filled_wiki.home, home)
    settings = home / "LocalSettings.php"
    settings.write_text(settings.read_text().replace(str(filled_wiki.home), str(home)))
    address = filled_wiki.address
    return MediaWiki(home, filled_wiki.name, type(address)(address.database, home / f"{address.database}.sqlite"))


@pytest.fixture(scope="session")
def mariadb_wiki(mariadb: DatabaseServer, _sample_home: Path) -> MediaWiki:
    """A filled wiki on MariaDB: not to be changed."""
    wiki = install(_sample_home / "maria", mariadb=mariadb.new_database())
    wiki_sample.fill(wiki)
    return wiki


@pytest.fixture(params=["sqlite", pytest.param("mariadb", marks=pytest.mark.service)])
def any_wiki(request: pytest.FixtureRequest) -> MediaWiki:
    """A filled wiki on SQLite and on MariaDB in turn."""
    return request.getfixturevalue("wiki" if request.param == "sqlite" else "mariadb_wiki")


@pytest.fixture
def farm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FarmSite]:
    """A farm without wikis, and its ledger."""
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path / "farm/config"))
    site = make_farm(tmp_path / "farm")
    yield site
    site.ledger.close()
