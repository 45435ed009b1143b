"""A series: the files of one item on their way from disk to deletion, as the ledger has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.digests import FileState, Fixity
from custody.drain import tables
from custody.drain.config import DrainConfig
from custody.drain.names import WarcName, item_name
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import disk_place, now, place_key

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
    CLOSED = "closed"  # a person ended it, see actions.close; its files are where they were

    @property
    def rank(self) -> int:
        """Its place in the order."""
        return list(SeriesState).index(self)


FINISHED = (SeriesState.CLEAN, SeriesState.DROPPED, SeriesState.CLOSED)


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


@dataclass(frozen=True)
class NewFile:
    """A file about to be put on record in a series, with the digests known of it by then."""

    source: Path
    name: str
    state: FileState
    digests: Mapping[str, str] = field(default_factory=dict)


def put_on_record(
    connection: Connection,
    config_name: str,
    config: DrainConfig,
    directory: Path,
    state: SeriesState,
    files: Sequence[NewFile],
) -> int:
    """Put a series on record; until it is finished, its files are nobody else's. Returns its number.

    Faults: CONFLICT (from the ledger) where another series holds one of the files.
    """
    at = now()
    values = {
        "config": config_name,
        "settings": config.model_dump(mode="json"),
        "item": directory.name,
        "directory": str(directory),
        "state": state,
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
            "source": str(one.source),
            "source_key": f"done-{key[0]}-{position}" if state in FINISHED else source_key(one.source),
            "name": one.name,
            "size_bytes": one.state.size_bytes,
            "mtime_ns": one.state.mtime_ns,
            "inode": one.state.inode,
            "position": position,
            "md5": one.digests.get("md5"),
            "sha256": one.digests.get("sha256"),
        }
        for position, one in enumerate(files)
    ]
    if rows:
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


def lease_of(series_id: int) -> str:
    """The name of the lease that a step on this series holds."""
    return f"{ROOM}/series/{series_id}"


def take_up(ledger: Ledger, series_ids: Sequence[int], config: DrainConfig) -> None:
    """Prepare unfinished series for a new run.

    They follow the configuration as it is now. What could not be proven goes back to its upload, which sends what is
    missing and nothing else; what is no longer stored, to the making of its item, which may be gone as a whole.
    """
    table = tables.series
    unproven = sa.and_(table.c.state == SeriesState.UPLOADED, table.c.fault.is_not(None))
    lost = sa.and_(table.c.state == SeriesState.PROVEN, table.c.fault == FaultKind.DATA)
    with ledger.begin() as connection:
        ours = table.c.id.in_(list(series_ids))
        connection.execute(sa.update(table).where(ours).values(settings=config.model_dump(mode="json")))
        for which, back in ((unproven, SeriesState.CREATED), (lost, SeriesState.LISTED)):
            connection.execute(sa.update(table).where(ours, which).values(state=back, changed_at=now()))


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


def set_state(connection: Connection, series_id: int, state: SeriesState) -> None:
    """Move a series on and clear its fault; a finished one lets go of its sources."""
    values: dict[str, Any] = {"state": state, "changed_at": now(), "attempts": 0, "fault": None, "fault_text": None}
    connection.execute(sa.update(tables.series).where(tables.series.c.id == series_id).values(**values))
    if state in FINISHED:
        members = tables.series_file
        released = sa.literal("done-") + sa.cast(members.c.id, sa.String(20))
        connection.execute(sa.update(members).where(members.c.series_id == series_id).values(source_key=released))
