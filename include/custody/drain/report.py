"""Where a drain stands, from the ledger and the disk: for the end of a run, the command line and the status page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from custody.drain import markers, tables
from custody.drain.config import DrainConfig
from custody.drain.pack import QUARANTINE
from custody.drain.series import SeriesState, unfinished
from custody.drain.survey import survey
from custody.ledger import Ledger


@dataclass(frozen=True)
class SeriesLine:
    """One series in a list. ``fault`` is the line to show where it is stuck."""

    id: int
    config: str
    item: str
    state: SeriesState
    files: int
    size_bytes: int
    on_hold: bool
    fault_kind: str | None
    fault: str | None
    changed_at: datetime


@dataclass(frozen=True)
class Finish:
    """What is left of a crawl that is being finished."""

    finishing: bool
    left_files: int
    left_series: int
    flag_cleared: bool

    @property
    def is_drained(self) -> bool:
        """Whether nothing is left to do."""
        return not self.left_files and not self.left_series


def list_series(
    ledger: Ledger, config_name: str | None = None, *, stuck_only: bool = False, limit: int = 1000
) -> list[SeriesLine]:
    """Series, newest change first; of one configuration or of all."""
    table, members = tables.series, tables.series_file
    sums = (
        sa.select(
            members.c.series_id, sa.func.count().label("files"), sa.func.sum(members.c.size_bytes).label("size_bytes")
        )
        .group_by(members.c.series_id)
        .subquery()
    )
    query = (
        sa.select(table, sums.c.files, sums.c.size_bytes)
        .outerjoin(sums, sums.c.series_id == table.c.id)
        .order_by(table.c.changed_at.desc(), table.c.id.desc())
        .limit(limit)
    )
    if config_name is not None:
        query = query.where(table.c.config == config_name)
    if stuck_only:
        query = query.where(table.c.fault.is_not(None))
    with ledger.read() as connection:
        return [
            SeriesLine(
                row.id,
                row.config,
                row.item,
                SeriesState(row.state),
                row.files or 0,
                int(row.size_bytes or 0),
                row.on_hold,
                row.fault,
                row.fault_text,
                row.changed_at,
            )
            for row in connection.execute(query)
        ]


def totals(ledger: Ledger, config_name: str | None = None) -> dict[str, tuple[int, int, int]]:
    """Series, files and bytes by state."""
    table, members = tables.series, tables.series_file
    query = (
        sa.select(
            table.c.state,
            sa.func.count(sa.distinct(table.c.id)),
            sa.func.count(members.c.id),
            sa.func.coalesce(sa.func.sum(members.c.size_bytes), 0),
        )
        .outerjoin(members, members.c.series_id == table.c.id)
        .group_by(table.c.state)
    )
    if config_name is not None:
        query = query.where(table.c.config == config_name)
    with ledger.read() as connection:
        return {state: (series, files, int(size)) for state, series, files, size in connection.execute(query)}


def quarantined(config: DrainConfig) -> list[Path]:
    """Files that were set aside as damaged."""
    directory = config.job_dir / QUARANTINE
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if not path.name.endswith(".reason.json"))


def look_at_finish(ledger: Ledger, config_name: str, config: DrainConfig) -> Finish:
    """Look whether a crawl whose end was announced is drained."""
    left_series = len(unfinished(ledger, config_name))
    found = survey(config)
    left_files = len(found.candidates) + sum(leftover.only_waits for leftover in found.leftovers)
    return Finish(markers.is_finishing(config.job_dir), left_files, left_series, flag_cleared=False)


def finish_crawl(ledger: Ledger, config_name: str, config: DrainConfig) -> Finish:
    """Look whether a crawl whose end was announced is drained; then, if so configured, take FINISH_DRAIN away."""
    finish = look_at_finish(ledger, config_name, config)
    if not (finish.finishing and finish.is_drained and config.clear_finish_drain):
        return finish
    (config.job_dir / markers.FINISH_DRAIN).unlink(missing_ok=True)
    return replace(finish, flag_cleared=True)


def stuck(lines: Sequence[SeriesLine]) -> list[SeriesLine]:
    """Those that do not go on by themselves."""
    return [line for line in lines if line.fault]
