"""The beginning of a batch: the job frozen, and the list of files it is to see, before anything runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.batch import walls
from custody.bitarchive.batch.spec import Given, Job, freeze
from custody.bitarchive.config import replica_for_files
from custody.bitarchive.matching import matching
from custody.bitarchive.states import BatchState, FileState
from custody.bitarchive.tables import batch, batch_file
from custody.faults import Fault, FaultKind
from custody.ledger.store import now

MAX_BUCKETS = 1000  # Airflow maps at most 1024


@dataclass(frozen=True)
class Request:
    """What a batch is asked to do beside its job.

    :param regexp: a file's whole base name must match it.
    :param replica: id or name; None: the archive's ``use_replica``.
    :param names: only these files (a preservation's or an index's own list).
    :param file_timeout_s, job_timeout_s, max_exceptions: None: as configured.
    """

    regexp: str = ".*"
    replica: str | None = None
    names: tuple[str, ...] | None = None
    file_timeout_s: float | None = None
    job_timeout_s: float | None = None
    max_exceptions: int | None = None


@dataclass(frozen=True)
class Batch:
    """A batch as the ledger has it."""

    id: int
    key: str
    archive: str
    replica: str
    job: Job
    job_sha256: str
    request: Request
    state: BatchState
    files_in_replica: int
    files_expected: int
    summary: Mapping[str, Any] = field(default_factory=dict)
    output_sha256: str | None = None
    output_bytes: int | None = None


def directory_of(archive: Archive, batch_id: int) -> Path:
    """Where a batch keeps its job, its parts and its output."""
    return archive.config.work_dir / "batches" / str(batch_id)


def create(archive: Archive, given: Given, request: Request, *, key: str, who: str) -> Batch:
    """Freeze the job and write down every file that it is to see; a batch of this key is found, not made again.

    Faults: CONFIG for a bad pattern, an unknown or unfit replica, or where there is no sandbox.
    """
    if known := by_key(archive, key):
        return known
    walls.require(archive.config.isolation)
    replica = replica_for_files(archive.config, request.replica)
    held = list(catalogue.held_by(archive, replica))
    meant = set(matching(request.regexp, [file.name for file in held]))
    if request.names is not None:
        meant &= set(request.names)
    expected = [file for file in held if file.name in meant]
    staging = archive.config.work_dir / "batches" / f".{_safe(key)}"
    _, sha256 = freeze(given, staging)
    values = {
        "key": key,
        "archive": archive.name,
        "replica": replica.id,
        "request": {"job": given.job.as_json(), **asdict(request), "names": None},
        "job_sha256": sha256,
        "files_in_replica": len(held),
        "files_expected": len(expected),
        "state": BatchState.RUNNING,
        "summary": {},
        "who": who,
        "created_at": now(),
        "changed_at": now(),
    }
    try:
        _write(archive, given, request, values, expected, who)
    except sa.exc.IntegrityError:
        if (known := by_key(archive, key)) is None:  # another start of the same run was quicker
            raise
        return known
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    found = by_key(archive, key)
    assert found is not None
    return found


def _write(
    archive: Archive,
    given: Given,
    request: Request,
    values: Mapping[str, Any],
    expected: Sequence[catalogue.Held],
    who: str,
) -> None:
    with archive.ledger.begin() as connection:
        inserted = connection.execute(sa.insert(batch).values(values)).inserted_primary_key
        assert inserted is not None
        batch_id = int(inserted[0])
        rows = list(_rows(batch_id, expected, archive.config.bucket_size))
        for start in range(0, len(rows), 1000):
            connection.execute(sa.insert(batch_file), rows[start : start + 1000])
        catalogue.event(
            connection, archive, who, "batch", str(batch_id), job=str(given.job), regexp=request.regexp, files=len(rows)
        )
        home = directory_of(archive, batch_id)
        home.mkdir(parents=True, exist_ok=True)
        freeze(given, home / "job")


def _safe(key: str) -> str:
    import hashlib

    return hashlib.sha256(key.encode()).hexdigest()[:24]


def _rows(batch_id: int, files: Iterable[catalogue.Held], bucket_bytes: int) -> Iterator[dict[str, Any]]:
    """A row for each file; files of one node fill a bucket up to so many bytes."""
    files = list(files)
    total = sum(file.fixity.size_bytes for file in files)
    bucket_bytes = max(bucket_bytes, total // (MAX_BUCKETS // 2) + 1)
    buckets: dict[str, tuple[int, int]] = {}
    count = 0
    for position, file in enumerate(files):
        number, filled = buckets.get(file.node, (-1, bucket_bytes))
        if filled + file.fixity.size_bytes > bucket_bytes and filled:
            number, filled, count = count, 0, count + 1
        buckets[file.node] = (number, filled + file.fixity.size_bytes)
        yield {
            "batch_id": batch_id,
            "position": position,
            "name": file.name,
            "node": file.node,
            "bucket": number,
            "size_bytes": file.fixity.size_bytes,
            "state": FileState.EXPECTED,
            "detail": {},
            "changed_at": now(),
        }


def by_key(archive: Archive, key: str) -> Batch | None:
    """The batch of a key; None where there is none."""
    with archive.ledger.read() as connection:
        row = connection.execute(sa.select(batch).where(batch.c.key == key)).one_or_none()
    return _batch(row) if row else None


def load(archive: Archive, batch_id: int) -> Batch:
    """A batch by its number. Faults: CONFIG where the archive has none of it."""
    query = sa.select(batch).where(batch.c.id == batch_id, batch.c.archive == archive.name)
    with archive.ledger.read() as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        raise Fault(FaultKind.CONFIG, f"batch {batch_id}", f"is not on record for archive {archive.name}")
    return _batch(row)


def _batch(row: sa.Row[Any]) -> Batch:
    values = dict(row.request)
    job = Job.from_json(values.pop("job"))
    return Batch(
        row.id,
        row.key,
        row.archive,
        row.replica,
        job,
        row.job_sha256,
        Request(**values),
        BatchState(row.state),
        row.files_in_replica,
        row.files_expected,
        row.summary,
        row.output_sha256,
        row.output_bytes,
    )


@dataclass(frozen=True)
class Bucket:
    """The files that one task takes: all on one node."""

    number: int
    node: str
    files: int
    size_bytes: int


def buckets_to_run(archive: Archive, batch_id: int) -> list[Bucket]:
    """The buckets with files that are not done."""
    columns = (batch_file.c.bucket, batch_file.c.node, sa.func.count(), sa.func.sum(batch_file.c.size_bytes))
    query = (
        sa.select(*columns)
        .where(batch_file.c.batch_id == batch_id, batch_file.c.state != FileState.DONE)
        .group_by(batch_file.c.bucket, batch_file.c.node)
        .order_by(batch_file.c.bucket)
    )
    with archive.ledger.read() as connection:
        return [Bucket(number, node, files, int(size)) for number, node, files, size in connection.execute(query)]


def node_of(archive: Archive, batch_id: int, bucket: int) -> str:
    """The node whose files a bucket holds. Faults: CONFIG where the batch has no such bucket."""
    query = sa.select(batch_file.c.node).where(batch_file.c.batch_id == batch_id, batch_file.c.bucket == bucket)
    with archive.ledger.read() as connection:
        node = connection.scalar(query.limit(1))
    if node is None:
        raise Fault(FaultKind.CONFIG, f"batch {batch_id}", f"has no bucket {bucket}")
    return str(node)


def retry(archive: Archive, batch_id: int, *, who: str) -> int:
    """Let every file that is not done be processed again; returns how many those are."""
    loaded = load(archive, batch_id)
    with archive.ledger.begin() as connection:
        count = connection.execute(
            sa.update(batch_file)
            .where(batch_file.c.batch_id == loaded.id, batch_file.c.state != FileState.DONE)
            .values(state=FileState.EXPECTED, changed_at=now())
        ).rowcount
        connection.execute(
            sa.update(batch).where(batch.c.id == loaded.id).values(state=BatchState.RUNNING, changed_at=now())
        )
        catalogue.event(connection, archive, who, "batch retry", str(batch_id), files=count)
    return count
