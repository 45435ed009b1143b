"""Plan: what a run will work on. Directories nobody has on record, series an earlier run left, and new ones."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from custody import lease
from custody.drain import markers, reserve, trash
from custody.drain.adopt import Adopted, adopt
from custody.drain.config import DrainConfig
from custody.drain.packing import Candidate, Limits, PackingPlan, plan_packing
from custody.drain.series import (
    ROOM,
    NewFile,
    SeriesState,
    free_item,
    lease_of,
    put_on_record,
    reserved_sources,
    take_up,
    unfinished,
)
from custody.drain.survey import Survey, survey
from custody.faults import Fault
from custody.host import LocalHost
from custody.ledger import Ledger
from custody.units import format_size


@dataclass(frozen=True)
class PlannedSeries:
    """A series that is planned; ``id`` is None in a dry run."""

    id: int | None
    item: str
    names: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True)
class Planned:
    """What a planning run found and decided."""

    survey: Survey
    adopted: tuple[Adopted, ...] = ()
    busy: Mapping[str, str] = field(default_factory=dict)
    resumed: tuple[int, ...] = ()
    planned: tuple[PlannedSeries, ...] = ()
    waiting: tuple[str, ...] = ()
    refused: tuple[Fault, ...] = field(default=(), compare=False)
    held: int = 0

    @property
    def series_ids(self) -> list[int]:
        """All series there is work on, those begun earlier first."""
        return [*self.resumed, *(series.id for series in self.planned if series.id is not None)]


def plan_series(ledger: Ledger, config_name: str, config: DrainConfig, *, who: str, dry_run: bool = False) -> Planned:
    """Survey the disk and reserve series, beside those that an earlier run left unfinished.

    One run plans a configuration at a time; a dry run decides the same and writes nothing. Faults: CONFLICT where
    another run is planning.
    """
    if dry_run:
        return _plan(ledger, config_name, config, who=who, dry_run=True)
    with lease.hold(ledger, f"drain/plan/{config_name}"):
        return _plan(ledger, config_name, config, who=who, dry_run=False)


def _plan(ledger: Ledger, config_name: str, config: DrainConfig, *, who: str, dry_run: bool) -> Planned:
    if not dry_run:
        trash.empty(ledger, config_name, config, who=who)
        reserve.keep(config)
    adopted = () if dry_run else tuple(adopt(ledger, config_name, config, who=who))
    begun = unfinished(ledger, config_name, max_attempts=config.max_attempts)
    busy = lease.holders(ledger, [lease_of(series_id) for series_id in begun])
    resumed = tuple(series_id for series_id in begun if lease_of(series_id) not in busy)
    if not dry_run:
        take_up(ledger, resumed, config)
    found = survey(config)
    taken = reserved_sources(ledger, [config.job_dir / candidate.warc.name for candidate in found.candidates])
    free = [candidate for candidate in found.candidates if config.job_dir / candidate.warc.name not in taken]
    packing = _pack(free, config)
    planned: list[PlannedSeries] = []
    refused: list[Fault] = []
    used: set[str] = set()
    for members in packing.series:
        try:
            item = free_item(ledger, config, members[0].warc, members[-1].warc, used=used)
        except Fault as fault:
            refused.append(fault)
            continue
        used.add(item)
        names = tuple(member.warc.name for member in members)
        size = sum(member.size_bytes for member in members)
        series_id = None
        if not dry_run:
            with ledger.begin() as connection:
                files = [NewFile(config.job_dir / one.warc.name, one.warc.name, one.state) for one in members]
                directory = config.xfer_dir / item
                series_id = put_on_record(connection, config_name, config, directory, SeriesState.PLANNED, files)
                detail = {"files": len(names), "size_bytes": size}
                ledger.record_event(connection, who=who, room=ROOM, what="plan", subject=item, detail=detail)
        planned.append(PlannedSeries(series_id, item, names, size))
    waiting = tuple(candidate.warc.name for candidate in packing.waiting)
    return Planned(found, adopted, busy, resumed, tuple(planned), waiting, tuple(refused), len(taken))


def _pack(free: list[Candidate], config: DrainConfig) -> PackingPlan:
    usage = LocalHost().disk_usage(config.job_dir)
    flush = markers.is_finishing(config.job_dir) or usage.used_pct >= config.pressure_pct
    if config.max_wait_s is not None and free:
        oldest_s = min(candidate.state.mtime_ns for candidate in free) / 1e9
        flush = flush or time.time() - oldest_s > config.max_wait_s
    return plan_packing(free, Limits(config.max_size, config.max_files), flush=flush, mix=config.mix_crawls)


def describe(planned: Planned) -> list[str]:
    """What was found and decided, in lines for a log."""
    found = planned.survey
    lines = [f"{len(found.candidates)} files may be packed, {format_size(found.size_bytes)}"]
    lines += [f"taken over: {one.item}, {one.files} files, {one.was}; now {one.state}" for one in planned.adopted]
    lines += [f"in another run's hands: {name}, {holder}" for name, holder in planned.busy.items()]
    lines += [f"goes on: series {series_id}" for series_id in planned.resumed]
    lines += [f"new: {one.item}, {len(one.names)} files, {format_size(one.size_bytes)}" for one in planned.planned]
    if planned.held:
        lines.append(f"{planned.held} of them are held by series that were planned before")
    if planned.waiting:
        lines.append(f"{len(planned.waiting)} files wait for more (FINISH_DRAIN packs them now)")
    for reason, count in Counter(leftover.reason for leftover in found.leftovers).items():
        names = [leftover.name for leftover in found.leftovers if leftover.reason == reason]
        lines.append(f"not packed, {reason}: {count} ({', '.join(names[:5])}{', …' if count > 5 else ''})")
    return lines + [f"refused: {fault}" for fault in planned.refused]
