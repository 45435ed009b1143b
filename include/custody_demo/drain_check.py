"""Where every sample file is after a drain, by md5: disks and places are read; nothing Custody says is believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from custody_demo.sample_disk import Fate, SampleDisk, SampleFile, md5_of


@dataclass(frozen=True)
class Place:
    """Somewhere copies go: what it is called, how a sentence says that a file is there, and its plain files."""

    name: str
    where: str  # "in the object store"
    folder: Path


@dataclass(frozen=True)
class Found:
    """Where one sample file is now: on the disk, and in each place by the place's name; no `problem`: all is well."""

    file: SampleFile
    on_disk: tuple[Path, ...]
    stored: Mapping[str, tuple[Path, ...]]
    problem: str


def look(disk: SampleDisk, places: Sequence[Place]) -> list[Found]:
    """Find every file of a disk by reading the disk and all its places: no ledger and no marker file is asked."""
    on_disk = _by_md5(disk.root)
    in_places = [(place, _by_md5(place.folder)) for place in places]
    return [
        _judge(each, on_disk.get(each.md5, ()), [(place, found.get(each.md5, ())) for place, found in in_places])
        for each in disk.files
    ]


def _judge(file: SampleFile, on_disk: tuple[Path, ...], copies: Sequence[tuple[Place, tuple[Path, ...]]]) -> Found:
    stored = {place.name: tuple(path for path in paths if path.name == file.name) for place, paths in copies}
    if file.fate is Fate.DRAINED:
        problem = _problem_of_drained(on_disk, [(place, stored[place.name]) for place, _ in copies])
    else:
        problem = _problem_of_kept(file, on_disk, copies)
    return Found(file, on_disk, stored, problem)


def _problem_of_drained(on_disk: tuple[Path, ...], stored: Sequence[tuple[Place, tuple[Path, ...]]]) -> str:
    missing = [f"not {place.where}" for place, paths in stored if not paths]
    twice = [f"{len(paths)} times {place.where}" for place, paths in stored if len(paths) > 1]
    if missing and not on_disk:
        gone = "and not on the disk: LOST" if len(missing) == len(stored) else "but gone from the disk"
        return f"{' and '.join(missing)} with its md5, {gone}"
    if missing:
        return f"{' and '.join(missing)} with its md5"
    if on_disk:
        return f"{' and '.join(place.where for place, _ in stored)}, but still on the disk: {on_disk[0]}"
    return " and ".join(twice)


def _problem_of_kept(
    file: SampleFile, on_disk: tuple[Path, ...], copies: Sequence[tuple[Place, tuple[Path, ...]]]
) -> str:
    for place, paths in copies:
        if paths:
            return f"should have stayed, but is {place.where}: {paths[0]}"
    if not on_disk:
        return "should have stayed on the disk, and is gone: LOST"
    if file.fate is Fate.CUT:
        return f"not put aside: {file.path}" if file.path in on_disk else ""
    return "" if file.path in on_disk else f"should not have been touched, but is now {on_disk[0]}"


def _by_md5(root: Path) -> dict[str, tuple[Path, ...]]:
    found: dict[str, tuple[Path, ...]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            digest = md5_of(path)
            found[digest] = (*found.get(digest, ()), path)
    return found


def table_of_series(found: Sequence[Found]) -> Table:
    """Show for each place which items lie there, and how much of the sample files is in them."""
    items: dict[str, dict[str, list[int]]] = {}
    for each in found:
        for place, paths in each.stored.items():
            for path in paths:
                items.setdefault(place, {}).setdefault(path.parent.name, []).append(each.file.size_bytes)
    table = Table(title="What arrived where (look for yourself: md5sum)")
    for heading in ("series", "files", "MB"):
        table.add_column(heading, justify="left" if heading == "series" else "right", overflow="fold")
    for place, series in items.items():
        table.add_row(f"[bold]{place}[/]")
        for item, sizes in sorted(series.items()):
            table.add_row(f"  {item}", str(len(sizes)), f"{sum(sizes) / 1e6:.1f}")
        table.add_section()
    return table


def table_of_fates(found_by_disk: Mapping[str, Sequence[Found]]) -> Table:
    """Show for each disk what its files were, where they should be and where they are."""
    table = Table(title="Every sample file, looked for on its disk and in every place by its md5")
    for heading in ("what it was", "files", "MB", "where it should be", "where it is"):
        table.add_column(heading, justify="right" if heading in ("files", "MB") else "left")
    for disk, found in found_by_disk.items():
        table.add_row(f"[bold]{disk}[/]")
        for fate, meaning in _MEANING.items():
            group = [each for each in found if each.file.fate is fate]
            counts = Counter(_whereabouts(each) for each in group)
            size_mb = sum(each.file.size_bytes for each in group) / 1e6
            where = ", ".join(f"{count} {place}" for place, count in counts.items())
            colour = "red" if any(each.problem for each in group) else "green"
            table.add_row(f"  {fate.value}", str(len(group)), f"{size_mb:.1f}", meaning, f"[{colour}]{where}[/]")
        table.add_section()
    return table


_MEANING = {
    Fate.DRAINED: "proven elsewhere",
    Fate.OPEN: "untouched: still open",
    Fate.CUT: "put aside: damaged",
    Fate.UNMATCHED: "untouched: no crawl's",
}


def _whereabouts(found: Found) -> str:
    places = [name for name, paths in found.stored.items() if paths]
    if found.on_disk and found.file.path not in found.on_disk and not places:
        return "put aside"
    return " + ".join([*places, *(["disk"] if found.on_disk else [])]) or "NOWHERE"
