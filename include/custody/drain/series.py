"""A series: the files of one item on their way from disk to deletion, and the frame every step on it runs in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody import lease
from custody.digests import FileState, Fixity
from custody.drain import markers, tables
from custody.drain.config import DrainConfig
from custody.drain.hooks import run_hook
from custody.drain.names import WarcName, item_name
from custody.drain.packing import Candidate
from custody.faults import Fault, FaultKind, from_os_error
from custody.ledger import Ledger
from custody.ledger.store import disk_place, now, place_key

if TYPE_CHECKING:
    from custody.drain.targets import Target

ROOM = "drain"
_KEYS_A_QUERY = 1000  # SQLite takes 32766 at most


class SeriesState(StrEnum):
    """How far a series is. The order is the order of the steps."""

    PLANNED = "planned"
    PACKED = "packed"
    LISTED = "listed"
    CREATED = "created"
    UPLOADED = "uploaded"
    PROVEN = "proven"
    CLEAN = "clean"
    DROPPED = "dropped"  # nothing in it could be packed; its files are where they were, or in quarantine

    @property
    def rank(self) -> int:
        """Its place in the order."""
        return list(SeriesState).index(self)


FINISHED = (SeriesState.CLEAN, SeriesState.DROPPED)


@dataclass(frozen=True)
class SeriesFile:
    """One file of a series. ``fixity`` is None until it has been read."""

    id: int
    source: Path
    name: str
    state: FileState
    fixity: Fixity | None
    file_id: int | None


@dataclass(frozen=True)
class Series:
    """One series as the ledger knows it."""

    id: int
    config_name: str
    config: DrainConfig
    item: str
    directory: Path
    state: SeriesState
    on_hold: bool
    attempts: int
    fault: FaultKind | None
    fault_text: str | None
    changed_at: datetime
    files: tuple[SeriesFile, ...]

    @property
    def size_bytes(self) -> int:
        """All its files together."""
        return sum(member.state.size_bytes for member in self.files)

    def path(self, member: SeriesFile) -> Path:
        """Where a packed file lies."""
        return self.directory / member.name

    @property
    def private(self) -> Path:
        """Our own notes beside the data: the rename plan, the manifest with all digests, the proofs."""
        return self.directory / ".custody"

    @property
    def next_command(self) -> str:
        """What an operator types to have it taken up again."""
        return f'airflow dags trigger drain --conf \'{{"config": "{self.config_name}"}}\''


def reserve(
    connection: Connection, config_name: str, config: DrainConfig, item: str, candidates: Sequence[Candidate]
) -> int:
    """Put a planned series on record; its files are then nobody else's.

    Faults: CONFLICT (from the ledger) where another series holds one of the files.
    """
    at = now()
    values = {
        "config": config_name,
        "settings": config.model_dump(mode="json"),
        "item": item,
        "directory": str(config.xfer_dir / item),
        "state": SeriesState.PLANNED,
        "on_hold": False,
        "attempts": 0,
        "planned_at": at,
        "changed_at": at,
    }
    key = connection.execute(sa.insert(tables.series).values(values)).inserted_primary_key
    assert key is not None
    rows = [
        {
            "series_id": key[0],
            "source": str(config.job_dir / candidate.warc.name),
            "source_key": source_key(config.job_dir / candidate.warc.name),
            "name": candidate.warc.name,
            "size_bytes": candidate.state.size_bytes,
            "mtime_ns": candidate.state.mtime_ns,
            "inode": candidate.state.inode,
            "position": position,
        }
        for position, candidate in enumerate(candidates)
    ]
    connection.execute(sa.insert(tables.series_file), rows)
    return int(key[0])


def source_key(path: Path) -> str:
    """By which a file of a job directory is reserved."""
    return place_key(disk_place(path))


def reserved_sources(ledger: Ledger, sources: Sequence[Path]) -> set[Path]:
    """Which of these files some unfinished series holds already."""
    keys = {source_key(path): path for path in sources}
    column = tables.series_file.c.source_key
    found: set[Path] = set()
    wanted = list(keys)
    with ledger.read() as connection:
        for start in range(0, len(wanted), _KEYS_A_QUERY):
            some = wanted[start : start + _KEYS_A_QUERY]
            found |= {keys[key] for key in connection.scalars(sa.select(column).where(column.in_(some)))}
    return found


def free_item(
    ledger: Ledger,
    config: DrainConfig,
    first: WarcName,
    last: WarcName,
    *,
    used: Collection[str] = (),
    own: str | None = None,
) -> str:
    """The item of the files from ``first`` to ``last``.

    Numbered where the plain name is taken: in ``used``, by a directory here, or by a series on record. ``own`` is the
    name the series has already, if any. Faults: CONFIG where no legal name comes out.
    """
    number = 0
    while True:
        item = item_name(first, last, compact=config.compact_names, template=config.item_naming, number=number)
        taken = item in used or (config.xfer_dir / item).exists() or _is_item_taken(ledger, item)
        if item == own or not taken:
            return item
        number += 1


def _is_item_taken(ledger: Ledger, item: str) -> bool:
    """Whether a series of this name is on record, wherever its directory is by now."""
    table = tables.series
    query = sa.select(table.c.id).where(table.c.item == item, table.c.state != SeriesState.DROPPED).limit(1)
    with ledger.read() as connection:
        return connection.scalar(query) is not None


def unfinished(ledger: Ledger, config_name: str, *, max_attempts: int | None = None) -> list[int]:
    """Series of a configuration that still have a way to go, oldest first; without those given up on, if asked."""
    table = tables.series
    tried = sa.true() if max_attempts is None else table.c.attempts < max_attempts
    with ledger.read() as connection:
        return list(
            connection.scalars(
                sa.select(table.c.id)
                .where(table.c.config == config_name, table.c.state.not_in(FINISHED), tried)
                .order_by(table.c.id)
            )
        )


def take_up(ledger: Ledger, series_ids: Sequence[int], config: DrainConfig) -> None:
    """Prepare unfinished series for a new run.

    They follow the configuration as it is now. What could not be proven, or is no longer stored, goes back to its
    upload, which sends what is missing and nothing else.
    """
    table = tables.series
    unproven = sa.or_(
        table.c.state == SeriesState.UPLOADED,
        sa.and_(table.c.state == SeriesState.PROVEN, table.c.fault == FaultKind.DATA),
    )
    with ledger.begin() as connection:
        ours = table.c.id.in_(list(series_ids))
        connection.execute(sa.update(table).where(ours).values(settings=config.model_dump(mode="json")))
        back = {"state": SeriesState.CREATED, "changed_at": now()}
        connection.execute(sa.update(table).where(ours, unproven, table.c.fault.is_not(None)).values(**back))


def load(ledger: Ledger, series_id: int) -> Series:
    """Read one series. Faults: CONFIG where there is none of that number."""
    with ledger.read() as connection:
        row = connection.execute(sa.select(tables.series).where(tables.series.c.id == series_id)).one_or_none()
        if row is None:
            raise Fault(
                FaultKind.CONFIG, f"series {series_id}", "is not in the ledger", next_command="custody drain status"
            )
        members = connection.execute(
            sa.select(tables.series_file)
            .where(tables.series_file.c.series_id == series_id)
            .order_by(tables.series_file.c.position)
        ).all()
    return Series(
        id=row.id,
        config_name=row.config,
        config=DrainConfig.model_validate(row.settings),
        item=row.item,
        directory=Path(row.directory),
        state=SeriesState(row.state),
        on_hold=row.on_hold,
        attempts=row.attempts,
        fault=FaultKind(row.fault) if row.fault else None,
        fault_text=row.fault_text,
        changed_at=row.changed_at,
        files=tuple(_member(member) for member in members),
    )


def is_on_hold(ledger: Ledger, series_id: int) -> bool:
    """Whether an operator holds a series at this moment."""
    with ledger.read() as connection:
        return bool(connection.scalar(sa.select(tables.series.c.on_hold).where(tables.series.c.id == series_id)))


def _member(row: Any) -> SeriesFile:
    known = {name: value for name, value in (("md5", row.md5), ("sha256", row.sha256)) if value}
    return SeriesFile(
        id=row.id,
        source=Path(row.source),
        name=row.name,
        state=FileState(row.size_bytes, row.mtime_ns, row.inode),
        fixity=Fixity(row.size_bytes, known) if known else None,
        file_id=row.file_id,
    )


@dataclass
class Work:
    """One step on one series while it runs: what it works on, and its pen for the ledger.

    Every write goes through :meth:`transaction`, which first makes sure that the lease is still ours.
    """

    ledger: Ledger
    series: Series
    who: str
    held: lease.Held
    targets: Sequence[Target]
    ends_as: SeriesState
    detail: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A fenced transaction. Faults: CONFLICT where the lease was lost."""
        with self.ledger.begin() as connection:
            self.held.check(connection)
            yield connection

    def event(
        self,
        connection: Connection,
        what: str,
        subject: str,
        result: str = "done",
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Append to the audit."""
        self.ledger.record_event(
            connection, who=self.who, room=ROOM, what=what, subject=subject, result=result, detail=detail
        )

    def reload(self) -> Series:
        """Read the series again after this step changed it."""
        self.series = load(self.ledger, self.series.id)
        return self.series

    def advance(self, count: int) -> None:
        """Tell how many more bytes are done."""
        self.held.progress["bytes_done"] = self.held.progress.get("bytes_done", 0) + count


class Step(Protocol):
    """A step as its callers see it."""

    def __call__(self, ledger: Ledger, series_id: int, *, who: str, targets: Sequence[Target] = ()) -> Series:
        """Do the step, or find that it was done; returns the series as it is then."""
        ...


def series_step(name: str, *, needs: SeriesState, makes: SeriesState) -> Callable[[Callable[[Work], None]], Step]:
    """Make a step of a function that does the work.

    The frame is the same for all: one owner (lease), the state before it must be reached *in the ledger* (whatever a
    task is marked as), the state after it and the audit line are written together, a fault is put on record. A step
    that was done already is not done again.
    """

    def frame(do: Callable[[Work], None]) -> Step:
        @wraps(do)
        def step(ledger: Ledger, series_id: int, *, who: str, targets: Sequence[Target] = ()) -> Series:
            with lease.hold(ledger, f"drain/series/{series_id}") as held:
                series = load(ledger, series_id)
                if series.state.rank >= makes.rank:
                    return series
                _require_draining(series)
                work = Work(ledger, series, who, held, targets, ends_as=makes)
                try:
                    _require(series, needs, name)
                    facts = {"item": series.item, "directory": str(series.directory)}
                    run_hook(series.config, "before", name, facts)
                    do(work)
                    run_hook(series.config, "on", name, facts)
                except OSError as error:
                    raise _on_record(work, name, from_os_error(error)) from error
                except Fault as fault:
                    raise _on_record(work, name, fault) from fault
                with work.transaction() as connection:
                    set_state(connection, series_id, work.ends_as)
                    work.event(connection, name, work.series.item, detail=work.detail)
                return load(ledger, series_id)

        return step

    return frame


def set_state(connection: Connection, series_id: int, state: SeriesState) -> None:
    """Move a series on and clear its fault; a finished one lets go of its sources."""
    values: dict[str, Any] = {"state": state, "changed_at": now(), "attempts": 0, "fault": None, "fault_text": None}
    connection.execute(sa.update(tables.series).where(tables.series.c.id == series_id).values(**values))
    if state in FINISHED:
        members = tables.series_file
        released = sa.literal("done-") + sa.cast(members.c.id, sa.String(20))
        connection.execute(sa.update(members).where(members.c.series_id == series_id).values(source_key=released))


def _require_draining(series: Series) -> None:
    """The operator's switch is looked at before every step; what waits for it is not a fault of the series."""
    if not markers.is_draining(series.config.job_dir):
        switch = f"touch {series.config.job_dir / markers.DRAINME}"
        raise Fault(FaultKind.CANCELLED, series.item, "not draining (no DRAINME)", next_command=switch)


def _require(series: Series, needs: SeriesState, step: str) -> None:
    if series.state is not needs:
        raise Fault(
            FaultKind.NEEDS_HUMAN,
            series.item,
            f"is {series.state}, and {step} takes only what is {needs}; nothing was done, whatever the task before is "
            "marked as",
            next_command=series.next_command,
        )


def _on_record(work: Work, step: str, fault: Fault) -> Fault:
    """Put a fault on record and return the one to raise.

    Nothing is tried for ever: what time alone has not mended after so many attempts is for a person.
    """
    if fault.kind is FaultKind.CONFLICT and work.held.lost:
        return fault  # the lease is somebody else's now, and so is the record
    attempts = work.series.attempts + fault.kind.is_worth_a_retry
    if fault.kind.is_worth_a_retry and attempts >= work.series.config.max_attempts:
        reason = f"{fault.reason}; given up after {attempts} attempts"
        next_command = f"custody drain retry {work.series.id}"
        fault = Fault(FaultKind.NEEDS_HUMAN, fault.subject, reason, next_command=next_command)
    values = {"fault": fault.kind, "fault_text": str(fault), "attempts": attempts, "changed_at": now()}
    try:
        with work.transaction() as connection:
            connection.execute(sa.update(tables.series).where(tables.series.c.id == work.series.id).values(**values))
            detail = work.detail | {"fault": str(fault)}
            work.event(connection, step, work.series.item, result=fault.kind, detail=detail)
    except Fault as second:
        fault.add_note(f"and the ledger could not be told: {second}")
    return fault
