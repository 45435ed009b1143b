"""Trash: a place where proven files lie for a while after they were let go (``undo_s``).

They have left the series and count as gone for the crawl, but not for the disk: the oldest are unlinked when their time
is over, or earlier when the disk is under pressure. Moving one back into the job directory undoes its deletion.
"""

from __future__ import annotations

import time
from pathlib import Path

import sqlalchemy as sa

from custody.drain import tables
from custody.drain.config import DrainConfig
from custody.drain.series import ROOM, SeriesState
from custody.host import LocalHost
from custody.ledger import CopyState, Ledger
from custody.ledger.store import disk_place, place_key
from custody.ledger.tables import copy
from custody.publish import rename_noclobber

DIRECTORY = "trash"


def put_aside(path: Path, private: Path) -> Path:
    """Move a file that the gate let go into the trash of its series. Faults: CONFLICT where one lies there."""
    directory = private / DIRECTORY
    directory.mkdir(exist_ok=True)
    rename_noclobber(path, directory / path.name)
    return directory / path.name


def empty(ledger: Ledger, config_name: str, config: DrainConfig, *, who: str) -> list[Path]:
    """Unlink what has lain there long enough, and under pressure the oldest first until there is none; returns it."""
    gone = []
    for path in sorted(_lying(ledger, config_name), key=_since_s):
        pressed = LocalHost().disk_usage(config.job_dir).used_pct >= config.pressure_pct
        if not pressed and time.time() - _since_s(path) < config.undo_s:
            break
        with ledger.begin() as connection:
            ledger.record_event(connection, who=who, room=ROOM, what="empty trash", subject=path.name)
        with ledger.begin() as connection:
            path.unlink()
            connection.execute(
                sa.update(copy).where(copy.c.place_key == place_key(disk_place(path))).values(state=CopyState.RELEASED)
            )
        gone.append(path)
    return gone


def _lying(ledger: Ledger, config_name: str) -> list[Path]:
    table = tables.series
    with ledger.read() as connection:
        query = sa.select(table.c.directory).where(table.c.config == config_name, table.c.state == SeriesState.CLEAN)
        directories = [Path(directory) / ".custody" / DIRECTORY for directory in connection.scalars(query)]
    return [path for directory in directories if directory.is_dir() for path in directory.iterdir()]


def _since_s(path: Path) -> float:
    """When it was put there: a rename changes nothing of a file but this time."""
    return path.lstat().st_ctime
