"""The wikis of a farm: who is in the lists, and what each is. A list that cannot be read stops everything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from custody.faults import Fault, FaultKind
from custody.wiki_dump.conf import DB_NAME
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
    skipped = {name for path in settings.skipdblist for name in read_list("wiki.skipdblist", path)}
    closed = _optional("wiki.closedlist", settings.closedlist)
    flow = _optional("wiki.flowlist", settings.flowlist)
    flagged = _optional("wiki.flaggedrevslist", settings.flaggedrevslist)
    folded = {name.lower() for name in private}
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
