"""What a status page shows of drain, and what a run leaves on record for it. Nothing here changes a disk."""

from __future__ import annotations

import json
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from custody.drain import tables
from custody.drain.config import DrainConfig
from custody.drain.report import SeriesLine, quarantined
from custody.drain.series import FINISHED, ROOM, SeriesState, source_key
from custody.drain.survey import Leftover, check_disk, survey
from custody.ledger import Ledger
from custody.ledger import tables as shared
from custody.ledger.store import now

LOOK = "look"
LEASES = "drain/series/"
_SHOWN_NAMES = 5
_MAX_QUARANTINED = 100
_MAX_REASON_BYTES = 64 << 10
_UNPROVEN = [state for state in SeriesState if state.rank < SeriesState.PROVEN.rank]

_STEP_AFTER = {
    SeriesState.PLANNED: "pack",
    SeriesState.PACKED: "manifest",
    SeriesState.LISTED: "create item",
    SeriesState.CREATED: "upload",
    SeriesState.UPLOADED: "prove",
    SeriesState.PROVEN: "delete",
}

_series, _member = tables.series, tables.series_file


@dataclass(frozen=True)
class StateTotal:
    """How much stands in one state."""

    state: SeriesState
    series: int
    files: int
    size_bytes: int


@dataclass(frozen=True)
class Drained:
    """What was proven and let go in the last ``hours``."""

    series: int = 0
    files: int = 0
    size_bytes: int = 0
    hours: float = 24.0

    @property
    def bytes_per_hour(self) -> float:
        """The mean of that time."""
        return self.size_bytes / self.hours


@dataclass(frozen=True)
class Standing:
    """One configuration in the ledger."""

    config: str
    totals: tuple[StateTotal, ...] = ()
    oldest_unproven: datetime | None = None
    drained: Drained = Drained()

    @property
    def unfinished_bytes(self) -> int:
        """Bytes of series that still lie on the disk, in whatever state."""
        return sum(total.size_bytes for total in self.totals if total.state not in FINISHED)


@dataclass(frozen=True)
class Running:
    """A step at work: a lease that is alive. ``bytes_done`` is of the step, told every half minute."""

    series_id: int
    item: str
    config: str
    state: SeriesState
    holder: str
    since: datetime
    bytes_done: int
    size_bytes: int

    @property
    def step(self) -> str:
        """What is being done: the step that follows the state."""
        return _STEP_AFTER.get(self.state, "")


@dataclass(frozen=True)
class SeriesPage:
    """Some of the series that were asked for, and how many there are in all."""

    lines: tuple[SeriesLine, ...]
    total: int


@dataclass(frozen=True)
class LeftoverGroup:
    """Files of a job directory that are not packed for one reason; ``names`` are the first few."""

    reason: str
    files: int
    size_bytes: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Quarantined:
    """A damaged file that was set aside."""

    name: str
    reason: str
    size_bytes: int


