"""The account of a batch: what became of every file, counted and told; nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from custody.bitarchive.archive import Archive
from custody.bitarchive.batch.plan import Batch, directory_of, load
from custody.bitarchive.states import BatchState, FileState
from custody.bitarchive.tables import batch_file

OUTPUT, PARTIAL = "output", "output.partial"
POST_ERROR = "post_process"
"""In the summary of a batch: why its outputs could not be post-processed."""


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
    def post_error(self) -> str:
        """Why the outputs could not be post-processed; empty where they were, or nobody asked for it."""
        return str(self.batch.summary.get(POST_ERROR) or "")

    @property
    def summary(self) -> str:
        """The line of the old system, and what it kept silent about."""
        line = f"Processed {self.processed} files with {self.failures} failures"
        if self.post_error:
            line += "; post_process failed"
        absent = {state: self.counts.get(state, 0) for state in FileState if not state.was_processed}
        left = [f"{count} {state}" for state, count in absent.items() if count]
        if not self.batch.files_in_replica:
            return f"{line}; replica {self.batch.replica} has no files on record. Next: {self._adopt}"
        if not self.batch.files_expected:
            return f"{line}; 0 of {self.batch.files_in_replica} files of the replica match"
        return f"{line}; {', '.join(left)} of {self.batch.files_expected} files" if left else line

    @property
    def _adopt(self) -> str:
        return f"custody bitarchive adopt {self.batch.archive} {self.batch.replica}"

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
            "post_process": self.post_error,
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
    state = state_of(counts)
    if state is BatchState.COMPLETE and loaded.summary.get(POST_ERROR):
        state = BatchState.PARTIAL
    return Account(loaded, state, counts, output, records, damages)


def state_of(counts: dict[FileState, int]) -> BatchState:
    """What the states of the files make of the batch: complete only where every file is done."""
    if counts.get(FileState.EXPECTED):
        return BatchState.RUNNING
    done = counts.get(FileState.DONE, 0)
    if not done and not counts.get(FileState.DAMAGED):
        return BatchState.NONE
    return BatchState.COMPLETE if done == sum(counts.values()) else BatchState.PARTIAL


def describe_errors(archive: Archive, batch_id: int) -> str:
    """The errors as the old tool wrote them: failed files, then every exception."""
    failed = list(lines(archive, batch_id, only_failed=True))
    post_error = account(archive, batch_id).post_error
    text = ["Failed files:", *(f"{line.name} ({line.state}): {line.message}" for line in failed)] if failed else []
    if post_error:
        text += ["post_process failed; the output is that of the files, one after the other:", post_error.rstrip()]
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
    return "\n".join(text) + "\n" if text else ""
