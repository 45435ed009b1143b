"""What every step of a run leans on: which jobs there are, which are to be done, and the files they plan."""

from __future__ import annotations

from pathlib import Path

from custody.faults import Fault, FaultKind
from custody.publish import write_atomic
from custody.wiki_dump import runs, shelf
from custody.wiki_dump.engine.rows import opened
from custody.wiki_dump.engine.stubs import Oddity
from custody.wiki_dump.jobs import NOT_MADE, Job, Stage, all_jobs, check_names, choose_jobs
from custody.wiki_dump.layout import DumpName
from custody.wiki_dump.making import tool
from custody.wiki_dump.ranges import Range
from custody.wiki_dump.runs import FileRow, Run
from custody.wiki_dump.status import JobState
from custody.wiki_dump.work import Work


def plan_jobs(work: Work) -> list[Job]:
    """Put the jobs of this run on record; returns those that are to be done, in order. Faults: CONFIG."""
    run = work.run
    if run.options.noop:
        with work.transaction() as connection:
            runs.put_jobs(connection, run.id, [job.name for job in _known_jobs(work)], {})
            runs.set_run(connection, run.id, wanted=[])
        return []
    check_names(run.options.skipjobs, run.wiki)
    jobs = _known_jobs(work)
    with work.ledger.read() as connection:
        on_record = {row.name: row.state for row in runs.jobs_of(connection, run.id)}
    again = set() if run.options.skipdone else _expanded(run.options.jobs, jobs)
    done = {name for name, state in on_record.items() if state is JobState.DONE} - again
    not_made = {job.name for job in jobs if job.stage is Stage.NOT_MADE}
    if asked := sorted(not_made & {*run.options.jobs, run.options.restartfrom}):
        raise Fault(FaultKind.CONFIG, f"job {asked[0]}", f"is {NOT_MADE}")
    wanted, skipped = choose_jobs(
        jobs,
        only=run.options.jobs,
        restart_from=run.options.restartfrom,
        skip={*run.options.skipjobs, *run.settings.skipjobs, *not_made},
        done=done,
    )
    _require_tools(run, [job for job in jobs if job.name in wanted])
    states = {name: JobState.SKIPPED for name in skipped if on_record.get(name) is not JobState.DONE}
    states |= dict.fromkeys(wanted, JobState.WAITING)
    with work.transaction() as connection:
        runs.put_jobs(connection, run.id, [job.name for job in jobs], states)
        for name in not_made:
            runs.set_job(connection, run.id, name, JobState.SKIPPED, note=NOT_MADE)
        for name in wanted:
            if on_record.get(name) is JobState.DONE:
                runs.drop_files(connection, run.id, name)
        runs.set_run(connection, run.id, wanted=wanted, fault=None, fault_text=None)
        work.event(connection, "planned", jobs=len(wanted), skipped=skipped)
    shelf.write_status(work.ledger, run.id)
    return [job for job in jobs if job.name in wanted]


def _expanded(names: tuple[str, ...], jobs: list[Job]) -> set[str]:
    return {job.name for job in jobs if job.name in names or ("tables" in names and job.table)}


def _known_jobs(work: Work) -> list[Job]:
    run = work.run
    with opened(work.access.address(run.wiki.name)) as rows:
        return all_jobs(run.wiki, run.settings, run.farm, rows.tables())


def _require_tools(run: Run, jobs: list[Job]) -> None:
    """Missing programs are named before anything is made."""
    if run.settings.lbzip2threads:
        tool(run.settings, "lbzip2")
    if any(job.name == "metahistory7zdump" for job in jobs):
        tool(run.settings, "sevenzip")


def jobs_to_do(work: Work, *stages: Stage) -> list[Job]:
    """The jobs of these stages that this run still has to do, as the ledger has it."""
    with work.ledger.read() as connection:
        wanted = set(runs.wanted(connection, work.run.id))
        waiting = {
            row.name
            for row in runs.jobs_of(connection, work.run.id)
            if row.name in wanted and row.state not in {JobState.DONE, JobState.SKIPPED}
        }
    return [job for job in jobs_by_record(work.run) if job.name in waiting and job.stage in stages]


def jobs_by_record(run: Run) -> list[Job]:
    """Every job this run may have, whatever tables its database has now."""
    from custody.wiki_dump.jobs import PRIVATE_TABLES, PUBLIC_TABLES

    return all_jobs(run.wiki, run.settings, run.farm, [*PUBLIC_TABLES, *PRIVATE_TABLES])


def begin(work: Work, job: str) -> None:
    """Say that a job is worked on."""
    work.job = job
    with work.transaction() as connection:
        runs.set_job(connection, work.run.id, job, JobState.IN_PROGRESS, note="")
    shelf.write_status(work.ledger, work.run.id)


def planned(
    work: Work, job: Job, name: str, *, part: int | None = None, pages: tuple[int, int] | None = None
) -> FileRow:
    """Plan a file of a job, or find it planned."""
    with work.transaction() as connection:
        file_id = runs.put_file(connection, work.run.id, job.name, name, private=job.private, part=part, pages=pages)
    return runs.load_file(work.ledger, file_id)


def file_name(run: Run, dump: str, kind: str, compression: str, found: Range | None = None) -> str:
    """The name of a content file."""
    pages = (found.first, found.last) if found and run.settings.checkpointTime else None
    part = found.part if found else None
    return str(DumpName(run.wiki.name, run.date, dump, kind, compression, part, pages))


def index_path(run: Run, stub_name: str) -> Path:
    """Where the index of a stub file lies while the run lasts, and after it."""
    return run.places.private_run(run.date) / f"{stub_name}.index.json"


def write_exceptions(work: Work, what: str, oddities: list[Oddity]) -> None:
    """What could not be dumped as it should be: named one by one in the private tree."""
    path = work.run.places.private_run(work.run.date) / f"exceptions-{what}.txt"
    if not oddities:
        path.unlink(missing_ok=True)
        return
    lines = [f"page {each.page_id}\trevision {each.rev_id}\t{each.what}" for each in oddities]
    text = "\n".join(line.replace("\n", " ") for line in lines) + "\n"
    write_atomic(path, text.encode("utf-8", "backslashreplace"), mode=0o600)
