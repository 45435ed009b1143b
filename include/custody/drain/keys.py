"""A key that was refused: no other series tries it before somebody has looked.

A server that is shown a wrong key again and again may lock its account. So the first refusal of a run speaks for all
series that go by the same connections; the next run tries anew.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from custody.drain import tables
from custody.drain.config import DrainConfig
from custody.drain.series import FINISHED, Series
from custody.drain.step import put_on_record
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger


def hold_back(ledger: Ledger, series: Series, since: datetime, *, who: str) -> None:
    """Refuse to work on a series where since then the key of another one that goes the same way was refused.

    Faults: AUTH, which is put on record for the series; CONFLICT where somebody is working on it.
    """
    refused = _refused(ledger, series, since)
    if refused is None:
        return
    ways = " and ".join(sorted(_connections(series.config)))
    fault = Fault(
        FaultKind.AUTH,
        series.item,
        f"is held back: the key of {ways} was refused for {refused}",
        next_command=f"check login and password of the Airflow connection, then {series.next_command}",
    )
    put_on_record(ledger, series, "hold back", fault, who=who)
    raise fault


def _refused(ledger: Ledger, series: Series, since: datetime) -> str | None:
    table = tables.series
    query = sa.select(table.c.item, table.c.settings).where(
        table.c.fault == FaultKind.AUTH,
        table.c.changed_at >= since,
        table.c.state.not_in(FINISHED),
        table.c.id != series.id,
    )
    ways = _connections(series.config)
    with ledger.read() as connection:
        rows = connection.execute(query.order_by(table.c.changed_at)).all()
    same = (row.item for row in rows if _connections(DrainConfig.model_validate(row.settings)) == ways)
    return next(same, None)


def _connections(config: DrainConfig) -> frozenset[str]:
    return frozenset(place.connection_id for place in config.destinations)
