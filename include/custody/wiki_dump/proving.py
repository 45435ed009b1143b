"""Reading back what a job made, and letting it appear under its names: all of a job's files, or none."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from custody import gate
from custody.digests import Fixity, Match
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.ledger import CopyState
from custody.ledger.store import disk_place
from custody.publish import fsync_directory, rename_noclobber
from custody.wiki_dump import runs, shelf
from custody.wiki_dump.bz2.verify import Verified, verify
from custody.wiki_dump.layout import INPROG, write_public
from custody.wiki_dump.making import directory_of, inprog_of, reading_tools
from custody.wiki_dump.runs import FileRow, FileState
from custody.wiki_dump.status import SUMS, JobState, lost_texts
from custody.wiki_dump.work import Work

_COUNTED = {"pages": "pages", "revisions": "revisions", "log_items": "log_items"}


def jobs_to_prove(work: Work) -> list[str]:
    """The jobs that have files which are not published yet, in order; not those that failed while they were made."""
    with work.ledger.read() as connection:
        jobs = runs.jobs_of(connection, work.run.id)
        files = runs.files_of(connection, work.run.id)
    waiting = {file.job for file in files if file.state is not FileState.PUBLISHED}
    unmade = {file.job for file in files if file.state is FileState.PLANNED}
    return [
        job.name
        for job in jobs
        if job.name in waiting
        and job.state is not JobState.SKIPPED
        and not (job.state is JobState.FAILED and job.name in unmade)
    ]


def prove_job(work: Work, job: str) -> int:
    """Read every file of a job back, ask the gate, and publish them; returns their number.

    Faults: DATA where a file is not whole: it is set aside as ``.truncated`` or ``.empty`` and made again by the next
    run. CONFLICT where something else lies under a name.
    """
    work.job = job
    with work.ledger.read() as connection:
        files = runs.files_of(connection, work.run.id, job)
    verified = {file.name: _verified(work, file) for file in files if file.state is not FileState.PUBLISHED}
    known = [file.name for file in files if file.state is FileState.PUBLISHED]
    verdict = gate.may_publish([file.name for file in files], [*known, *verified])
    if not verdict.allowed:
        raise Fault(FaultKind.DATA, f"{work.run.subject} {job}", str(verdict), next_command="run it again")
    for file in files:
        if file.name in verified:
            _publish(work, file, verified[file.name])
    lost = sum(int(file.counts.get("lost", 0)) for file in files)
    note = f"{lost_texts(lost)} could not be had and {'is' if lost == 1 else 'are'} empty here" if lost else ""
    with work.transaction() as connection:
        row = next(row for row in runs.jobs_of(connection, work.run.id) if row.name == job)
        if row.lost and not lost:
            note = f"{row.lost} revisions or pages are not whole in the wiki's own database"
        runs.set_job(connection, work.run.id, job, JobState.DONE, note=note, lost=max(lost, row.lost))
        work.event(connection, "published", job=job, files=len(files), lost=lost)
    shelf.write_status(work.ledger, work.run.id)
    return len(files)


def _verified(work: Work, file: FileRow) -> Verified:
    """Read it where it lies: under its final name only after a crash between the rename and the record."""
    inprog = inprog_of(work.run, file)
    path = inprog if inprog.exists() else directory_of(work.run, file) / file.name
    if file.state is FileState.PLANNED or not path.exists():
        raise Fault(FaultKind.DATA, file.name, "was not made, whatever its task is marked as", next_command="run again")
    try:
        found = verify(path, tools=reading_tools(work.run.settings), name=file.name)
        _compare(file, found)
    except Fault as fault:
        if fault.kind is FaultKind.DATA and path == inprog:
            _set_aside(work, file, inprog)
        raise
    work.heartbeat.advance(bytes=found.fixity.size_bytes)
    return found


def _compare(file: FileRow, found: Verified) -> None:
    """What was read back against what its maker counted: a closing tag alone proves nothing."""
    for counted, read in _COUNTED.items():
        expected = file.counts.get(counted)
        if expected is not None and file.name.split(".")[-2:-1] != ["sql"] and getattr(found.content, read) != expected:
            reason = f"holds {getattr(found.content, read)} {counted}, and {expected} were written"
            raise Fault(FaultKind.DATA, file.name, reason, next_command="make this file again")
    if file.size_bytes is not None and found.fixity.size_bytes != file.size_bytes:
        reason = f"has {found.fixity.size_bytes} bytes, and {file.size_bytes} were written"
        raise Fault(FaultKind.DATA, file.name, reason, next_command="make this file again")


def _set_aside(work: Work, file: FileRow, inprog: Path) -> None:
    """A file that is not whole keeps its bytes under a name that says so; it is made anew."""
    with suppress(OSError):
        suffix = ".empty" if inprog.stat().st_size == 0 else ".truncated"
        inprog.replace(inprog.with_name(inprog.name.removesuffix(INPROG) + suffix))
    with work.transaction() as connection:
        runs.set_file(connection, file.id, FileState.FAILED)
        work.event(connection, "refused", "data", file=file.name)


def _publish(work: Work, file: FileRow, found: Verified) -> None:
    directory = directory_of(work.run, file)
    final, inprog = directory / file.name, inprog_of(work.run, file)
    with work.transaction():
        pass  # fenced: whoever lost the lease meanwhile renames nothing
    if inprog.exists():
        _rename(work, inprog, final, found.fixity)
        with os_errors_as_faults(str(directory)):
            fsync_directory(directory)
    mode = 0o600 if file.private else work.run.settings.fileperms
    for algorithm in SUMS:  # beside the file: of a private one in the private tree, where a lost ledger finds them
        content = f"{found.fixity.digests[algorithm]}  {file.name}\n".encode()
        write_public(directory / f"{algorithm}sums-{file.name}.txt", content, mode)
    with work.transaction() as connection:
        sums = {name: found.fixity.digests[name] for name in SUMS}
        counts = {**file.counts, "content_bytes": found.content.size_bytes}
        if found.content.pages:
            counts |= {"first_page": found.content.first_page, "last_page": found.content.last_page}
        size = found.fixity.size_bytes
        runs.set_file(connection, file.id, FileState.PUBLISHED, size_bytes=size, counts=counts, **sums)
        file_id = work.ledger.record_file(connection, file.name, found.fixity)
        copy_id = work.ledger.record_copy(connection, file_id, disk_place(final), CopyState.PRESENT)
        work.ledger.record_proof(connection, copy_id, "readback", found.fixity, work.who)


def _rename(work: Work, inprog: Path, final: Path, fixity: Fixity) -> None:
    """Nothing that is not ours is overwritten; a file of this run that is made again replaces the old one."""
    try:
        rename_noclobber(inprog, final)
        return
    except Fault as fault:
        if fault.kind is not FaultKind.CONFLICT:
            raise
    from custody.digests import read_file

    there = read_file(final, SUMS).fixity
    if there.compare(fixity) is not Match.EQUAL and not _is_ours(work, final, there):
        reason = "other bytes lie there that no run put on record"
        raise Fault(FaultKind.CONFLICT, str(final), reason, next_command=f"mv {final} {final}.old")
    with os_errors_as_faults(str(final)):
        os.replace(inprog, final)  # noqa: PTH105 - the pair of it above


def _is_ours(work: Work, final: Path, there: Fixity) -> bool:
    place = disk_place(final)
    return any(
        found.place == place and found.identity == f"sha256:{there.digests['sha256']}"
        for found in work.ledger.where_is(final.name)
    )
