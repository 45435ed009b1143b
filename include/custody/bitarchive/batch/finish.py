"""The end of a batch: one output in the order of the names, post-processed, and an honest account of every file.

What is complete lies under ``output``; what is not, only under ``output.partial``: a part is never taken for the whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa

from custody import lease
from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.batch import sandbox
from custody.bitarchive.batch.inside import Order
from custody.bitarchive.batch.plan import Batch, directory_of, load
from custody.bitarchive.batch.spec import JobKind, frozen
from custody.bitarchive.batch.work import part_of
from custody.bitarchive.states import BatchState, FileState
from custody.bitarchive.tables import batch, batch_file
from custody.digests import Fixity, Hasher, blocks, read_file, reading
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.ledger.store import now
from custody.publish import fsync_directory, rename_noclobber, write_atomic

JOINED = "joined"
OUTPUT, PARTIAL, REPORT = "output", "output.partial", "report.json"


@dataclass(frozen=True)
class FileLine:
    """One file of the account."""

    position: int
    name: str
    node: str
    state: FileState
    attempts: int
    records: int
    damages: int
    output_bytes: int
    output_sha256: str | None
    error_class: str
    message: str
    offset_bytes: int
    detail: dict[str, Any]
    changed_at: datetime


@dataclass(frozen=True)
class Account:
    """What became of a batch.

    :param output: where the result lies: ``…/output``, or ``…/output.partial``; None where there is none.
    """

    batch: Batch
    state: BatchState
    counts: dict[FileState, int]
    output: Path | None
    records: int
    damages: int

    @property
    def processed(self) -> int:
        """Files that the job saw."""
        return sum(count for state, count in self.counts.items() if state.was_processed)

    @property
    def failures(self) -> int:
        """Of those, how many it could not do, wholly."""
        return sum(self.counts.get(state, 0) for state in (FileState.FAILED, FileState.DAMAGED))

    @property
    def summary(self) -> str:
        """The line of the old system, and what it kept silent about."""
        line = f"Processed {self.processed} files with {self.failures} failures"
        absent = {state: self.counts.get(state, 0) for state in FileState if not state.was_processed}
        left = [f"{count} {state}" for state, count in absent.items() if count]
        if not self.batch.files_expected:
            return f"{line}; 0 of {self.batch.files_in_replica} files of the replica match"
        return f"{line}; {', '.join(left)} of {self.batch.files_expected} files" if left else line

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "batch": self.batch.id,
            "archive": self.batch.archive,
            "replica": self.batch.replica,
            "job": self.batch.job.as_json(),
            "job_sha256": self.batch.job_sha256,
            "state": self.state,
            "summary": self.summary,
            "files": {state: self.counts.get(state, 0) for state in FileState},
            "files_expected": self.batch.files_expected,
            "files_in_replica": self.batch.files_in_replica,
            "records": self.records,
            "damages": self.damages,
            "output": str(self.output) if self.output else None,
            "output_bytes": self.batch.output_bytes,
            "output_sha256": self.batch.output_sha256,
        }


def lines(archive: Archive, batch_id: int, *, only_failed: bool = False) -> Iterator[FileLine]:
    """Every file of a batch, in the order of the output."""
    query = sa.select(batch_file).where(batch_file.c.batch_id == batch_id).order_by(batch_file.c.position)
    if only_failed:
        query = query.where(batch_file.c.state != FileState.DONE)
    with archive.ledger.read() as connection:
        for row in connection.execute(query).mappings():
            values = {key: row[key] for key in FileLine.__dataclass_fields__}
            yield FileLine(**(values | {"state": FileState(row["state"])}))


def account(archive: Archive, batch_id: int) -> Account:
    """Count; nothing is changed."""
    loaded = load(archive, batch_id)
    sums = (sa.func.count(), sa.func.sum(batch_file.c.records), sa.func.sum(batch_file.c.damages))
    query = sa.select(batch_file.c.state, *sums).where(batch_file.c.batch_id == batch_id).group_by(batch_file.c.state)
    with archive.ledger.read() as connection:
        rows = connection.execute(query).all()
    counts = {FileState(state): count for state, count, _, _ in rows}
    home = directory_of(archive, batch_id)
    output = next((home / name for name in (OUTPUT, PARTIAL) if (home / name).exists()), None)
    records, damages = (sum(int(row[number] or 0) for row in rows) for number in (2, 3))
    return Account(loaded, state_of(counts), counts, output, records, damages)


def state_of(counts: dict[FileState, int]) -> BatchState:
    """What the states of the files make of the batch: complete only where every file is done."""
    if counts.get(FileState.EXPECTED):
        return BatchState.RUNNING
    done = counts.get(FileState.DONE, 0)
    if not done and not counts.get(FileState.DAMAGED):
        return BatchState.NONE
    return BatchState.COMPLETE if done == sum(counts.values()) else BatchState.PARTIAL


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
        fixity = _make_output(archive, found, home)
        values = {
            "state": found.state,
            "summary": {state: count for state, count in found.counts.items()},
            "output_sha256": fixity.digests["sha256"] if fixity else None,
            "output_bytes": fixity.size_bytes if fixity else None,
            "changed_at": now(),
        }
        with archive.ledger.begin() as connection:
            held.check(connection)
            connection.execute(sa.update(batch).where(batch.c.id == batch_id).values(values))
            catalogue.event(connection, archive, who, "batch collected", str(batch_id), found.state)
        found = account(archive, batch_id)
        report = found.as_json() | {"failed": [_as_json(line) for line in lines(archive, batch_id, only_failed=True)]}
        write_atomic(home / REPORT, json.dumps(report, indent=1, default=str).encode() + b"\n")
        return found


def _as_json(line: FileLine) -> dict[str, Any]:
    return {key: getattr(line, key) for key in FileLine.__dataclass_fields__}


def _make_output(archive: Archive, found: Account, home: Path) -> Fixity | None:
    joined = home / JOINED
    final, other = (OUTPUT, PARTIAL) if found.state is BatchState.COMPLETE else (PARTIAL, OUTPUT)
    (home / other).unlink(missing_ok=True)
    if found.state is BatchState.NONE:
        (home / final).unlink(missing_ok=True)
        return None
    made = home / "made.tmp"
    with os_errors_as_faults(str(home)):
        if not joined.exists():
            _join(archive, found.batch, home, joined)  # concluded before: made anew, the same
        source = _post_process(archive, found.batch, home, joined, made)
        fixity = read_file(source, ("sha256",)).fixity
        source.replace(home / final)
        fsync_directory(home)
        for left in (joined, made):
            left.unlink(missing_ok=True)
    return fixity


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


def _post_process(archive: Archive, loaded: Batch, home: Path, joined: Path, made: Path) -> Path:
    """What the job makes of the outputs of all; where it says no, or fails, they stay as they are."""
    if loaded.job.kind is JobKind.EXECUTABLE:
        return joined
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
        reason = ended.stopped or (result and result.exceptions[0]["traceback"]) or ended.stderr_tail
        write_atomic(home / "post_process.err", str(reason).encode("utf-8", "backslashreplace") + b"\n")
        return joined
    return made if result.made_output else joined


def publish_output(found: Account, target: Path) -> Path | None:
    """Lay the result where the caller wants it; a partial one as ``NAME.partial``. Nothing is overwritten.

    Faults: CONFLICT where something is there already; what is there with equal bytes is taken as done.
    """
    if found.output is None:
        return None
    if found.state is not BatchState.COMPLETE:
        target = target.with_name(target.name + ".partial")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with os_errors_as_faults(str(target)):
        if target.exists() and read_file(target, ("sha256",)).fixity == read_file(found.output, ("sha256",)).fixity:
            return target
        try:
            with found.output.open("rb") as source, temporary.open("xb") as out:
                while block := source.read(1 << 20):
                    out.write(block)
                out.flush()
                os.fsync(out.fileno())
            rename_noclobber(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_directory(target.parent)
    return target


def describe_errors(archive: Archive, batch_id: int) -> str:
    """The errors as the old tool wrote them: failed files, then every exception."""
    failed = list(lines(archive, batch_id, only_failed=True))
    if not failed:
        return ""
    text = ["Failed files:", *(f"{line.name} ({line.state}): {line.message}" for line in failed)]
    for line in failed:
        for error in line.detail.get("exceptions", ()):
            text += [
                "",
                f"File: {error.get('file') or line.name}",
                f"Offset: {error.get('offset_bytes')}",
                f"OutputOffset: {error.get('output_offset_bytes')}",
                f"Class name: {error.get('class')}",
                f"In initialize: {error.get('phase') == 'initialize'}",
                f"In finish: {error.get('phase') == 'finish'}",
                str(error.get("traceback", "")).rstrip(),
            ]
        for damage in line.detail.get("damages", ()):
            place = f"offset {damage.get('offset_bytes')}, {damage.get('length_bytes')} bytes"
            text += ["", f"File: {line.name}", f"Damage: {place}: {damage.get('reason')}"]
    return "\n".join(text) + "\n"


def publish_text(text: str, target: Path) -> None:
    """Lay down a text where nothing is, or the same. Faults: CONFLICT."""
    with os_errors_as_faults(str(target)):
        try:
            with target.open("x", encoding="utf-8", errors="backslashreplace") as out:
                out.write(text)
        except FileExistsError:
            if target.read_text("utf-8", "backslashreplace") != text:
                raise
