"""Every key of ``wikidump.conf``: its section, its default, its kind, and whether a wiki may have its own value."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def _key(section: str, default: Any, *, star: bool = False, kind: str = "") -> Any:
    return field(default=default, metadata={"section": section, "star": star, "kind": kind})


@dataclass(frozen=True)
class Settings:
    """The checked values for one wiki. Lists are tuples; a path is text as it stood, never empty where it is needed."""

    # [wiki]
    dblist: str = _key("wiki", "")
    skipdblist: tuple[str, ...] = _key("wiki", ())
    privatelist: str = _key("wiki", "")
    closedlist: str = _key("wiki", "")
    flowlist: str = _key("wiki", "")
    flaggedrevslist: str = _key("wiki", "")
    biglist: str = _key("wiki", "")
    forcenormal: bool = _key("wiki", False)
    halt: bool = _key("wiki", False)
    dir: str = _key("wiki", "", star=True)
    tablejobs: str = _key("wiki", "")
    apijobs: str = _key("wiki", "")
    multiversion: str = _key("wiki", "")
    # [output]
    public: str = _key("output", "/dumps/public")
    private: str = _key("output", "/dumps/private")
    temp: str = _key("output", "/dumps/temp")
    webroot: str = _key("output", "http://localhost/dumps")
    index: str = _key("output", "index.html")
    perdumpindex: str = _key("output", "index.html")
    templatedir: str = _key("output", "")
    logfile: str = _key("output", "dumplog.txt")
    fileperms: int = _key("output", 0o640, kind="octal")
    # [reporting]
    adminmail: str = _key("reporting", "root@localhost")
    mailfrom: str = _key("reporting", "root@localhost")
    smtpserver: str = _key("reporting", "localhost")
    staleage: int = _key("reporting", 3600)
    batchjobsstaleage: int = _key("reporting", 3600)
    skipprivatetables: bool = _key("reporting", False)
    # [database]
    user: str = _key("database", "")
    password: str = field(default="", repr=False, metadata={"section": "database", "kind": "secret"})
    max_allowed_packet: str = _key("database", "16M", star=True)
    client_config_file: str = _key("database", "")
    # [tools]
    php: str = _key("tools", "/usr/bin/php", kind="tool")
    gzip: str = _key("tools", "/usr/bin/gzip", kind="tool")
    bzip2: str = _key("tools", "/usr/bin/bzip2", kind="tool")
    lbzip2: str = _key("tools", "/usr/bin/lbzip2", kind="tool")
    sevenzip: str = _key("tools", "/usr/bin/7za", kind="tool")
    dd: str = _key("tools", "/usr/bin/dd", kind="tool")
    mysql: str = _key("tools", "/usr/bin/mysql", kind="tool")
    mysqldump: str = _key("tools", "/usr/bin/mysqldump", kind="tool")
    head: str = _key("tools", "/usr/bin/head", kind="tool")
    tail: str = _key("tools", "/usr/bin/tail", kind="tool")
    cat: str = _key("tools", "/usr/bin/cat", kind="tool")
    grep: str = _key("tools", "/usr/bin/grep", kind="tool")
    checkforbz2footer: str = _key("tools", "/usr/local/bin/checkforbz2footer", kind="tool")
    dumplastbz2block: str = _key("tools", "/usr/local/bin/dumplastbz2block", kind="tool")
    writeuptopageid: str = _key("tools", "/usr/local/bin/writeuptopageid", kind="tool")
    revsperpage: str = _key("tools", "/usr/local/bin/revsperpage", kind="tool")
    recompressxml: str = _key("tools", "/usr/local/bin/recompressxml", kind="tool")
    # [cleanup]
    keep: int = _key("cleanup", 3, star=True)
    # [chunks]
    chunksEnabled: bool = _key("chunks", False, star=True)
    pagesPerChunkHistory: tuple[int, ...] = _key("chunks", (), star=True, kind="ints")
    revsPerChunkHistory: tuple[int, ...] = _key("chunks", (), star=True, kind="ints")
    pagesPerChunkAbstract: tuple[int, ...] = _key("chunks", (), star=True, kind="ints")
    chunksForAbstract: int = _key("chunks", 0, star=True)
    chunksForPagelogs: int = _key("chunks", 0, star=True)
    logitemsPerPagelogs: int = _key("chunks", 0, star=True)
    recombineMetaCurrent: bool = _key("chunks", True, star=True)
    recombineHistory: bool = _key("chunks", True, star=True)
    checkpointTime: int = _key("chunks", 0, star=True)
    jobsperbatch: tuple[str, ...] = _key("chunks", (), star=True)
    revsPerJob: int = _key("chunks", 1_000_000, star=True)
    revsMargin: int = _key("chunks", 100, star=True)
    maxrevbytes: int = _key("chunks", 35_000_000_000, star=True)
    retryWait: int = _key("chunks", 30, star=True)
    lbzip2threads: int = _key("chunks", 0, star=True)
    revinfostash: bool = _key("chunks", False, star=True)
    contentbatchesEnabled: bool = _key("chunks", False, star=True)
    testsleep: int = _key("chunks", 0, star=True)
    # [otherformats]
    multistream: bool = _key("otherformats", False, star=True)
    # [query]
    queryfile: str = _key("query", "wikiquery.sql")
    # [stubs]
    minpages: int = _key("stubs", 1, star=True)
    maxrevs: int = _key("stubs", 50_000, star=True)
    # [misc]
    fixeddumporder: bool = _key("misc", False)
    sevenzipprefetch: bool = _key("misc", False)
    lbzip2forhistory: bool = _key("misc", False)
    maxRetries: int = _key("misc", 3, star=True)
    skipjobs: tuple[str, ...] = _key("misc", ("sitelistdump",), star=True)

    def frozen(self) -> dict[str, Any]:
        """What goes on record for a run: every value but secrets."""
        return {
            each.name: list(value) if isinstance(value := getattr(self, each.name), tuple) else value
            for each in fields(self)
            if each.metadata["kind"] != "secret"
        }

    @classmethod
    def thaw(cls, frozen: dict[str, Any]) -> Settings:
        """The settings of a run, as they were frozen; a key that a newer version added has its default."""
        known = {each.name for each in fields(cls)}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in frozen.items()
        }
        return cls(**{name: value for name, value in values.items() if name in known})


def by_section() -> dict[str, dict[str, str]]:
    """Section, then key in lower case, then the name of the field here."""
    found: dict[str, dict[str, str]] = {}
    for each in fields(Settings):
        found.setdefault(each.metadata["section"], {})[each.name.lower()] = each.name
    return found
