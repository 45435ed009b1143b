"""The end of a batch: one output in the order of the names, post-processed, and an honest account of every file.

What is complete lies under ``output``; what is not, only under ``output.partial``: a part is never taken for the whole.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa

from custody import lease
from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.batch import sandbox
from custody.bitarchive.batch.accounts import OUTPUT, PARTIAL, POST_ERROR, Account, FileLine, account, lines, state_of
from custody.bitarchive.batch.inside import Order
from custody.bitarchive.batch.judge import clean
from custody.bitarchive.batch.plan import Batch, directory_of
from custody.bitarchive.batch.spec import JobKind, frozen
from custody.bitarchive.batch.work import part_of
from custody.bitarchive.states import BatchState, FileState
from custody.bitarchive.tables import batch, batch_file
from custody.digests import Fixity, Hasher, blocks, read_file, reading
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.ledger.store import now
from custody.publish import fsync_directory, write_atomic

JOINED = "joined"
REPORT = "report.json"


def collect(archive: Archive, batch_id: int, *, who: str) -> Account:
    """Join the outputs and make the result of them: :func:`join` and :func:`conclude`."""
    join(archive, batch_id)
    return conclude(archive, batch_id, who=who)


def join(archive: Archive, batch_id: int) -> Account:
    """Join the outputs of the files, in the order of their names, each compared with what was recorded of it.

    May be run again: the same parts make the same bytes. Faults: NEEDS_HUMAN where files wait to be processed, DATA
    where a part is not what it was.
    """
    with lease.hold(archive.ledger, _lease_name(batch_id)):
        found = account(archive, batch_id)
        _require_settled(archive, found)
        if found.state is not BatchState.NONE:
            home = directory_of(archive, batch_id)
            with os_errors_as_faults(str(home)):
                _join(archive, found.batch, home, home / "joining.tmp")
                (home / "joining.tmp").replace(home / JOINED)
        return found


def _lease_name(batch_id: int) -> str:
    return f"bitarchive-batch/{batch_id}/collect"


def _require_settled(archive: Archive, found: Account) -> None:
    if found.state is BatchState.RUNNING:
        waiting = found.counts[FileState.EXPECTED]
        command = f"custody bitarchive batch {archive.name} --retry-failed {found.batch.id}"
        reason = f"{waiting} files wait to be processed; nothing was done, whatever the task before is marked as"
        raise Fault(FaultKind.NEEDS_HUMAN, f"batch {found.batch.id}", reason, next_command=command)


def conclude(archive: Archive, batch_id: int, *, who: str) -> Account:
    """Post-process what was joined, lay it down, and write down how the batch stands. Faults: as :func:`join`."""
    with lease.hold(archive.ledger, _lease_name(batch_id)) as held:
        found = account(archive, batch_id)
        _require_settled(archive, found)
        home = directory_of(archive, batch_id)
        made = _make_output(archive, found, home)
        fixity = made.fixity
        values = {
            "state": made.state,
            "summary": {state: count for state, count in found.counts.items()} | {POST_ERROR: made.post_error},
            "output_sha256": fixity.digests["sha256"] if fixity else None,
            "output_bytes": fixity.size_bytes if fixity else None,
            "changed_at": now(),
        }
        with archive.ledger.begin() as connection:
            held.check(connection)
            connection.execute(sa.update(batch).where(batch.c.id == batch_id).values(values))
            catalogue.event(connection, archive, who, "batch collected", str(batch_id), made.state)
        found = account(archive, batch_id)
        report = found.as_json() | {"failed": [_as_json(line) for line in lines(archive, batch_id, only_failed=True)]}
        write_atomic(home / REPORT, json.dumps(report, indent=1, default=str).encode() + b"\n")
        return found


def _as_json(line: FileLine) -> dict[str, Any]:
    return {key: getattr(line, key) for key in FileLine.__dataclass_fields__}


@dataclass(frozen=True)
class _Made:
    """The result: what the batch is, its bytes, and why it was not post-processed (empty: it was)."""

    state: BatchState
    fixity: Fixity | None
    post_error: str = ""


def _make_output(archive: Archive, found: Account, home: Path) -> _Made:
    state, joined, made = state_of(found.counts), home / JOINED, home / "made.tmp"
    if state is BatchState.NONE:
        for name in (OUTPUT, PARTIAL):
            (home / name).unlink(missing_ok=True)
        return _Made(state, None)
    with os_errors_as_faults(str(home)):
        if not joined.exists():
            _join(archive, found.batch, home, joined)  # concluded before: made anew, the same
        source, post_error = _post_process(archive, found.batch, home, joined, made)
        state = BatchState.PARTIAL if post_error else state
        final, other = (OUTPUT, PARTIAL) if state is BatchState.COMPLETE else (PARTIAL, OUTPUT)
        fixity = read_file(source, ("sha256",)).fixity
        (home / other).unlink(missing_ok=True)
        source.replace(home / final)
        fsync_directory(home)
        for left in (joined, made):
            left.unlink(missing_ok=True)
    return _Made(state, fixity, post_error)


def _join(archive: Archive, loaded: Batch, home: Path, joined: Path) -> None:
    """The parts, in order; one that is not what was recorded stops it, and its file is to be done again."""
    spoilt: list[Path] = []
    with joined.open("wb") as out:
        for line in lines(archive, loaded.id):
            if not line.state.has_output:
                continue
            part = part_of(home, line.position)
            if _append(part, out) != line.output_sha256:
                _set_back(archive, loaded, line, part)
                spoilt.append(part)
        out.flush()
        os.fsync(out.fileno())
    if spoilt:
        reason = f"its bytes are not those that were recorded ({len(spoilt)} such parts)"
        command = f"custody bitarchive batch {archive.name} --retry-failed {loaded.id}"
        raise Fault(FaultKind.DATA, str(spoilt[0]), reason, next_command=command)


def _append(part: Path, out: BinaryIO) -> str | None:
    """Copy a part; returns its sha256, None where there is none."""
    if not part.exists():
        return None
    hasher = Hasher(("sha256",))
    with reading(part) as descriptor:
        for block in blocks(descriptor):
            hasher.update(block)
            out.write(block)
    return hasher.fixity().digests["sha256"]


def _set_back(archive: Archive, loaded: Batch, line: FileLine, part: Path) -> None:
    with archive.ledger.begin() as connection:
        connection.execute(
            sa.update(batch_file)
            .where(batch_file.c.batch_id == loaded.id, batch_file.c.position == line.position)
            .values(state=FileState.EXPECTED, message=f"{part}: its bytes are not those that were recorded")
        )


def _post_process(archive: Archive, loaded: Batch, home: Path, joined: Path, made: Path) -> tuple[Path, str]:
    """What the job makes of the outputs of all, and why it failed to; where it says no, or fails, they stay as is."""
    if loaded.job.kind is JobKind.EXECUTABLE:
        return joined, ""
    joined.chmod(0o644)  # the sandbox's user must read it
    config, job = archive.config, loaded.job
    order = Order(
        mode="post",
        kind=job.kind,
        job=job.name,
        class_name=job.class_name,
        arguments=list(job.arguments),
        code="",
        name="outputs",
        path="",
        limits={},
    )
    code = frozen(job, home / "job", loaded.job_sha256)
    timeout_s = loaded.request.job_timeout_s or config.job_timeout_s
    task = sandbox.Task(order, joined, code, config.limits, timeout_s, config.isolation)
    ended = sandbox.run(task, made)
    result = ended.result
    if ended.stopped or result is None or result.exceptions:
        reason = ended.stopped or (result and result.exceptions[0].get("traceback")) or ended.stderr_tail
        return joined, clean(reason or "ended without a word", 20_000)
    return (made if result.made_output else joined), ""
