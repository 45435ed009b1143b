"""What became of runs, for people: lines of the status, one notice of a failure, and nothing twice."""

from __future__ import annotations

import shlex
import smtplib
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from typing import Any

import sqlalchemy as sa

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.tables import event
from custody.ledger.tables import lease as lease_table
from custody.wiki_dump import runs, tables
from custody.wiki_dump.runs import ROOM, JobRow, Run
from custody.wiki_dump.status import JobState, RunState, lost_texts, summary
from custody.wiki_dump.steps import jobs_by_record

SMTP_TIMEOUT_S = 30


@dataclass(frozen=True)
class RunLine:
    """A run as lists show it. ``progress`` is what its heartbeat last said."""

    id: int
    config: str
    wiki: str
    date: str
    state: RunState
    words: str
    done: int
    jobs: int
    failed: tuple[str, ...]
    lost: int
    fault: str | None
    fault_kind: str | None
    changed_at: datetime
    progress: dict[str, Any]
    private_dir: str = ""
    to_make_again: tuple[str, ...] = ()


def list_runs(
    ledger: Ledger, config: str | None = None, *, limit: int = 100, stuck_only: bool = False
) -> list[RunLine]:
    """The newest run of every wiki, youngest change first."""
    newest = (
        sa.select(tables.run.c.place_key, sa.func.max(tables.run.c.date).label("date"))
        .where(*([tables.run.c.config == config] if config else []))
        .group_by(tables.run.c.place_key)
        .subquery()
    )
    is_newest = sa.and_(tables.run.c.place_key == newest.c.place_key, tables.run.c.date == newest.c.date)
    query = sa.select(tables.run.c.id).join(newest, is_newest)
    with ledger.read() as connection:
        found = list(connection.scalars(query.order_by(tables.run.c.changed_at.desc())))
    lines = [line_of(ledger, runs.load(ledger, run_id)) for run_id in found[: limit * 4]]
    return [line for line in lines if not stuck_only or is_stuck(line)][:limit]


def is_stuck(line: RunLine) -> bool:
    """Whether a run ended otherwise than complete."""
    return line.state.is_over and line.state is not RunState.DONE


def why_stopped(line: RunLine) -> str:
    """Why a run is not complete: its last fault, or what it lacks."""
    if line.fault:
        return line.fault
    if line.lost:
        return f"{lost_texts(line.lost)} could not be had, see {line.private_dir}/exceptions-*.txt"
    return line.words


def with_next_command(line: RunLine) -> str:
    """The same, with the command that takes it up again where the fault names none."""
    why = why_stopped(line)
    if ". Next: " in why:
        return why
    words = " ".join(f"--{key} {shlex.quote(value)}" for key, value in way_on(line).items() if key != "config")
    return f"{why}. Next: custody wiki dump {line.config} {words}"


def way_on(line: RunLine) -> dict[str, str]:
    """What to ask of the run that takes it up again: of one that only lacks texts, the jobs that lack them."""
    asked = {"config": line.config, "wiki": line.wiki}
    if line.to_make_again and not line.failed and not line.fault:
        asked |= {"date": line.date, "job": ",".join(line.to_make_again)}
    return asked


def line_of(ledger: Ledger, run: Run) -> RunLine:
    """One run for a list."""
    with ledger.read() as connection:
        jobs = runs.jobs_of(connection, run.id)
        fault_kind = connection.scalar(sa.select(tables.run.c.fault).where(tables.run.c.id == run.id))
        progress = connection.scalar(sa.select(lease_table.c.progress).where(lease_table.c.name == run.lease_name))
    failed = tuple(job.name for job in jobs if job.state is JobState.FAILED)
    return RunLine(
        run.id,
        run.config,
        run.wiki.name,
        run.date,
        run.state,
        summary(run.state, [_as_line(job) for job in jobs]),
        sum(job.state is JobState.DONE for job in jobs),
        sum(job.state is not JobState.SKIPPED for job in jobs),
        failed,
        max((job.lost for job in jobs), default=0),  # a text that the history lacks, current pages may lack too
        run.fault,
        fault_kind,
        run.changed_at,
        dict(progress or {}) if not run.state.is_over else {},
        str(run.places.private_run(run.date)),
        _to_make_again(run, jobs),
    )


def _to_make_again(run: Run, jobs: list[JobRow]) -> tuple[str, ...]:
    """The jobs that lack texts, and those whose files are made of theirs."""
    found = [job.name for job in jobs if job.lost]
    for job in jobs_by_record(run):
        if job.needs in found and job.name not in found:
            found.append(job.name)
    on_record = [job.name for job in jobs if job.state is JobState.DONE]
    return tuple(name for name in on_record if name in found)


def _as_line(job: JobRow) -> Any:
    from custody.wiki_dump.status import JobLine

    return JobLine(job.name, job.name, job.state, job.updated_at)


def notify(ledger: Ledger, run: Run, line: RunLine, *, who: str) -> bool:
    """Write to the operator once for a run that is not complete; ``adminmail=nomail`` turns it off.

    Returns whether a letter went out. Faults: TRANSIENT where the mail server does not take it.
    """
    if run.settings.adminmail == "nomail" or line.state is RunState.DONE or run.options.is_partial:
        return False
    key = f"{run.wiki.name} {run.date}"
    with ledger.read() as connection:
        query = sa.select(sa.func.count()).where(
            event.c.room == ROOM, event.c.what == "notified", event.c.subject == key, event.c.who == who
        )
        if connection.scalar(query):
            return False
    letter = EmailMessage()
    letter["Subject"] = f"Dump of {run.wiki.name} on {run.date}: {line.words}"
    letter["From"], letter["To"] = run.settings.mailfrom, run.settings.adminmail
    letter.set_content(letter_text(run, line))
    try:
        with smtplib.SMTP(run.settings.smtpserver, timeout=SMTP_TIMEOUT_S) as server:
            server.send_message(letter)
    except (OSError, smtplib.SMTPException) as error:
        raise Fault(
            FaultKind.TRANSIENT, f"mail server {run.settings.smtpserver}", f"takes no mail ({error})"
        ) from error
    with ledger.begin() as connection:
        ledger.record_event(connection, who=who, room=ROOM, what="notified", subject=key)
    return True


def letter_text(run: Run, line: RunLine) -> str:
    """What the operator is told: what failed, why, and what to do."""
    lines = [
        f"The dump of {run.wiki.name} on {run.date} is not complete: {line.words}.",
        "",
        f"Jobs done: {line.done} of {line.jobs}.",
    ]
    if line.failed:
        lines.append(f"Failed: {', '.join(line.failed)}.")
    if line.lost:
        lines.append(
            f"Texts that could not be had: {line.lost}; see exceptions-* in {run.places.private_run(run.date)}."
        )
    if line.fault:
        lines += ["", "The last fault:", f"  {line.fault}"]
    lines += ["", f"Log: {run.places.private_run(run.date) / run.settings.logfile}"]
    lines += ["The next run of this wiki goes on where this one ended."]
    return "\n".join(lines) + "\n"
