"""The stubs: every page and revision without text, three files in one pass and one snapshot, each with its index."""

from __future__ import annotations

from contextlib import ExitStack

from custody.wiki_dump import runs
from custody.wiki_dump.engine.base import Engine
from custody.wiki_dump.engine.rows import opened
from custody.wiki_dump.engine.siteinfo import FOOTER
from custody.wiki_dump.engine.stubs import PageStub
from custody.wiki_dump.engines import engine_of
from custody.wiki_dump.jobs import STUBS, Job, Stage
from custody.wiki_dump.layout import DumpName
from custody.wiki_dump.making import GzipSink, Making, is_made, making
from custody.wiki_dump.marks import mark_of
from custody.wiki_dump.ranges import Group, Range, StubIndex, group_size, part_bounds, part_of
from custody.wiki_dump.runs import FileRow
from custody.wiki_dump.status import JobState
from custody.wiki_dump.steps import begin, index_path, jobs_to_do, planned, write_exceptions
from custody.wiki_dump.work import Work


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
    mark = mark_of(work.access.address(run.wiki.name))  # before the snapshot: what comes between counts as newer
    with engine_of(work) as engine:
        snapshot = {**engine.snapshot(), **mark}
        with work.transaction() as connection:
            runs.set_run(connection, run.id, snapshot=snapshot)
        pages = _write_stubs(work, job, engine)
        write_exceptions(work, "stubs", engine.oddities)
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
