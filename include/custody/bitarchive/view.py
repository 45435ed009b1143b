"""What the status page shows: archives and how their replicas stand, batches, and the files of one. Only read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from custody.bitarchive.states import BatchState, ChecksumStatus, FilelistStatus, FileState, UploadState
from custody.bitarchive.tables import archive_file, batch, batch_file, replica_file
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.ledger.tables import lease


@dataclass(frozen=True)
class ReplicaLine:
    """How the files of an archive stand in one replica, as last checked.

    :param unchecked: files whose bytes were never compared since they came in.
    """

    archive: str
    replica: str
    files: int
    size_bytes: int
    missing: int
    corrupt: int
    unfinished: int
    unchecked: int
    checked_at: datetime | None

    @property
    def is_bad(self) -> bool:
        """Whether somebody has to look."""
        return bool(self.missing or self.corrupt or self.unfinished)


@dataclass(frozen=True)
class BatchLine:
    """One batch."""

    id: int
    archive: str
    replica: str
    job: str
    regexp: str
    state: BatchState
    files_expected: int
    counts: Mapping[FileState, int]
    who: str
    created_at: datetime
    changed_at: datetime
    output_bytes: int | None
    output_sha256: str | None
    is_running: bool = False

    @property
    def done(self) -> int:
        """Files that are done."""
        return self.counts.get(FileState.DONE, 0)

    @property
    def not_done(self) -> str:
        """What is not done, in words."""
        return ", ".join(
            f"{count} {state}" for state, count in self.counts.items() if count and state is not FileState.DONE
        )


@dataclass(frozen=True)
class FileRow:
    """One file of a batch."""

    name: str
    node: str
    state: FileState
    attempts: int
    records: int
    damages: int
    output_bytes: int
    error_class: str
    message: str
    offset_bytes: int
    changed_at: datetime
    detail: Mapping[str, Any] = field(default_factory=dict)


def replicas(ledger: Ledger) -> list[ReplicaLine]:
    """Every replica of every archive."""

    def count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.sum(sa.case((condition, 1), else_=0))

    table = replica_file.c
    query = (
        sa.select(
            archive_file.c.archive,
            table.replica,
            sa.func.count(),
            sa.func.sum(archive_file.c.size_bytes),
            count(table.filelist_status == FilelistStatus.MISSING),
            count(table.checksum_status == ChecksumStatus.CORRUPT),
            count(table.upload_state != UploadState.UPLOAD_COMPLETED),
            count(table.checksum_checked_at.is_(None)),
            sa.func.max(table.checksum_checked_at),
        )
        .join(archive_file, archive_file.c.id == table.file_id)
        .group_by(archive_file.c.archive, table.replica)
        .order_by(archive_file.c.archive, table.replica)
    )
    with ledger.read() as connection:
        return [
            ReplicaLine(
                archive=row[0],
                replica=row[1],
                files=int(row[2]),
                size_bytes=int(row[3]),
                missing=int(row[4]),
                corrupt=int(row[5]),
                unfinished=int(row[6]),
                unchecked=int(row[7]),
                checked_at=row[8],
            )
            for row in connection.execute(query)
        ]


def batches(ledger: Ledger, *, limit: int, offset: int = 0, ids: list[int] | None = None) -> list[BatchLine]:
    """Batches, the newest first."""
    query = sa.select(batch).order_by(batch.c.id.desc()).limit(limit).offset(offset)
    if ids is not None:
        query = query.where(batch.c.id.in_(ids))
    with ledger.read() as connection:
        rows = connection.execute(query).all()
        numbers = [row.id for row in rows]
        counted = connection.execute(
            sa.select(batch_file.c.batch_id, batch_file.c.state, sa.func.count())
            .where(batch_file.c.batch_id.in_(numbers))
            .group_by(batch_file.c.batch_id, batch_file.c.state)
        ).all()
    busy = running(ledger)
    counts: dict[int, dict[FileState, int]] = {number: {} for number in numbers}
    for number, state, count in counted:
        counts[number][FileState(state)] = count
    return [
        BatchLine(
            row.id,
            row.archive,
            row.replica,
            row.request["job"]["name"],
            row.request["regexp"],
            BatchState(row.state),
            row.files_expected,
            counts[row.id],
            row.who,
            row.created_at,
            row.changed_at,
            row.output_bytes,
            row.output_sha256,
            row.id in busy,
        )
        for row in rows
    ]


def one_batch(ledger: Ledger, batch_id: int) -> BatchLine:
    """A batch by its number. Faults: CONFIG where there is none."""
    found = batches(ledger, limit=1, ids=[batch_id])
    if not found:
        raise Fault(FaultKind.CONFIG, f"batch {batch_id}", "is not on record")
    return found[0]


def count_batches(ledger: Ledger) -> int:
    """How many batches there are."""
    with ledger.read() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(batch)) or 0)


def files(ledger: Ledger, batch_id: int, *, only_failed: bool, limit: int, offset: int = 0) -> list[FileRow]:
    """The files of a batch, in the order of its output."""
    query = sa.select(batch_file).where(batch_file.c.batch_id == batch_id)
    if only_failed:
        query = query.where(batch_file.c.state != FileState.DONE)
    query = query.order_by(batch_file.c.position).limit(limit).offset(offset)
    with ledger.read() as connection:
        return [
            FileRow(**{name: row[name] for name in FileRow.__dataclass_fields__} | {"state": FileState(row["state"])})
            for row in connection.execute(query).mappings()
        ]


def running(ledger: Ledger) -> set[int]:
    """The batches of which a process has a bucket at this moment."""
    query = sa.select(lease.c.name).where(lease.c.name.like("bitarchive-batch/%"), lease.c.expires_at > now())
    with ledger.read() as connection:
        return {int(name.split("/")[1]) for name in connection.scalars(query)}
