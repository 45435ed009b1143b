"""Old runs of a wiki are let go when younger ones are proven, never before; what only an old one holds is kept."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa

from custody.faults import Fault, os_errors_as_faults
from custody.gate import Edition, RetireFacts, may_retire
from custody.ledger import CopyState, Ledger
from custody.ledger.store import disk_place, now
from custody.ledger.tables import copy as copy_table
from custody.wiki_dump import lockfile, runs, tables
from custody.wiki_dump.jobs import content_of
from custody.wiki_dump.layout import DATE, Places
from custody.wiki_dump.making import directory_of
from custody.wiki_dump.runs import FileRow, FileState, Run
from custody.wiki_dump.status import JobState, RunState, read_runinfo
from custody.wiki_dump.work import Work

HOLD = "hold"
_GOING = ".letting-go-"


def let_go(work: Work) -> list[str]:
    """Let runs beyond ``cleanup.keep`` go, after this one is complete. Returns their dates.

    One that cannot be removed stays on record, and is named in the run's log; the run is complete all the same.
    """
    run, places = work.run, work.run.places
    gone = _finish_what_was_begun(work)
    known = editions(work.ledger, run)
    for old in known:
        if old.name >= run.date:
            continue
        facts = RetireFacts(
            *(old, known, run.settings.keep),
            on_hold=(places.run(old.name) / HOLD).exists(),
            in_use=any(lock.date == old.name for lock in lockfile.find(places.private)),
        )
        verdict = may_retire(facts)
        if not verdict.allowed:
            if len(known) > run.settings.keep:
                work.log(f"{old.name} stays: {verdict}")
            continue
        with work.transaction() as connection:
            work.event(connection, "letting go", date=old.name)
        try:
            _drop_links_to(places.latest, old.name)
            for directory in _directories(places):
                _hide(directory / old.name)
            gone += _finish_what_was_begun(work)
        except Fault as fault:
            work.log(f"{old.name} could not be let go: {fault}")
            with work.transaction() as connection:
                work.event(connection, "let go", result=fault.kind, date=old.name, fault=str(fault))
    drop_dangling(places.latest)
    return sorted(set(gone))


def editions(ledger: Ledger, run: Run) -> list[Edition]:
    """Every run of a wiki that lies there, oldest first, with what is known of it at this moment."""
    on_record = _on_record(ledger, run)
    return [_edition(ledger, run.places, date, on_record.get(date), run) for date in run.places.dates()]


def _on_record(ledger: Ledger, run: Run) -> Mapping[str, Run]:
    found = runs.select(ledger, tables.run.c.wiki == run.wiki.name, limit=10_000)
    return {each.date: each for each in found if each.places.private == run.places.private}


def _edition(ledger: Ledger, places: Places, date: str, known: Run | None, current: Run) -> Edition:
    if known is None:
        return Edition(date, proven=False, holds=_holds_by_its_list(places.run(date)))
    with ledger.read() as connection:
        jobs, files = runs.jobs_of(connection, known.id), runs.files_of(connection, known.id)
    done = {job.name for job in jobs if job.state is JobState.DONE}
    is_complete = known.state is RunState.DONE or (
        known.id == current.id and all(job.state in {JobState.DONE, JobState.SKIPPED} and not job.lost for job in jobs)
    )
    published = [file for file in files if file.job in done]
    proven = is_complete and bool(published) and all(_lies_there(known, file) for file in published)
    return Edition(date, proven, frozenset(content_of(name) for name in done))


def _lies_there(run: Run, file: FileRow) -> bool:
    """Whether a file was read back, and lies there now with the size it had then."""
    if file.state is not FileState.PUBLISHED or not file.sums:
        return False
    try:
        found = (directory_of(run, file) / file.name).lstat()
    except OSError:
        return False
    return found.st_size == file.size_bytes


def _holds_by_its_list(directory: Path) -> frozenset[str]:
    """What a run that the ledger does not know says it holds."""
    try:
        jobs = read_runinfo((directory / "dumpruninfo.txt").read_text("utf-8", "replace"))
    except OSError:
        return frozenset()
    return frozenset(content_of(name) for name, state in jobs.items() if state == JobState.DONE)


def _directories(places: Places) -> list[Path]:
    """Where runs lie; the public one first, since it is what readers see."""
    return list(dict.fromkeys((places.public, places.private)))


def _hide(directory: Path) -> None:
    """Out of sight first, so that no reader finds half of it."""
    if not directory.is_dir() or directory.is_symlink():
        return
    with os_errors_as_faults(str(directory)):
        directory.rename(directory.with_name(_GOING + directory.name))


def _finish_what_was_begun(work: Work) -> list[str]:
    """Remove what is out of sight, after a kill too, and say so in the ledger. Faults: by the OS error."""
    places = work.run.places
    begun = {path.name.removeprefix(_GOING) for root in _directories(places) for path in root.glob(_GOING + "*")}
    gone = []
    for date in sorted(date for date in begun if DATE.fullmatch(date)):
        is_made_again = places.run(date).exists()
        for root in _directories(places):
            if not is_made_again:
                _hide(root / date)
            aside = root / (_GOING + date)
            if aside.is_dir() and not aside.is_symlink():
                with os_errors_as_faults(str(aside)):
                    shutil.rmtree(aside)
        if is_made_again:
            continue
        with work.transaction() as connection:
            _release(connection, [root / date for root in _directories(places)])
            work.event(connection, "let go", date=date)
        gone.append(date)
    return gone


def _release(connection: sa.engine.Connection, directories: Sequence[Path]) -> None:
    for directory in directories:
        prefix = disk_place(directory) + "/"
        connection.execute(
            sa.update(copy_table)
            .where(copy_table.c.place.startswith(prefix, autoescape=True), copy_table.c.state != CopyState.RELEASED)
            .values(state=CopyState.RELEASED, since=now())
        )


def _drop_links_to(latest: Path, date: str) -> None:
    """No link leads to what is about to go."""
    if not latest.is_dir():
        return
    for path in latest.iterdir():
        if path.is_symlink() and str(path.readlink()).startswith(f"../{date}/"):
            _drop_link(path)


def drop_dangling(latest: Path) -> None:
    """Remove links that lead nowhere, with their feeds."""
    if not latest.is_dir():
        return
    for path in latest.iterdir():
        if path.is_symlink() and not path.exists():
            _drop_link(path)


def _drop_link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(path.name + "-rss.xml").unlink(missing_ok=True)
