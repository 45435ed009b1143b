"""What an operator may do to a series by hand. Every action is on record with who did it; none deletes anything."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody import lease
from custody.digests import FileState
from custody.drain import markers, tables
from custody.drain.series import FINISHED, ROOM, Series, SeriesFile, SeriesState, lease_of, load, set_state
from custody.faults import Fault, FaultKind
from custody.ledger import CopyState, Ledger
from custody.ledger.store import disk_place, now, place_key
from custody.ledger.tables import copy as copy_table


def hold(ledger: Ledger, series_id: int, *, who: str) -> Series:
    """Keep the local files of a series, whatever is proven."""
    return _change(ledger, series_id, "hold", who, on_hold=True)


def release(ledger: Ledger, series_id: int, *, who: str) -> Series:
    """Take a series off hold."""
    return _change(ledger, series_id, "release", who, on_hold=False)


def retry(ledger: Ledger, series_id: int, *, who: str, name: str | None = None) -> Series:
    """Let the next run take up a series that was given up on; with ``name``, one file of it in particular.

    Of that file, what is on record as proven counts no longer: every target is asked for it again, it is sent where it
    is missing, and proven anew. Faults: CONFIG where the series is finished or holds no such file, CONFLICT where a
    step is working on it.
    """
    with in_hand(ledger, series_id, "retry") as (series, held):
        values: dict[str, Any] = {"attempts": 0}
        some = [member for member in series.files if member.name == name]
        if name is not None:
            if not some:
                raise Fault(FaultKind.CONFIG, name, f"is no file of series {series_id}, {series.item}")
            if series.state.rank > SeriesState.CREATED.rank:
                values["state"] = SeriesState.CREATED
        with ledger.begin() as connection:
            held.check(connection)
            _take_proofs_back(connection, series, some)
            _write(connection, series_id, values | {"changed_at": now()})
            detail = {} if name is None else {"item": series.item}
            _record(ledger, connection, "retry", name or series.item, who, detail)
    return load(ledger, series_id)


def prove_again(ledger: Ledger, series_id: int, *, who: str) -> Series:
    """Have a series proven once more before any further file of it is deleted; its proofs so far count no longer.

    Faults: CONFIG where nothing is proven yet or all is over, CONFLICT where a step is working on it.
    """
    with in_hand(ledger, series_id, "prove") as (series, held):
        if series.state.rank < SeriesState.UPLOADED.rank:
            reason = f"is {series.state}: nothing is proven yet, and a run proves it by itself"
            raise Fault(FaultKind.CONFIG, series.item, reason, next_command=series.next_command)
        with ledger.begin() as connection:
            held.check(connection)
            _take_proofs_back(connection, series, series.files)
            values = {"attempts": 0, "fault": None, "fault_text": None, "changed_at": now()}
            _write(connection, series_id, values | {"state": SeriesState.UPLOADED})
            _record(ledger, connection, "prove again", series.item, who)
    return load(ledger, series_id)


@dataclass(frozen=True)
class Closed:
    """A series that was ended by hand: where its files are. ``nowhere`` are those of which no copy is known."""

    series: Series
    here: tuple[Path, ...]
    stored: tuple[str, ...]
    nowhere: tuple[str, ...]


def close(ledger: Ledger, series_id: int, *, why: str, who: str, accept_loss: bool = False) -> Closed:
    """End a series that no run is to go on with. Nothing is moved or deleted; its files stay where they are.

    What still lies in the job directory is free to be planned again; what was packed stays in its directory, which gets
    a marker CLOSED. Faults: CONFIG where it is finished, CONFLICT where a step is working on it, NEEDS_HUMAN where some
    file is neither here as it was packed nor proven elsewhere, unless ``accept_loss`` says that this is known.
    """
    if not why.strip():
        raise Fault(FaultKind.CONFIG, f"series {series_id}", "is not closed without a reason")
    with in_hand(ledger, series_id, "close") as (series, held):
        here = {member: path for member in series.files if (path := _find(series, member))}
        stored = proven_elsewhere(ledger, series)
        nowhere = [member for member in series.files if member not in here and member.name not in stored]
        if nowhere and not accept_loss:
            names = ", ".join(member.name for member in nowhere[:3])
            reason = f"{len(nowhere)} of its files are neither here as they were nor proven elsewhere: {names}"
            command = f"custody drain close {series_id} --because '...' --accept-loss (look for them first)"
            raise Fault(FaultKind.NEEDS_HUMAN, series.item, reason, next_command=command)
        if series.directory.is_dir():
            markers.append(
                series.directory / markers.CLOSED, f"{now():%Y-%m-%dT%H:%M:%SZ} {who}: {' '.join(why.split())}\n"
            )
        with ledger.begin() as connection:
            held.check(connection)
            for member in series.files:
                if member not in here:
                    mark_lost(connection, series, member)
            set_state(connection, series_id, SeriesState.CLOSED)
            detail = {"why": why, "was": series.state, "here": len(here), "nowhere": [one.name for one in nowhere]}
            _record(ledger, connection, "close", series.item, who, detail)
    lost = tuple(member.name for member in nowhere)
    return Closed(load(ledger, series_id), tuple(here.values()), tuple(sorted(stored)), lost)


@contextmanager
def in_hand(ledger: Ledger, series_id: int, verb: str) -> Iterator[tuple[Series, lease.Held]]:
    """An unfinished series that no step is working on, and none will while this lasts."""
    with lease.hold(ledger, lease_of(series_id)) as held:
        series = load(ledger, series_id)
        if series.state in FINISHED:
            audit = f'{{"config": "{series.config_name}", "action": "audit", "series": {series_id}}}'
            raise Fault(
                FaultKind.CONFIG,
                series.item,
                f"is {series.state}: there is nothing to {verb}",
                next_command=f"airflow dags trigger drain --conf '{audit}' (it asks whether all is still stored)",
            )
        yield series, held


def _find(series: Series, member: SeriesFile) -> Path | None:
    """Where a file lies now as it was planned or packed: in its directory, or still at its source."""
    for path in (series.path(member), member.source):
        try:
            if FileState.of_path(path) == member.state:
                return path
        except (FileNotFoundError, NotADirectoryError):
            continue
    return None


def proven_elsewhere(ledger: Ledger, series: Series) -> set[str]:
    """Names of the files of which some copy that is not this one is proven."""
    names = {member.file_id: member.name for member in series.files if member.file_id is not None}
    query = sa.select(copy_table.c.file_id).where(
        copy_table.c.file_id.in_(list(names)), copy_table.c.state == CopyState.PROVEN
    )
    with ledger.read() as connection:
        return {names[file_id] for file_id in connection.scalars(query)}


def _take_proofs_back(connection: Connection, series: Series, members: Iterable[SeriesFile]) -> None:
    """What its targets were proven to hold is only sent again, and the gate lets nothing go on the strength of it.

    Files that were let go already keep their proofs: what they say of the past stays true.
    """
    names = {one.file_id: one.name for one in members if one.file_id is not None and os.path.lexists(series.path(one))}
    query = sa.select(copy_table.c.id, copy_table.c.file_id, copy_table.c.place).where(
        copy_table.c.file_id.in_(list(names)), copy_table.c.state == CopyState.PROVEN
    )
    ours = [
        row.id
        for row in connection.execute(query)
        if row.place.endswith(f"/{series.item}/{names[row.file_id]}")  # and not what another room has of the file
    ]
    connection.execute(sa.update(copy_table).where(copy_table.c.id.in_(ours)).values(state=CopyState.SENT, since=now()))


def mark_lost(connection: Connection, series: Series, member: SeriesFile) -> None:
    """Our own copy is not there: unless it was let go through the gate, that is a loss."""
    if member.file_id is None or os.path.lexists(series.path(member)):
        return
    ours = (
        copy_table.c.file_id == member.file_id,
        copy_table.c.place_key == place_key(disk_place(series.path(member))),
    )
    unexplained = copy_table.c.state != CopyState.RELEASED
    connection.execute(sa.update(copy_table).where(*ours, unexplained).values(state=CopyState.LOST, since=now()))


def _change(ledger: Ledger, series_id: int, what: str, who: str, **values: Any) -> Series:
    """Change a series whatever is being done to it: a step looks at its hold when it matters."""
    series = load(ledger, series_id)
    with ledger.begin() as connection:
        _write(connection, series_id, values)
        _record(ledger, connection, what, series.item, who)
    return load(ledger, series_id)


def _write(connection: Connection, series_id: int, values: dict[str, Any]) -> None:
    connection.execute(sa.update(tables.series).where(tables.series.c.id == series_id).values(**values))


def _record(
    ledger: Ledger, connection: Connection, what: str, subject: str, who: str, detail: dict[str, Any] | None = None
) -> None:
    ledger.record_event(connection, who=who, room=ROOM, what=what, subject=subject, detail=detail)
