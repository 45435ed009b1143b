"""The steps of a run: which jobs there are, and making their files. Each finds done what was done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.publish import write_atomic
from custody.wiki_dump import runs, shelf
from custody.wiki_dump.bz2.verify import decompressed
from custody.wiki_dump.engine.base import Engine
from custody.wiki_dump.engine.logs import log_items
from custody.wiki_dump.engine.rows import opened
from custody.wiki_dump.engine.siteinfo import FOOTER
from custody.wiki_dump.engine.stubs import Oddity, PageStub
from custody.wiki_dump.engine.textpass import Tally
from custody.wiki_dump.engines import engine_of, site_json, site_of
from custody.wiki_dump.jobs import OUTPUTS, STUBS, STUBS_OF, Job, Stage, all_jobs, check_names, choose_jobs
from custody.wiki_dump.layout import INPROG, DumpName
from custody.wiki_dump.making import GzipSink, Making, is_made, making, path_of, tool
from custody.wiki_dump.prefetch import prefetch_for
from custody.wiki_dump.ranges import Group, Range, StubIndex, divide, group_size, part_bounds, part_of
from custody.wiki_dump.runs import FileRow, FileState, Run
from custody.wiki_dump.status import JobState
from custody.wiki_dump.tabledump import table_sql
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
    wanted, skipped = choose_jobs(
        jobs,
        only=run.options.jobs,
        restart_from=run.options.restartfrom,
        skip={*run.options.skipjobs, *run.settings.skipjobs},
        done=done,
    )
    _require_tools(run, [job for job in jobs if job.name in wanted])
    states = {name: JobState.SKIPPED for name in skipped if on_record.get(name) is not JobState.DONE}
    states |= dict.fromkeys(wanted, JobState.WAITING)
    with work.transaction() as connection:
        runs.put_jobs(connection, run.id, [job.name for job in jobs], states)
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
    return [job for job in _jobs_by_record(work.run) if job.name in waiting and job.stage in stages]


def _jobs_by_record(run: Run) -> list[Job]:
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


def make_tables(work: Work, stage: Stage) -> int:
    """Dump the public tables, or the private ones, all in one snapshot; returns their number."""
    todo = jobs_to_do(work, stage)
    made = 0
    with opened(work.access.address(work.run.wiki.name)) as rows:
        snapshot = rows.snapshot()
        for job in todo:
            assert job.table is not None
            file = planned(work, job, file_name(work.run, job.table, "sql", "gz"))
            if is_made(work.run, file):
                continue
            begin(work, job.name)
            with making(work, file) as making_, making_.gz() as sink:
                for chunk, count in table_sql(rows, work.run.wiki.name, job.table):
                    sink.write(chunk)
                    making_.count(rows=count)
                    work.heartbeat.advance(rows=count, bytes=len(chunk))
            made += 1
    work.log(f"{stage}: {made} tables in the snapshot {json.dumps(snapshot)}")
    return made


def make_site(work: Work) -> int:
    """What the wiki says of itself, and the lists of its titles; returns the number of files."""
    todo = jobs_to_do(work, Stage.SITE)
    for job in todo:
        dump, kind, compression = OUTPUTS[job.name]
        file = planned(work, job, file_name(work.run, dump, kind, compression))
        if is_made(work.run, file):
            continue
        begin(work, job.name)
        with making(work, file) as made, made.gz() as sink:
            for chunk in _site_chunks(work, job.name):
                sink.write(chunk)
                made.count(lines=chunk.count(b"\n"))
                work.heartbeat.advance(bytes=len(chunk))
    return len(todo)


def _site_chunks(work: Work, job: str) -> Iterator[bytes]:
    if job in {"namespaces", "namespacesv2"}:
        yield site_json(work, 2 if job == "namespacesv2" else 1).rstrip(b"\n") + b"\n"
        return
    main_only = job == "pagetitlesdump"
    yield b"page_title\n" if main_only else b"page_namespace\tpage_title\n"
    with opened(work.access.address(work.run.wiki.name)) as rows:
        number = rows.number("page_namespace")
        sql = f"SELECT {number}, page_title FROM page ORDER BY page_namespace, page_title"  # noqa: S608
        if main_only:
            sql = f"SELECT {number}, page_title FROM page WHERE page_namespace = 0 ORDER BY page_title"  # noqa: S608
        lines: list[bytes] = []
        for namespace, title in rows.query(sql):
            lines.append(title if main_only else b"%b\t%b" % (namespace, title))
            if len(lines) >= 10_000:
                yield b"\n".join(lines) + b"\n"
                lines = []
        if lines:
            yield b"\n".join(lines) + b"\n"


def make_logs(work: Work) -> int:
    """The public log; returns the number of files."""
    todo = jobs_to_do(work, Stage.LOGS)
    for job in todo:
        file = planned(work, job, file_name(work.run, *OUTPUTS[job.name]))
        if is_made(work.run, file):
            continue
        begin(work, job.name)
        with opened(work.access.address(work.run.wiki.name)) as rows, making(work, file) as made, made.gz() as sink:
            rows.snapshot()
            site = site_of(work)
            sink.write(site.header())
            for chunk in log_items(rows, site, restricted=work.run.farm.restricted_logs):
                sink.write(chunk)
                made.count(log_items=chunk.count(b"\n  </logitem>\n") + chunk.startswith(b"  </logitem>"))
                work.heartbeat.advance(bytes=len(chunk))
            sink.write(FOOTER)
    return len(todo)


def index_path(run: Run, stub_name: str) -> Path:
    """Where the index of a stub file lies while the run lasts, and after it."""
    return run.places.private_run(run.date) / f"{stub_name}.index.json"


class _StubFile:
    """One stub file while it is written, and its index."""

    def __init__(self, work: Work, file: FileRow, stack: ExitStack, header: bytes) -> None:
        self.file, self._work = file, work
        self._own = ExitStack()
        stack.push(self._own)
        self.made: Making = self._own.enter_context(making(work, file))
        self.sink: GzipSink = self._own.enter_context(self.made.gz())
        self._groups: list[Group] = []
        self._limits = group_size(work.run.settings)
        self.sink.write(header)
        self._start = self.sink.end_member()
        self._first = self._last = self._pages = self._revisions = self._size = 0

    def write(self, xml: bytes, page_id: int, revisions: int, size_bytes: int, *, begins: bool, ends: bool) -> None:
        """Add a page, or a piece of one."""
        if begins:
            if self._pages and (
                self._revisions + revisions > self._limits[0] or self._size + size_bytes > self._limits[1]
            ):
                self._close_group()
            self._first = self._first or page_id
            self._pages += 1
        self._last = page_id
        self._revisions += revisions
        self._size += size_bytes
        self.sink.write(xml)
        if ends and (self._revisions >= self._limits[0] or self._size >= self._limits[1]):
            self._close_group()

    def _close_group(self) -> None:
        if not self._pages:
            return
        end = self.sink.end_member()
        counted = (self._pages, self._revisions, self._size)
        self._groups.append(Group(self._first, self._last, self._start, end, *counted))
        self.made.count(pages=self._pages, revisions=self._revisions)
        self._start = end
        self._first = self._last = self._pages = self._revisions = self._size = 0

    def finish(self) -> None:
        """End the document and write its index."""
        self._close_group()
        self.sink.write(FOOTER)
        self.made.count(pages=0, revisions=0)
        StubIndex(self.file.name, tuple(self._groups)).save(index_path(self._work.run, self.file.name))
        self._own.close()


def make_stubs(work: Work) -> int:
    """All three kinds of stubs in one pass, in one snapshot; returns the number of pages."""
    todo = jobs_to_do(work, Stage.STUBS)
    if not todo:
        return 0
    job, run = todo[0], work.run
    with work.ledger.read() as connection:
        there = runs.files_of(connection, run.id, job.name)
    if there and all(is_made(run, file) and index_path(run, file.name).exists() for file in there):
        return 0
    begin(work, job.name)
    with work.transaction() as connection:
        runs.drop_files(connection, run.id, job.name)
    with engine_of(work) as engine:
        snapshot = engine.snapshot()
        with work.transaction() as connection:
            runs.set_run(connection, run.id, snapshot=snapshot)
        pages = _write_stubs(work, job, engine)
        _write_exceptions(work, "stubs", engine.oddities)
    if engine.oddities:
        with work.transaction() as connection:
            runs.set_job(connection, run.id, job.name, JobState.IN_PROGRESS, lost=len(engine.oddities))
    return pages


def _write_stubs(work: Work, job: Job, engine: Engine) -> int:
    run = work.run
    header = engine.site.header()
    ends = part_bounds(run.settings, _last_page(work))
    count, part = 0, 0
    with ExitStack() as stack:
        files: dict[str, _StubFile] = {}

        def turn(to: int) -> None:
            nonlocal part
            while part < to:
                for each in files.values():
                    each.finish()
                part += 1
                span = Range(0, 0, part if ends else None, 0, 0)
                for name in STUBS:
                    title = str(DumpName(run.wiki.name, run.date, name, "xml", "gz", span.part))
                    file = planned(work, job, title, part=span.part)
                    files[name] = _StubFile(work, file, stack, header)

        for page in engine.pages():
            turn(part_of(page.page_id, ends))
            _write_page(files, page)
            count += page.begins
            work.heartbeat.advance(revisions=len(page.revisions), pages=int(page.begins))
        turn(len(ends) + 1)
        for each in files.values():
            each.finish()
    return count


def _write_page(files: dict[str, _StubFile], page: PageStub) -> None:
    xml = page.history
    files["stub-meta-history"].write(
        xml, page.page_id, len(page.revisions), page.size_bytes, begins=page.begins, ends=page.ends
    )
    current = page.current
    if current is not None:
        size = page.size_bytes // max(1, len(page.revisions))
        files["stub-meta-current"].write(current, page.page_id, 1, size, begins=True, ends=True)
        if page.is_article:
            files["stub-articles"].write(current, page.page_id, 1, size, begins=True, ends=True)


def _last_page(work: Work) -> int:
    with opened(work.access.address(work.run.wiki.name)) as rows:
        return next((int(row[0] or 0) for row in rows.query(f"SELECT {rows.number('MAX(page_id)')} FROM page")), 0)  # noqa: S608


def _write_exceptions(work: Work, what: str, oddities: list[Oddity]) -> None:
    """What could not be dumped as it should be: named one by one in the private tree."""
    path = work.run.places.private_run(work.run.date) / f"exceptions-{what}.txt"
    if not oddities:
        path.unlink(missing_ok=True)
        return
    lines = [f"page {each.page_id}\trevision {each.rev_id}\t{each.what}" for each in oddities]
    text = "\n".join(line.replace("\n", " ") for line in lines) + "\n"
    write_atomic(path, text.encode("utf-8", "backslashreplace"), mode=0o600)


def plan_parts(work: Work) -> list[int]:
    """Divide what the text jobs make, by the stubs; returns the numbers of the files that are still to be made."""
    run = work.run
    found: list[tuple[int, int]] = []
    todo = jobs_to_do(work, Stage.TEXT)
    stubs = _stub_files(work) if todo else []
    for job in todo:
        dump, kind, compression = OUTPUTS[job.name]
        for each in _ranges(run, stubs, STUBS_OF[job.name]):
            name = file_name(run, dump, kind, compression, each)
            file = planned(work, job, name, part=each.part, pages=(each.first, each.last))
            if not is_made(run, file):
                found.append((-each.revisions, file.id))
    return [file_id for _, file_id in sorted(found)]


def _stub_files(work: Work) -> list[FileRow]:
    with work.ledger.read() as connection:
        files = runs.files_of(connection, work.run.id, "xmlstubsdump")
    if not files or any(file.state in {FileState.PLANNED, FileState.FAILED} for file in files):
        raise Fault(FaultKind.NEEDS_HUMAN, work.run.subject, "has no stubs yet", next_command="make job xmlstubsdump")
    return files


def _ranges(run: Run, stubs: list[FileRow], kind: str) -> list[Range]:
    history = [file for file in stubs if "-stub-meta-history" in file.name]
    files = [file for file in stubs if f"-{kind}" in file.name]
    lasts = [_index(run, file).groups[-1].last if _index(run, file).groups else 0 for file in history]
    ends = part_bounds(run.settings, max(lasts, default=0))
    found: list[Range] = []
    for number, file in enumerate(sorted(files, key=lambda file: file.part or 0)):
        groups = _index(run, file).groups
        first = 1 if number == 0 else ends[number - 1] + 1
        last = ends[number] if number < len(ends) else max([first, *lasts])
        found += divide(groups, run.settings, part=file.part, first=first, last=last)
    return found


def _index(run: Run, file: FileRow) -> StubIndex:
    return StubIndex.load(index_path(run, file.name))


def make_text(work: Work, file_id: int) -> FileRow:
    """One file of one text job: stubs of its range, filled. A text that cannot be had is reported, never left out."""
    run, file = work.run, runs.load_file(work.ledger, file_id)
    if is_made(run, file):
        return file
    begin(work, file.job)
    stub = next(each for each in _stub_files(work) if f"-{STUBS_OF[file.job]}" in each.name and each.part == file.part)
    first, last = file.first_page or 1, file.last_page or 0
    groups = [group for group in _index(run, stub).groups if group.first <= last and group.last >= first]
    tally = Tally()
    with engine_of(work) as engine, making(work, file) as made, ExitStack() as stack:
        made.count(pages=sum(group.pages for group in groups), revisions=sum(group.revisions for group in groups))
        prefetch = prefetch_for(work, file, stack)
        header = engine.site.header()
        with made.bz2_document(run.settings, header, FOOTER) as sink:
            for chunk in engine.fill(stub_chunks(path_of(run, stub), groups), tally, prefetch=prefetch):
                sink.write(chunk)
                work.heartbeat.advance(bytes=len(chunk))
        made.count(prefetched=tally.prefetched, withheld=tally.withheld, lost=len(tally.lost))
    work.heartbeat.advance(revisions=tally.revisions)
    _write_exceptions(work, file.name, [*tally.lost, *tally.differing])
    return runs.load_file(work.ledger, file_id)


def stub_chunks(path: Path, groups: list[Group]) -> Iterator[bytes]:
    """The pages of some groups of a stub file, read where they lie."""
    with os_errors_as_faults(str(path)), path.open("rb") as stream:
        for group in groups:
            stream.seek(group.offset)
            raw = stream.read(group.end - group.offset)
            yield b"".join(decompressed(iter([raw]), path.name.removesuffix(INPROG), str(path)))
