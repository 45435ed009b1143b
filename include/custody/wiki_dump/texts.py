"""The text jobs: divided into ranges by the stubs, each range filled with the texts of its revisions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.wiki_dump import runs
from custody.wiki_dump.bz2.verify import decompressed
from custody.wiki_dump.engine.rows import opened
from custody.wiki_dump.engine.siteinfo import FOOTER
from custody.wiki_dump.engine.stubs import Oddity
from custody.wiki_dump.engine.textpass import Tally
from custody.wiki_dump.engines import engine_of
from custody.wiki_dump.jobs import OUTPUTS, STUBS_OF, Stage
from custody.wiki_dump.layout import INPROG
from custody.wiki_dump.making import is_made, making, path_of
from custody.wiki_dump.prefetch import prefetch_for
from custody.wiki_dump.ranges import Group, Range, StubIndex, divide, part_bounds
from custody.wiki_dump.runs import FileRow, FileState, Run
from custody.wiki_dump.steps import begin, file_name, index_path, jobs_to_do, planned, write_exceptions
from custody.wiki_dump.work import Work

_REVISIONS_A_QUERY = 1000


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
    write_exceptions(work, file.name, _with_pages(work, [*tally.lost, *tally.differing]))
    return runs.load_file(work.ledger, file_id)


def stub_chunks(path: Path, groups: list[Group]) -> Iterator[bytes]:
    """The pages of some groups of a stub file, read where they lie."""
    with os_errors_as_faults(str(path)), path.open("rb") as stream:
        for group in groups:
            stream.seek(group.offset)
            raw = stream.read(group.end - group.offset)
            yield b"".join(decompressed(iter([raw]), path.name.removesuffix(INPROG), str(path)))


def _with_pages(work: Work, oddities: list[Oddity]) -> list[Oddity]:
    """The same with the numbers of the pages, which readers look for: a text pass knows revisions only."""
    unknown = sorted({each.rev_id for each in oddities if not each.page_id})
    pages: dict[int, int] = {}
    if unknown:
        with opened(work.access.address(work.run.wiki.name)) as rows:
            for start in range(0, len(unknown), _REVISIONS_A_QUERY):
                some = ", ".join(map(str, unknown[start : start + _REVISIONS_A_QUERY]))
                columns = f"{rows.number('rev_id')}, {rows.number('rev_page')}"
                for revision, page in rows.query(f"SELECT {columns} FROM revision WHERE rev_id IN ({some})"):  # noqa: S608
                    pages[int(revision)] = int(page)
    return [replace(each, page_id=each.page_id or pages.get(each.rev_id, 0)) for each in oddities]
