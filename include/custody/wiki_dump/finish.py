"""The end of a run: latest links and feeds, old runs let go, the tree looked through, lock and lease given back."""

from __future__ import annotations

import html
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.utils import format_datetime
from pathlib import Path

import sqlalchemy as sa

from custody import lease
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.gate import Verdict
from custody.ledger import CopyState, Ledger
from custody.ledger.store import disk_place, now, place_key
from custody.ledger.tables import copy as copy_table
from custody.publish import fsync_directory, write_atomic
from custody.wiki_dump import claim, lockfile, runs, shelf
from custody.wiki_dump.jobs import PUBLIC_TABLES
from custody.wiki_dump.layout import INPROG, parse_name
from custody.wiki_dump.runs import ROOM, FileRow, FileState, Run
from custody.wiki_dump.status import JobState, RunState
from custody.wiki_dump.work import Work

HOLD = "hold"


def outcome(ledger: Ledger, run_id: int) -> RunState:
    """What became of a run, by its jobs: done, partial or failed."""
    with ledger.read() as connection:
        jobs = runs.jobs_of(connection, run_id)
    states = {job.state for job in jobs}
    if states <= {JobState.DONE, JobState.SKIPPED} and JobState.DONE in states:
        return RunState.PARTIAL if any(job.lost for job in jobs) else RunState.DONE
    return RunState.PARTIAL if JobState.DONE in states else RunState.FAILED


def finish(work: Work) -> RunState:
    """Links, feeds, retention and the final look through the tree. Faults: DATA where something private is public."""
    run = work.run
    scan_public(run)
    state = outcome(work.ledger, run.id)
    update_latest(work)
    if state is RunState.DONE:
        let_go(work)
    with work.transaction() as connection:
        runs.set_run(connection, run.id, state=state)
        work.event(connection, "finished", result="done" if state is RunState.DONE else str(state))
    shelf.write_status(work.ledger, run.id)
    shutil.rmtree(run.places.temp_run(run.date), ignore_errors=True)
    return state


def give_back(ledger: Ledger, run_id: int, *, owner: str) -> RunState:
    """End a run however it ended: its state settled, its lock removed, its lease free. Safe to call again."""
    run = runs.load(ledger, run_id)
    if run.owner != owner:
        return run.state  # somebody else has it: its lock is his
    held = lease.Lease(run.lease_name, run.token, run.owner, run.changed_at)
    try:
        with ledger.begin() as connection:
            lease.check(connection, held)
            if not run.state.is_over:
                state = _left_behind(ledger, run_id)
                runs.set_run(connection, run_id, state=state)
                detail = {"state": str(state)}
                ledger.record_event(
                    connection, who=owner, room=ROOM, what="gave up", subject=run.subject, result="data", detail=detail
                )
    except Fault as fault:
        if fault.kind is FaultKind.CONFLICT:
            return runs.load(ledger, run_id).state  # somebody else has it: its lock is his
        raise
    shelf.write_status(ledger, run_id)
    lockfile.remove(run.places.lock(run.date))
    lease.give_back(ledger, held)
    return runs.load(ledger, run_id).state


def _left_behind(ledger: Ledger, run_id: int) -> RunState:
    state = outcome(ledger, run_id)
    return RunState.PARTIAL if state is RunState.DONE else state


# -- latest ----------------------------------------------------------------------------------------------------------


def update_latest(work: Work) -> int:
    """Let ``latest`` point to the newest published file of every name, and to nothing that is not there."""
    run = work.run
    latest = run.places.latest
    with os_errors_as_faults(str(latest)):
        latest.mkdir(exist_ok=True)
    count = 0
    for file in _published(work):
        title = _latest_name(run, file.name)
        _link(latest / title, f"../{run.date}/{file.name}")
        feed = _feed(run, file, latest / title)
        write_atomic(latest / f"{title}-rss.xml", feed.encode(), mode=run.settings.fileperms)
        count += 1
    for algorithm in ("md5", "sha1", "sha256"):
        name = f"{run.wiki.name}-{run.date}-{algorithm}sums.txt"
        if (run.places.run(run.date) / name).exists():
            _link(latest / f"{run.wiki.name}-latest-{algorithm}sums.txt", f"../{run.date}/{name}")
    _drop_dangling(latest)
    fsync_directory(latest)
    return count


def _published(work: Work) -> list[FileRow]:
    with work.ledger.read() as connection:
        files = runs.files_of(connection, work.run.id)
    return [file for file in files if file.state is FileState.PUBLISHED and (not file.private or work.run.wiki.private)]


def _latest_name(run: Run, name: str) -> str:
    prefix = f"{run.wiki.name}-{run.date}-"
    return f"{run.wiki.name}-latest-{name.removeprefix(prefix)}"


def _link(path: Path, target: str) -> None:
    """Swap a relative link, so that readers see the old one or the new one. A newer run's link stays."""
    try:
        there = str(path.readlink())
    except OSError:
        there = ""
    if there == target or (there and path.exists() and there > target):
        return
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.replace(path)


