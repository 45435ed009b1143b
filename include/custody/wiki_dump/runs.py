"""Runs on record: which wiki, which date, under which frozen settings, how far; and their jobs and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.wiki_dump import tables
from custody.wiki_dump.conf import digest_of
from custody.wiki_dump.farm import Wiki
from custody.wiki_dump.farm_config import FarmConfig
from custody.wiki_dump.layout import Places
from custody.wiki_dump.settings import Settings
from custody.wiki_dump.status import JobState, RunState

ROOM = "wiki_dump"


class FileState(StrEnum):
    """Where a file of a run stands."""

    PLANNED = "planned"
    MADE = "made"  # written to its end under its name with .inprog
    VERIFIED = "verified"  # read back and found whole
    PUBLISHED = "published"  # under its own name
    FAILED = "failed"


@dataclass(frozen=True)
class Options:
    """What was asked of a run."""

    jobs: tuple[str, ...] = ()
    restartfrom: str | None = None
    skipjobs: tuple[str, ...] = ()
    skipdone: bool = False
    noop: bool = False
    prefetch: bool = True
    prefetchdate: str | None = None
    redo: bool = False

    @classmethod
    def thaw(cls, frozen: Mapping[str, Any]) -> Options:
        """As they were put on record."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in frozen.items()
        }
        return cls(**values)

    @property
    def is_partial(self) -> bool:
        """Whether only some jobs were asked for."""
        return bool(self.jobs or self.restartfrom or self.noop)


@dataclass(frozen=True)
class Run:
    """A run, as the ledger has it."""

    id: int
    config: str
    wiki: Wiki
    date: str
    owner: str
    state: RunState
    token: int
    farm: FarmConfig
    settings: Settings
    options: Options
    fault: str | None
    started_at: datetime
    changed_at: datetime
    snapshot: Mapping[str, Any] = field(default_factory=dict)

    @property
    def places(self) -> Places:
        """Its directories."""
        return Places.of(self.wiki, self.settings)

    @property
    def lease_name(self) -> str:
        """The lease of its wiki."""
        return lease_name(self.places)

    @property
    def url(self) -> str:
        """The root-relative address of its published files."""
        return f"/{self.wiki.name}/{self.date}"

    @property
    def subject(self) -> str:
        """How the audit names it."""
        return f"{self.wiki.name} {self.date}"


@dataclass(frozen=True)
class JobRow:
    """A job of a run."""

    name: str
    position: int
    state: JobState
    note: str
    lost: int
    updated_at: datetime


@dataclass(frozen=True)
class FileRow:
    """A file of a run."""

    id: int
    run_id: int
    job: str
    name: str
    state: FileState
    private: bool
    part: int | None
    first_page: int | None
    last_page: int | None
    size_bytes: int | None
    sums: Mapping[str, str]
    counts: Mapping[str, Any]


def lease_name(places: Places) -> str:
    """One owner at a time for what lies in a wiki's private directory, whatever configuration leads there."""
    from custody.ledger.store import place_key

    return f"wiki_dump/{places.wiki.name}/{place_key(str(places.private.resolve()))[:32]}"


def freeze(wiki: Wiki, farm: FarmConfig, settings: Settings) -> dict[str, Any]:
    """What a run keeps of its configuration for as long as it lasts."""
    return {"wiki": asdict(wiki), "farm": farm.model_dump(mode="json"), "settings": settings.frozen()}


def add(
    connection: Connection,
    config: str,
    wiki: Wiki,
    date: str,
    *,
    owner: str,
    token: int,
    farm: FarmConfig,
    settings: Settings,
    options: Options,
) -> int:
    """Put a run on record, or take the one of this wiki and date up again; returns its number."""
    from custody.ledger.store import place_key

    frozen = freeze(wiki, farm, settings)
    key = place_key(str(Places.of(wiki, settings).private.resolve()))
    values = {
        "config": config,
        "owner": owner,
        "state": RunState.RUNNING,
        "token": token,
        "frozen": frozen,
        "frozen_sha256": digest_of(frozen),
        "options": asdict(options),
        "fault": None,
        "fault_text": None,
        "changed_at": now(),
    }
    there = connection.scalar(
        sa.select(tables.run.c.id).where(tables.run.c.place_key == key, tables.run.c.date == date)
    )
    if there is not None:
        connection.execute(sa.update(tables.run).where(tables.run.c.id == there).values(**values))
        return int(there)
    values |= {"wiki": wiki.name, "date": date, "place_key": key, "snapshot": {}, "wanted": [], "started_at": now()}
    inserted = connection.execute(sa.insert(tables.run).values(**values)).inserted_primary_key
    assert inserted is not None
    return int(inserted[0])


def load(ledger: Ledger, run_id: int) -> Run:
    """Read a run. Faults: CONFIG where there is none."""
    with ledger.read() as connection:
        row = connection.execute(sa.select(tables.run).where(tables.run.c.id == run_id)).one_or_none()
    if row is None:
        raise Fault(FaultKind.CONFIG, f"run {run_id}", "there is none")
    return _run(row)


def select(ledger: Ledger, *where: sa.ColumnElement[bool], limit: int = 100) -> list[Run]:
    """Runs, youngest change first."""
    query = sa.select(tables.run).where(*where).order_by(tables.run.c.changed_at.desc()).limit(limit)
    with ledger.read() as connection:
        return [_run(row) for row in connection.execute(query)]


