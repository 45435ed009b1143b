"""What is private never becomes public without a person's word: by a list that changed, or by what lies in a tree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.wiki_dump.farm import Wiki
from custody.wiki_dump.jobs import PUBLIC_TABLES
from custody.wiki_dump.layout import INPROG, Places, parse_name
from custody.wiki_dump.settings import Settings


def refuse_exposed(wiki: Wiki, settings: Settings) -> None:
    """Refuse a wiki whose trees contradict the private list, before anything is dumped.

    Faults: DATA where a private wiki lies in the public tree, NEEDS_HUMAN where one that no list calls private
    has dumps of a private wiki.
    """
    public = Path(settings.public) / wiki.name
    if wiki.private:
        if public.exists() or public.is_symlink():
            raise leak(public, "is the public directory of a private wiki")
        return
    was_private = _private_dump(Places.of(wiki, settings))
    if was_private is not None:
        raise Fault(
            FaultKind.NEEDS_HUMAN,
            str(was_private),
            f"is a dump of {wiki.name} as a private wiki, and privatelist does not name it: nothing is published",
            next_command=f"put {wiki.name} back into privatelist, or move that directory away",
        )


def _private_dump(places: Places) -> Path | None:
    """A run of a wiki that was private: its status files lie in the private tree then."""
    with os_errors_as_faults(str(places.private)):
        found = sorted(places.private.glob("[0-9]*/dumpruninfo.txt")) if places.private.is_dir() else []
    return found[-1].parent if found else None


def scan_public(wiki: Wiki, settings: Settings) -> None:
    """Look at every file of a wiki in the public tree. Faults: DATA, naming what must not be there."""
    refuse_exposed(wiki, settings)
    if wiki.private:
        return
    for path in _files_below(Path(settings.public) / wiki.name):
        found = parse_name(path.name)
        name = path.name.removesuffix(INPROG)
        if found is not None and found.kind == "sql" and found.dump not in PUBLIC_TABLES:
            raise leak(path, f"is table {found.dump}, which is not known to be public")
        if name.startswith(("exceptions-", "lock")) or name == settings.logfile:
            raise leak(path, "belongs into the private tree")


def _files_below(root: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(root):
        for name in names:
            yield Path(directory) / name


def leak(path: Path, reason: str) -> Fault:
    """Something private lies where everybody reads it."""
    return Fault(FaultKind.DATA, str(path), f"{reason}: nothing more is published", next_command=f"move {path} away")
