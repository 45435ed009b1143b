"""Writing the status files of a run out of the ledger: one writer at a time, each file whole."""

from __future__ import annotations

import fcntl
import html
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from custody.ledger import Ledger
from custody.ledger.store import now
from custody.wiki_dump import runs, status
from custody.wiki_dump.farm import Wiki
from custody.wiki_dump.jobs import Job, all_jobs
from custody.wiki_dump.layout import write_public
from custody.wiki_dump.runs import FileState, Run
from custody.wiki_dump.status import FileLine, JobLine

NOTICE = "notice.txt"


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Let one writer at a time change the status files of a wiki."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory / ".status", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def lines_of(ledger: Ledger, run: Run) -> list[JobLine]:
    """The jobs of a run with what they published, in order. Private ones have no files here, in a public tree."""
    known = {job.name: job for job in _titles(run)}
    with ledger.read() as connection:
        jobs, files = runs.jobs_of(connection, run.id), runs.files_of(connection, run.id)
    found = []
    for row in jobs:
        job = known.get(row.name)
        private = bool(job and job.private) and not run.wiki.private
        if private and run.settings.skipprivatetables:
            continue
        published = (
            ()
            if private
            else tuple(
                FileLine(file.name, file.size_bytes or 0, file.sums)
                for file in files
                if file.job == row.name and file.state is FileState.PUBLISHED and (run.wiki.private or not file.private)
            )
        )
        title = job.title if job else row.name
        found.append(JobLine(row.name, title, row.state, row.updated_at, published, row.note, private))
    return found


def _titles(run: Run) -> list[Job]:
    from custody.wiki_dump.jobs import PRIVATE_TABLES, PUBLIC_TABLES

    return all_jobs(run.wiki, run.settings, run.farm, [*PUBLIC_TABLES, *PRIVATE_TABLES])


def labels(wiki: Wiki) -> str:
    """What the index says of a wiki beside its name."""
    return (" (private data)" if wiki.private else "") + (" (closed)" if wiki.closed else "")


def write_status(ledger: Ledger, run_id: int) -> None:
    """Write every status file of a run, as the ledger has it at this moment."""
    places = runs.load(ledger, run_id).places
    with alone(places.private):
        run = runs.load(ledger, run_id)
        lines = lines_of(ledger, run)
        directory = places.run(run.date)
        mode = run.settings.fileperms
        for name, content in _content(run, lines).items():
            write_public(directory / name, content, mode)


def _content(run: Run, lines: list[JobLine]) -> dict[str, bytes]:
    files = [file for line in lines for file in line.files]
    dates = [date for date in run.places.dates() if date < run.date]
    prefix = f"{run.wiki.name}-{run.date}"
    at = now()
    found = {
        "dumpruninfo.txt": status.runinfo_text(lines).encode(),
        "dumpruninfo.json": status.runinfo_json(lines),
        "dumpstatus.json": json.dumps(status.dumpstatus(lines, run.url)).encode() + b"\n",
        "report.json": json.dumps(status.report_json(lines, run.url)).encode() + b"\n",
        "status.html": status.status_line(
            run.wiki.name,
            run.date,
            run.state,
            lines,
            at,
            labels=labels(run.wiki),
            link=None if run.wiki.private else f"{run.wiki.name}/{run.date}",
        ).encode(),
        run.settings.perdumpindex: status.run_page(
            *(run.wiki.name, run.date, run.state, lines, at),
            notice=read_notice(run),
            previous=dates[-1] if dates else None,
        ).encode(),
    }
    for algorithm in status.SUMS:
        found[f"{prefix}-{algorithm}sums.txt"] = status.sums_text(algorithm, files).encode()
        found[f"{prefix}-{algorithm}sums.json"] = status.sums_json(algorithm, files)
    special = {name: {"status": "present"} for name in sorted(found) if name.endswith((".json", ".txt"))}
    found["dumpspecialfiles.json"] = json.dumps({"version": status.VERSION, "files": special}).encode() + b"\n"
    return found


def read_notice(run: Run) -> str:
    """What people are told on the page of a run."""
    try:
        return (run.places.run(run.date) / NOTICE).read_text("utf-8", "replace").strip()
    except FileNotFoundError:
        return ""


def set_notice(ledger: Ledger, run: Run, text: str | None) -> None:
    """Put a notice on a run's page, or take it away."""
    path = run.places.run(run.date) / NOTICE
    if text:
        write_public(path, text.encode() + b"\n", run.settings.fileperms)
    else:
        path.unlink(missing_ok=True)
    write_status(ledger, run.id)


def never_dumped(wiki: Wiki) -> str:
    """The line of a wiki that has no dump."""
    return f"<li>{html.escape(wiki.name)}{labels(wiki)}: <span class='missing'>has not yet been dumped</span></li>\n"