def _drop_dangling(latest: Path) -> None:
    for path in latest.iterdir():
        if path.is_symlink() and not path.exists():
            path.unlink()
            path.with_name(path.name + "-rss.xml").unlink(missing_ok=True)


def _feed(run: Run, file: FileRow, link: Path) -> str:
    url = f"{run.settings.webroot.rstrip('/')}/{run.wiki.name}/{run.date}"
    address = html.escape(f"{url}/{file.name}")
    title = html.escape(link.name)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<rss version="2.0">\n<channel>\n'
        f"<title>{title}</title>\n<link>{html.escape(url)}</link>\n"
        f"<description>Dump updates for {html.escape(run.wiki.name)}</description>\n"
        f"<item>\n<title>{html.escape(url)}</title>\n<link>{html.escape(url)}</link>\n"
        f'<description>&lt;a href="{address}"&gt;{html.escape(file.name)}&lt;/a&gt;</description>\n'
        f"<pubDate>{format_datetime(now(), usegmt=True)}</pubDate>\n</item>\n</channel>\n</rss>\n"
    )


# -- retention -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OldRun:
    """A run that might be let go. ``good``: complete; ``held``: a person has put a file ``hold`` into it."""

    date: str
    good: bool
    held: bool
    locked: bool


def may_let_go(old: OldRun, all_runs: Sequence[OldRun], keep: int) -> Verdict:
    """Whether an old run may go: enough younger ones are there, and a younger good one among them."""
    reasons = []
    younger = [each for each in all_runs if each.date > old.date]
    if len(younger) < max(1, keep):
        reasons.append(f"{len(younger)} younger runs are there, and {max(1, keep)} are kept")
    if not any(each.good for each in younger):
        reasons.append("it may be the last good one")
    if old.held:
        reasons.append("it is on hold")
    if old.locked:
        reasons.append("somebody works on it")
    return Verdict(tuple(reasons))


def let_go(work: Work) -> list[str]:
    """Let runs beyond ``cleanup.keep`` go, after this one is complete. Returns their dates."""
    run, places = work.run, work.run.places
    known = [_old_run(run, date) for date in places.dates()]
    gone = []
    for old in known:
        if not may_let_go(old, known, run.settings.keep).allowed:
            continue
        with work.transaction() as connection:
            work.event(connection, "letting go", date=old.date)
        for directory in {places.run(old.date), places.private_run(old.date)}:
            _remove_tree(directory)
        with work.transaction() as connection:
            _release(connection, [places.run(old.date), places.private_run(old.date)])
            work.event(connection, "let go", date=old.date)
        gone.append(old.date)
    if gone:
        _drop_dangling(places.latest)
    return gone


def _old_run(run: Run, date: str) -> OldRun:
    places = run.places
    directory = places.run(date)
    if date == run.date:
        return OldRun(date, True, False, True)
    past = claim.past_of_date(places, date)
    return OldRun(date, past.rank == 2, (directory / HOLD).exists(), places.lock(date).exists())


def _remove_tree(directory: Path) -> None:
    """Out of sight first, so that no reader finds half of it."""
    if not directory.is_dir() or directory.is_symlink():
        return
    aside = directory.with_name(f".letting-go-{directory.name}")
    shutil.rmtree(aside, ignore_errors=True)
    directory.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _release(connection: sa.engine.Connection, directories: Sequence[Path]) -> None:
    for directory in directories:
        prefix = disk_place(directory) + "/"
        rows = connection.execute(
            sa.select(copy_table.c.id, copy_table.c.place).where(copy_table.c.place.startswith(prefix, autoescape=True))
        ).all()
        for row in rows:
            if row.place.startswith(prefix):
                connection.execute(
                    sa.update(copy_table)
                    .where(copy_table.c.id == row.id, copy_table.c.place_key == place_key(row.place))
                    .values(state=CopyState.RELEASED, since=now())
                )


# -- nothing private in the public tree --------------------------------------------------------------------------------


def scan_public(run: Run) -> None:
    """Look at every file of this wiki in the public tree. Faults: DATA, naming what must not be there."""
    public = Path(run.settings.public) / run.wiki.name
    if run.wiki.private:
        if public.exists():
            raise _leak(public, "is the public directory of a private wiki")
        return
    for path in _files_below(public):
        found = parse_name(path.name)
        name = path.name.removesuffix(INPROG)
        if found is not None and found.kind == "sql" and found.dump not in PUBLIC_TABLES:
            raise _leak(path, f"is table {found.dump}, which is not known to be public")
        if name.startswith(("exceptions-", "lock")) or name == run.settings.logfile:
            raise _leak(path, "belongs into the private tree")


def _files_below(root: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(root):
        for name in names:
            yield Path(directory) / name


def _leak(path: Path, reason: str) -> Fault:
    return Fault(FaultKind.DATA, str(path), f"{reason}: nothing more is published", next_command=f"move {path} away")
