"""One copy with all that is known of it, and pages of copies: what the status page shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from custody.ledger import Ledger
from custody.ledger.store import Whereabouts
from custody.ledger.tables import event
from custody.minidvodb import actions
from custody.minidvodb.actions import Line, Selection
from custody.minidvodb.records import ROOM, Copy, load

MAX_EVENTS = 200


@dataclass(frozen=True)
class Happening:
    """One line of the audit."""

    happened_at: datetime
    who: str
    what: str
    subject: str
    result: str
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class Whole:
    """A copy, where else its database lies, and what happened to it, newest first."""

    copy: Copy
    line: Line
    places: tuple[Whereabouts, ...]
    events: tuple[Happening, ...]


def read(ledger: Ledger, copy_id: int) -> Whole:
    """Everything of one copy. Faults: CONFIG where there is none of that number."""
    copy = load(ledger, copy_id)
    (line,) = actions.select(ledger, Selection(copy_ids=[copy_id]))
    query = (
        sa.select(event)
        .where(event.c.room == ROOM, event.c.subject == copy.subject)
        .order_by(event.c.id.desc())
        .limit(MAX_EVENTS)
    )
    with ledger.read() as connection:
        events = tuple(
            Happening(row.happened_at, row.who, row.what, row.subject, row.result, dict(row.detail or {}))
            for row in connection.execute(query)
        )
    places = tuple(one for one in ledger.where_is(copy.name.replace("%", "")) if one.name == copy.name)
    return Whole(copy, line, places, events)