def of_owner(ledger: Ledger, owner: str) -> Run | None:
    """The run that this owner claimed last and is not over, if any."""
    found = select(ledger, tables.run.c.owner == owner, limit=1)
    return found[0] if found else None


def _run(row: Any) -> Run:
    frozen = row.frozen
    return Run(
        row.id,
        row.config,
        Wiki(**frozen["wiki"]),
        row.date,
        row.owner,
        RunState(row.state),
        row.token,
        FarmConfig.model_validate(frozen["farm"]),
        Settings.thaw(frozen["settings"]),
        Options.thaw(row.options),
        row.fault_text,
        row.started_at,
        row.changed_at,
        row.snapshot,
    )


def set_run(connection: Connection, run_id: int, **values: Any) -> None:
    """Change a run."""
    values["changed_at"] = now()
    connection.execute(sa.update(tables.run).where(tables.run.c.id == run_id).values(**values))


def wanted(connection: Connection, run_id: int) -> list[str]:
    """The names of the jobs that a run does."""
    return list(connection.scalar(sa.select(tables.run.c.wanted).where(tables.run.c.id == run_id)) or [])


def jobs_of(connection: Connection, run_id: int) -> list[JobRow]:
    """The jobs of a run, in order."""
    query = sa.select(tables.job).where(tables.job.c.run_id == run_id).order_by(tables.job.c.position)
    return [
        JobRow(row.name, row.position, JobState(row.state), row.note, row.lost, row.updated_at)
        for row in connection.execute(query)
    ]


def failed_jobs(connection: Connection, run_id: int) -> list[str]:
    """The names of the jobs of a run that failed."""
    return [job.name for job in jobs_of(connection, run_id) if job.state is JobState.FAILED]


def put_jobs(connection: Connection, run_id: int, names: Sequence[str], states: Mapping[str, JobState]) -> None:
    """Write the list of jobs; those on record keep their state unless ``states`` names another."""
    known = {job.name: job for job in jobs_of(connection, run_id)}
    for position, name in enumerate(names):
        if name not in known:
            state = states.get(name, JobState.WAITING)
            values = {"run_id": run_id, "position": position, "name": name, "state": state, "note": "", "lost": 0}
            connection.execute(sa.insert(tables.job).values(updated_at=now(), **values))
            continue
        values = {"position": position}
        if name in states and states[name] is not known[name].state:
            values |= {"state": states[name], "note": "", "lost": 0, "updated_at": now()}
        connection.execute(
            sa.update(tables.job).where(tables.job.c.run_id == run_id, tables.job.c.name == name).values(**values)
        )


def set_job(connection: Connection, run_id: int, name: str, state: JobState, **values: Any) -> None:
    """Change a job."""
    where = (tables.job.c.run_id == run_id, tables.job.c.name == name)
    connection.execute(sa.update(tables.job).where(*where).values(state=state, updated_at=now(), **values))


def files_of(connection: Connection, run_id: int, job: str | None = None) -> list[FileRow]:
    """The files of a run, or of one of its jobs, by part and page."""
    where = [tables.file.c.run_id == run_id] + ([tables.file.c.job == job] if job else [])
    query = sa.select(tables.file).where(*where).order_by(tables.file.c.id)
    return [_file(row) for row in connection.execute(query)]


def load_file(ledger: Ledger, file_id: int) -> FileRow:
    """One file. Faults: CONFIG where there is none."""
    with ledger.read() as connection:
        row = connection.execute(sa.select(tables.file).where(tables.file.c.id == file_id)).one_or_none()
    if row is None:
        raise Fault(FaultKind.CONFIG, f"file {file_id}", "there is none")
    return _file(row)


def _file(row: Any) -> FileRow:
    sums = {name: getattr(row, name) for name in ("md5", "sha1", "sha256") if getattr(row, name)}
    return FileRow(
        row.id,
        row.run_id,
        row.job,
        row.name,
        FileState(row.state),
        row.private,
        row.part,
        row.first_page,
        row.last_page,
        row.size_bytes,
        sums,
        row.counts,
    )


def put_file(
    connection: Connection,
    run_id: int,
    job: str,
    name: str,
    *,
    private: bool = False,
    part: int | None = None,
    pages: tuple[int, int] | None = None,
) -> int:
    """Plan a file, or find it planned; returns its number."""
    known = connection.scalar(
        sa.select(tables.file.c.id).where(tables.file.c.run_id == run_id, tables.file.c.name == name)
    )
    if known is not None:
        return int(known)
    first, last = pages or (None, None)
    values = {
        "run_id": run_id,
        "job": job,
        "name": name,
        "state": FileState.PLANNED,
        "private": private,
        "part": part,
        "first_page": first,
        "last_page": last,
        "counts": {},
    }
    inserted = connection.execute(sa.insert(tables.file).values(**values)).inserted_primary_key
    assert inserted is not None
    return int(inserted[0])


def set_file(connection: Connection, file_id: int, state: FileState, **values: Any) -> None:
    """Change a file."""
    connection.execute(sa.update(tables.file).where(tables.file.c.id == file_id).values(state=state, **values))


def drop_files(connection: Connection, run_id: int, job: str) -> None:
    """Forget the files of a job that is to be made anew."""
    connection.execute(sa.delete(tables.file).where(tables.file.c.run_id == run_id, tables.file.c.job == job))