@dataclass(frozen=True)
class DiskLook:
    """A crawl disk at one moment. ``free_files`` are those that may be packed and no series holds yet."""

    seen_at: datetime
    seen_from: str
    used_pct: float
    free_bytes: int
    draining: bool
    finishing: bool
    free_files: int
    free_files_bytes: int
    leftovers: tuple[LeftoverGroup, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    quarantined_files: int = 0

    def as_detail(self) -> dict[str, Any]:
        """The look as the detail of an event ``look`` about the configuration, for machines that hold no disk."""
        return {**asdict(self), "seen_at": self.seen_at.isoformat()}

    @classmethod
    def from_detail(cls, detail: Mapping[str, Any]) -> DiskLook:
        """Read what :meth:`as_detail` made."""
        values = dict(detail)
        groups = (LeftoverGroup(**{**group, "names": tuple(group["names"])}) for group in values.pop("leftovers"))
        aside = (Quarantined(**each) for each in values.pop("quarantined"))
        seen_at = datetime.fromisoformat(values.pop("seen_at"))
        return cls(seen_at=seen_at, leftovers=tuple(groups), quarantined=tuple(aside), **values)


def standings(ledger: Ledger, *, hours: float = 24.0) -> dict[str, Standing]:
    """Every configuration that has series, by name, in three queries however many there are."""
    sums = _sums()
    totals = (
        sa.select(
            _series.c.config,
            _series.c.state,
            sa.func.count(),
            sa.func.sum(sums.c.files),
            sa.func.sum(sums.c.size_bytes),
        )
        .outerjoin(sums, sums.c.series_id == _series.c.id)
        .group_by(_series.c.config, _series.c.state)
    )
    oldest = (
        sa.select(_series.c.config, sa.func.min(_series.c.planned_at, type_=_series.c.planned_at.type))
        .where(_series.c.state.in_(_UNPROVEN))
        .group_by(_series.c.config)
    )
    drained = (
        sa.select(
            _series.c.config,
            sa.func.count(sa.distinct(_series.c.id)),
            sa.func.count(_member.c.id),
            sa.func.coalesce(sa.func.sum(_member.c.size_bytes), 0),
        )
        .join(_member, _member.c.series_id == _series.c.id)
        .where(_series.c.state == SeriesState.CLEAN, _series.c.changed_at >= now() - timedelta(hours=hours))
        .group_by(_series.c.config)
    )
    found: dict[str, list[StateTotal]] = {}
    with ledger.read() as connection:
        for config, state, series, files, size in connection.execute(totals):
            found.setdefault(config, []).append(StateTotal(SeriesState(state), series, files or 0, int(size or 0)))
        since = dict(connection.execute(oldest).tuples().all())
        gone = {row[0]: Drained(row[1], row[2], int(row[3]), hours) for row in connection.execute(drained)}
    return {
        config: Standing(
            config,
            tuple(sorted(states, key=lambda total: total.state.rank)),
            since.get(config),
            gone.get(config, Drained(hours=hours)),
        )
        for config, states in sorted(found.items())
    }


def config_names(ledger: Ledger) -> list[str]:
    """Every configuration that series were planned under."""
    with ledger.read() as connection:
        return list(connection.scalars(sa.select(_series.c.config).distinct().order_by(_series.c.config)))


def select_series(
    ledger: Ledger,
    *,
    config: str | None = None,
    states: Collection[SeriesState] = (),
    stuck_only: bool = False,
    limit: int = 50,
    offset: int = 0,
) -> SeriesPage:
    """One page of series, newest change first. Files are summed for the series of the page only."""
    wanted = [_series.c.config == config] if config is not None else []
    wanted += [_series.c.state.in_(states)] if states else []
    wanted += [_series.c.fault.is_not(None)] if stuck_only else []
    query = (
        sa.select(_series).where(*wanted).order_by(_series.c.changed_at.desc(), _series.c.id.desc()).limit(limit)
    ).offset(offset)
    with ledger.read() as connection:
        total = connection.scalar(sa.select(sa.func.count()).select_from(_series).where(*wanted)) or 0
        rows = connection.execute(query).all()
        sums = _sums([row.id for row in rows])
        size = {row.series_id: (row.files, int(row.size_bytes)) for row in connection.execute(sa.select(sums))}
    lines = (
        SeriesLine(
            row.id,
            row.config,
            row.item,
            SeriesState(row.state),
            *size.get(row.id, (0, 0)),
            row.on_hold,
            row.fault,
            row.fault_text,
            row.changed_at,
        )
        for row in rows
    )
    return SeriesPage(tuple(lines), total)


def running(ledger: Ledger) -> list[Running]:
    """Steps at work now, the longest first."""
    lease = shared.lease
    alive = sa.select(lease).where(lease.c.name.like(f"{LEASES}%"), lease.c.expires_at > now())
    with ledger.read() as connection:
        leases = {int(row.name.removeprefix(LEASES)): row for row in connection.execute(alive)}
        sums = _sums(leases)
        rows = connection.execute(
            sa.select(_series.c.id, _series.c.item, _series.c.config, _series.c.state, sums.c.size_bytes)
            .outerjoin(sums, sums.c.series_id == _series.c.id)
            .where(_series.c.id.in_(leases))
        ).all()
    found = [
        Running(
            row.id,
            row.item,
            row.config,
            SeriesState(row.state),
            leases[row.id].holder,
            leases[row.id].taken_at,
            int(leases[row.id].progress.get("bytes_done", 0)),
            int(row.size_bytes or 0),
        )
        for row in rows
    ]
    return sorted(found, key=lambda each: each.since)


def reserved_keys(ledger: Ledger, config: str) -> set[str]:
    """Source keys of the files that unfinished series of a configuration hold."""
    query = (
        sa.select(_member.c.source_key)
        .join(_series, _series.c.id == _member.c.series_id)
        .where(_series.c.config == config, _series.c.state.not_in(FINISHED))
    )
    with ledger.read() as connection:
        return set(connection.scalars(query))


def last_settings(ledger: Ledger, config: str) -> DrainConfig | None:
    """The configuration as the newest series of this name was planned with it."""
    query = sa.select(_series.c.settings).where(_series.c.config == config).order_by(_series.c.id.desc()).limit(1)
    with ledger.read() as connection:
        settings = connection.scalar(query)
    return None if settings is None else DrainConfig.model_validate(settings)


def look_at_disk(config: DrainConfig, reserved: Collection[str] = ()) -> DiskLook:
    """Look at the disk of a configuration, on the machine that has it. Faults: CONFIG, TRANSIENT, naming the directory.

    :param reserved: source keys that :func:`reserved_keys` found.
    """
    disk = check_disk(config)
    found = survey(config)
    free = [each for each in found.candidates if source_key(config.job_dir / each.warc.name) not in reserved]
    aside = quarantined(config)
    return DiskLook(
        seen_at=now(),
        seen_from=socket.gethostname(),
        used_pct=round(disk.usage.used_pct, 1),
        free_bytes=disk.usage.free_bytes,
        draining=disk.draining,
        finishing=disk.finishing,
        free_files=len(free),
        free_files_bytes=sum(each.size_bytes for each in free),
        leftovers=_grouped(found.leftovers),
        quarantined=tuple(_set_aside(path) for path in aside[:_MAX_QUARANTINED]),
        quarantined_files=len(aside),
    )


def record_look(ledger: Ledger, config_name: str, look: DiskLook, *, who: str) -> None:
    """Put on record what a run saw of its disk, for pages on machines that cannot see it."""
    with ledger.begin() as connection:
        detail = look.as_detail()
        ledger.record_event(connection, who=who, room=ROOM, what=LOOK, subject=config_name, detail=detail)


def last_look(ledger: Ledger, config: str) -> DiskLook | None:
    """What the last run that looked at the disk put on record (an event ``look`` about the configuration)."""
    event = shared.event
    query = (
        sa.select(event.c.detail)
        .where(event.c.room == ROOM, event.c.subject == config, event.c.what == LOOK)
        .order_by(event.c.id.desc())
        .limit(1)
    )
    with ledger.read() as connection:
        detail = connection.scalar(query)
    try:
        return None if detail is None else DiskLook.from_detail(detail)
    except (TypeError, ValueError, KeyError):
        return None  # written by another version


def _sums(series_ids: Iterable[int] | None = None) -> sa.Subquery:
    query = sa.select(
        _member.c.series_id, sa.func.count().label("files"), sa.func.sum(_member.c.size_bytes).label("size_bytes")
    ).group_by(_member.c.series_id)
    return (query if series_ids is None else query.where(_member.c.series_id.in_(list(series_ids)))).subquery()


def _grouped(leftovers: Sequence[Leftover]) -> tuple[LeftoverGroup, ...]:
    groups: dict[str, list[Leftover]] = {}
    for each in leftovers:
        groups.setdefault(each.reason, []).append(each)
    return tuple(
        LeftoverGroup(reason, len(them), sum(t.size_bytes for t in them), tuple(t.name for t in them[:_SHOWN_NAMES]))
        for reason, them in sorted(groups.items(), key=lambda group: -len(group[1]))
    )


def _set_aside(path: Path) -> Quarantined:
    reason, size_bytes = "no reason lies beside it", 0
    try:
        size_bytes = path.lstat().st_size
        with path.with_name(f"{path.name}.reason.json").open("rb") as note:
            reason = str(json.loads(note.read(_MAX_REASON_BYTES))["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # it is shown all the same: a person has to look at it
    return Quarantined(printable(path.name), reason, size_bytes)


def printable(name: str) -> str:
    """A name as it can be shown: whatever is no printable character is written as an escape."""
    return name if name.isprintable() else ascii(name)[1:-1]
