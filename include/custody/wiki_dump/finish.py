"""The end of a run: latest links and feeds, old runs let go, the tree looked through, lock and lease given back."""

from __future__ import annotations

import html
import shutil
from email.utils import format_datetime
from pathlib import Path

import sqlalchemy as sa

from custody import lease
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.ledger.tables import event
from custody.publish import fsync_directory
from custody.wiki_dump import lockfile, retention, runs, servers, shelf
from custody.wiki_dump.layout import make_public_directory, write_public
from custody.wiki_dump.privacy import scan_public
from custody.wiki_dump.runs import ROOM, FileRow, FileState, Run
from custody.wiki_dump.status import JobState, RunState
from custody.wiki_dump.work import Work


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
    scan_public(run.wiki, run.settings)
    state = outcome(work.ledger, run.id)
    update_latest(work)
    if state is RunState.DONE:
        retention.let_go(work)
    with work.transaction() as connection:
        runs.set_run(connection, run.id, state=state)
        is_as_asked = state is RunState.DONE or (run.options.is_partial and not runs.failed_jobs(connection, run.id))
        work.event(connection, "finished", result="done" if is_as_asked else str(state), state=str(state))
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
                state = _left_behind(ledger, run)
                runs.set_run(connection, run_id, state=state)
                detail = {"state": str(state)}
                ledger.record_event(
                    connection, who=owner, room=ROOM, what="gave up", subject=run.subject, result="data", detail=detail
                )
    except Fault as fault:
        if fault.kind is FaultKind.CONFLICT:
            return runs.load(ledger, run_id).state  # somebody else has it: its lock is his
        raise
    try:
        shelf.write_status(ledger, run_id)
    except (Fault, OSError) as fault:  # a full disk: the monitor writes them when there is room
        _remember(ledger, run, owner, fault)
    finally:
        try:
            lockfile.remove(run.places.lock(run.date))
        finally:
            lease.give_back(ledger, held)
            servers.give_back(ledger, owner)
    return runs.load(ledger, run_id).state


def _remember(ledger: Ledger, run: Run, owner: str, error: Exception) -> None:
    with ledger.begin() as connection:
        ledger.record_event(
            *(connection,),
            who=owner,
            room=ROOM,
            what="status files",
            subject=run.subject,
            result="capacity",
            detail={"fault": str(error)},
        )


def _left_behind(ledger: Ledger, run: Run) -> RunState:
    """What a run is that nobody finished: complete only where it was before, and nothing of it was touched since."""
    state = outcome(ledger, run.id)
    return RunState.PARTIAL if state is RunState.DONE and not _was_finished(ledger, run) else state


def _was_finished(ledger: Ledger, run: Run) -> bool:
    with ledger.read() as connection:
        touched_at = max(job.updated_at for job in runs.jobs_of(connection, run.id))
        query = sa.select(sa.func.count()).where(
            *(event.c.room == ROOM, event.c.subject == run.subject, event.c.what == "finished"),
            *(event.c.result == "done", event.c.happened_at >= touched_at),
        )
        return bool(connection.scalar(query))


# -- latest ----------------------------------------------------------------------------------------------------------


def update_latest(work: Work) -> int:
    """Let ``latest`` point to the newest published file of every name, and to nothing that is not there."""
    run = work.run
    latest = run.places.latest
    with os_errors_as_faults(str(latest)):
        make_public_directory(latest, run.settings.fileperms)
    count = 0
    for file in _published(work):
        title = _latest_name(run, file.name)
        _link(latest / title, f"../{run.date}/{file.name}")
        feed = _feed(run, file, latest / title)
        write_public(latest / f"{title}-rss.xml", feed.encode(), run.settings.fileperms)
        count += 1
    for algorithm in ("md5", "sha1", "sha256"):
        name = f"{run.wiki.name}-{run.date}-{algorithm}sums.txt"
        if (run.places.run(run.date) / name).exists():
            _link(latest / f"{run.wiki.name}-latest-{algorithm}sums.txt", f"../{run.date}/{name}")
    retention.drop_dangling(latest)
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
