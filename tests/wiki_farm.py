"""A farm of wikis in SQLite for tests, made without MediaWiki in a few milliseconds: its schema, its configuration."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from custody.ledger import Ledger
from custody.wiki_dump import farm_config
from custody.wiki_dump.farm_config import FarmConfig
from custody_demo.wiki_sample import make_sample_wiki
from empty_ledger import new_ledger

CONF = """[wiki]
dblist={home}/all.dblist
privatelist={home}/private.dblist
closedlist={home}/closed.dblist
dir=/usr/share/mediawiki
[output]
public={home}/public
private={home}/private
temp={home}/temp
webroot=https://dumps.example.org
[reporting]
adminmail=nomail
staleage=900
[otherformats]
multistream=1
{more}
"""


@dataclass
class FarmSite:
    """A farm on disk: lists, configuration, databases, trees, and a ledger."""

    home: Path
    ledger: Ledger
    name: str = "farm"

    @property
    def config(self) -> FarmConfig:
        """Its configuration, read afresh."""
        return farm_config.load(self.name)

    def configure(self, more: str = "", **keys: object) -> None:
        """Write wikidump.conf (with more sections or keys) and the configuration."""
        (self.home / "wikidump.conf").write_text(CONF.format(home=self.home, more=more))
        directory = self.home / "config/wiki_dump"
        directory.mkdir(parents=True, exist_ok=True)
        content = {"conf": str(self.home / "wikidump.conf"), "sqlite_dir": str(self.home / "db"), **keys}
        (directory / f"{self.name}.yml").write_text(yaml.safe_dump(content))

    def lists(self, wikis: Sequence[str], *, private: Sequence[str] = (), closed: Sequence[str] = ()) -> None:
        """Write the db lists."""
        for name, names in (("all", wikis), ("private", private), ("closed", closed)):
            (self.home / f"{name}.dblist").write_text("".join(f"{each}\n" for each in names))

    def add_wiki(self, name: str, *, pages: int = 12, revisions: int = 4) -> Path:
        """Make a wiki's database."""
        return make_sample_wiki(self.home / "db" / f"{name}.sqlite", pages=pages, revisions=revisions)

    def database(self, name: str) -> sqlite3.Connection:
        """A wiki's database, to be changed."""
        return sqlite3.connect(self.home / "db" / f"{name}.sqlite", isolation_level=None)

    def public(self, wiki: str, date: str = "") -> Path:
        """A wiki's public directory, or that of one of its runs."""
        return self.home / "public" / wiki / date

    def private(self, wiki: str, date: str = "") -> Path:
        """A wiki's private directory, or that of one of its runs."""
        return self.home / "private" / wiki / date


def make_farm(home: Path, ledger_url: str | None = None) -> FarmSite:
    """A farm without wikis; ``$CUSTODY_CONFIG_DIR`` must be ``home/config``."""
    home.mkdir(parents=True, exist_ok=True)
    ledger = new_ledger(ledger_url or f"sqlite:///{home}/ledger.sqlite")
    site = FarmSite(home, ledger)
    site.configure()
    site.lists([])
    return site
