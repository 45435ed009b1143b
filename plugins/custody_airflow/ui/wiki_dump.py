"""The room wiki_dump: every wiki's newest run, what stands still and why, and one run with its jobs and files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.wiki_dump import report, runs
from custody.wiki_dump.report import RunLine
from custody_airflow.ui.access import LedgerDep
from custody_airflow.ui.metrics import Gauge
from custody_airflow.ui.next_step import next_step, patience
from custody_airflow.ui.render import page
from custody_airflow.ui.rooms import Attention, Room

MAX_RUNS = 500

router = APIRouter()


@dataclass(frozen=True)
class WikiDumpStatus:
    """The room at one moment: the newest run of each wiki, youngest change first."""

    runs: tuple[RunLine, ...]

    @property
    def stuck(self) -> list[Attention]:
        """Runs that are not complete, with the next command."""
        return [attention_of(line) for line in self.runs if report.is_stuck(line)]

    @property
    def needs_you(self) -> list[Attention]:
        """What waits for a person."""
        return [one for one in self.stuck if one.needs_you]

    @property
    def running_count(self) -> int:
        """How many wikis are being dumped."""
        return sum(not line.state.is_over for line in self.runs)

    def as_json(self) -> Mapping[str, Any]:
        """For programs."""
        return {
            "needs_you": len(self.needs_you),
            "running": self.running_count,
            "stuck": [one.as_json() for one in self.stuck],
            "runs": [asdict(line) for line in self.runs],
        }


def attention_of(line: RunLine) -> Attention:
    """A run that is not complete."""
    step = next_step(report.why_stopped(line))
    if not step.commands:
        conf = json.dumps(report.way_on(line))
        step = replace(step, commands=(f"airflow dags trigger wiki_dump --conf {shlex.quote(conf)}",))
    return Attention(
        title=f"{line.wiki} {line.date}",
        path=f"/wiki_dump/run/{line.id}",
        state=str(line.state),
        kind=line.fault_kind or "data",
        since=line.changed_at,
        step=step,
        patience=patience(line.fault_kind),
    )


def read(ledger: Ledger, config: str | None = None) -> WikiDumpStatus:
    """Read it from the ledger."""
    return WikiDumpStatus(tuple(report.list_runs(ledger, config, limit=MAX_RUNS)))


@router.get("/wiki_dump", response_class=HTMLResponse)
def show_room(request: Request, ledger: LedgerDep, config: str | None = None) -> HTMLResponse:
    """Every wiki, or those of one farm."""
    return page(request, "wiki_dump.html", status=read(ledger, config), only=config, here="wiki_dump")


@router.get("/wiki_dump/run/{run_id}", response_class=HTMLResponse)
def show_run(request: Request, ledger: LedgerDep, run_id: int) -> HTMLResponse:
    """One run: its jobs, its files, what stops it."""
    run, line = _load(ledger, run_id)
    with ledger.read() as connection:
        jobs, files = runs.jobs_of(connection, run.id), runs.files_of(connection, run.id)
    attention = attention_of(line) if report.is_stuck(line) else None
    values = {"run": run, "line": line, "jobs": jobs, "files": files, "attention": attention}
    return page(request, "wiki_dump_run.html", here="wiki_dump", **values)


@router.get("/api/wiki_dump/run/{run_id}")
def tell_run(ledger: LedgerDep, run_id: int) -> Mapping[str, Any]:
    """The same for programs."""
    run, line = _load(ledger, run_id)
    with ledger.read() as connection:
        jobs, files = runs.jobs_of(connection, run.id), runs.files_of(connection, run.id)
    return {**asdict(line), "job_list": [asdict(job) for job in jobs], "files": [asdict(file) for file in files]}


def _load(ledger: Ledger, run_id: int) -> tuple[runs.Run, RunLine]:
    try:
        run = runs.load(ledger, run_id)
    except Fault as fault:  # a page that is not there
        raise Fault(FaultKind.CONFIG, f"series {run_id}", "there is no such run") from fault
    return run, report.line_of(ledger, run)


def gauges(status: WikiDumpStatus, now: datetime) -> Iterator[Gauge]:
    """What a monitoring system is told."""
    yield Gauge("custody_wiki_dump_needs_you", "Dumps that wait for a person.", len(status.needs_you))
    yield Gauge("custody_wiki_dump_running", "Wikis that are being dumped.", status.running_count)
    for line in status.runs:
        labels = {"config": line.config, "wiki": line.wiki}
        age = (now - line.changed_at).total_seconds()
        yield Gauge("custody_wiki_dump_age_seconds", "Since the newest run of a wiki last changed.", age, labels)
        complete = float(str(line.state) == "done")
        yield Gauge("custody_wiki_dump_complete", "1 where the newest run of a wiki is complete.", complete, labels)
        yield Gauge("custody_wiki_dump_lost_texts", "Texts that could not be had.", line.lost, labels)


ROOM = Room("wiki_dump", "Wiki dump", router, read, "wiki_dump_overview.html", gauges)
