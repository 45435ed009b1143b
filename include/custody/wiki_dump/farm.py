"""The wikis of a farm: who is in the lists, and what each is. A list that cannot be read stops everything."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from custody.faults import Fault, FaultKind
from custody.wiki_dump.conf import DB_NAME, SECTIONS, Conf
from custody.wiki_dump.settings import Settings


@dataclass(frozen=True)
class Wiki:
    """One wiki of the farm. ``private``: all of its output goes to the private tree."""

    name: str
    private: bool = False
    closed: bool = False
    flow: bool = False
    flagged: bool = False


@dataclass(frozen=True)
class Farm:
    """All wikis in the order of the db list."""

    wikis: tuple[Wiki, ...]

    def wiki(self, name: str) -> Wiki:
        """One of them by its db name. Faults: CONFIG."""
        for wiki in self.wikis:
            if wiki.name == name:
                return wiki
        raise Fault(FaultKind.CONFIG, f"wiki {name!r}", "is not in the db list, or in the list of those to skip")


def farm_of(conf: Conf) -> Farm:
    """Read all lists that a ``wikidump.conf`` names. Faults: CONFIG, for a misspelt section of a wiki too."""
    settings = conf.of()
    farm = read_farm(settings)
    known = {wiki.name for wiki in farm.wikis} | _skipped(settings)
    for name in unknown_sections(conf, known):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
        if near:
            reason = f"is neither a section nor a wiki of dblist; did you mean [{near[0]}]?"
            raise Fault(FaultKind.CONFIG, f"{conf.path}: [{name}]", reason)
    return farm


def unknown_sections(conf: Conf, known: Collection[str]) -> list[str]:
    """Sections that are neither built in nor a wiki's nor the chosen one: of other farms, or wrong."""
    return sorted(set(conf.sections) - set(SECTIONS) - set(known) - {conf.override or ""})


def _skipped(settings: Settings) -> set[str]:
    return {name for path in settings.skipdblist for name in read_list("wiki.skipdblist", path)}


def read_farm(settings: Settings) -> Farm:
    """Read all lists. Faults: CONFIG where one is missing or no list of db names: none is guessed to be public."""
    names = read_list("wiki.dblist", settings.dblist)
    if not settings.privatelist:
        raise Fault(
            FaultKind.CONFIG,
            "wiki.privatelist",
            "is not set, so nobody can tell which wikis are private",
            next_command="name a file with their db names, an empty one where there are none",
        )
    private = set(read_list("wiki.privatelist", settings.privatelist))
    skipped = _skipped(settings)
    closed = _optional("wiki.closedlist", settings.closedlist)
    flow = _optional("wiki.flowlist", settings.flowlist)
    flagged = _optional("wiki.flaggedrevslist", settings.flaggedrevslist)
    folded = {name.lower() for name in private}
    strange = sorted(folded - {name.lower() for name in (*names, *skipped)})
    if strange:
        near = difflib.get_close_matches(strange[0], names, n=1)
        raise Fault(
            FaultKind.CONFIG,
            f"wiki.privatelist {settings.privatelist}",
            f"names {strange[0]}, which is no wiki of dblist{f'; did you mean {near[0]}?' if near else ''}: "
            "nobody can tell which wiki is private",
            next_command="correct it, or name that wiki in a list of skipdblist",
        )
    return Farm(
        tuple(
            Wiki(name, name.lower() in folded, name in closed, name in flow, name in flagged)
            for name in dict.fromkeys(names)
            if name not in skipped
        )
    )


def read_list(key: str, path: str) -> list[str]:
    """The db names of a list: one a line, ``#`` begins a comment. Faults: CONFIG."""
    if not path:
        raise Fault(FaultKind.CONFIG, key, "is not set")
    try:
        text = Path(path).read_text("utf-8-sig")
    except OSError as error:
        raise Fault(
            FaultKind.CONFIG, f"{key} {path}", f"cannot be read ({error.strerror}); nothing is dumped"
        ) from error
    except UnicodeDecodeError as error:
        raise Fault(FaultKind.CONFIG, f"{key} {path}", "is no text; nothing is dumped") from error
    names = []
    for number, line in enumerate(text.splitlines(), 1):
        name = line.partition("#")[0].strip()
        if name and not DB_NAME.fullmatch(name):
            raise Fault(FaultKind.CONFIG, f"{key} {path}, line {number}", f"{name!r} is no db name")
        if name:
            names.append(name)
    return names


def _optional(key: str, path: str) -> set[str]:
    return set(read_list(key, path)) if path else set()
