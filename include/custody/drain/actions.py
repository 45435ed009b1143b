"""What an operator may do to a series by hand. Every action is on record with who did it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from custody.drain import tables
from custody.drain.series import FINISHED, ROOM, Series, load
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger


def hold(ledger: Ledger, series_id: int, *, who: str) -> Series:
    """Keep the local files of a series, whatever is proven."""
    return _change(ledger, series_id, "hold", who, on_hold=True)


def release(ledger: Ledger, series_id: int, *, who: str) -> Series:
    """Take a series off hold."""
    return _change(ledger, series_id, "release", who, on_hold=False)


def retry(ledger: Ledger, series_id: int, *, who: str) -> Series:
    """Let the next run take up a series that was given up on. Faults: CONFIG where it is finished."""
    series = load(ledger, series_id)
    if series.state in FINISHED:
        raise Fault(FaultKind.CONFIG, series.item, f"is {series.state}: there is nothing to retry")
    return _change(ledger, series_id, "retry", who, attempts=0)


def _change(ledger: Ledger, series_id: int, what: str, who: str, **values: Any) -> Series:
    series = load(ledger, series_id)
    with ledger.begin() as connection:
        connection.execute(sa.update(tables.series).where(tables.series.c.id == series_id).values(**values))
        ledger.record_event(connection, who=who, room=ROOM, what=what, subject=series.item)
    return load(ledger, series_id)
