"""The audit, read: who did what, when, with which result. :meth:`Ledger.record_event` writes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.ledger.tables import event


@dataclass(frozen=True)
class EventLine:
    """One line of the audit."""

    happened_at: datetime
    who: str
    what: str
    subject: str
    result: str
    detail: Mapping[str, Any]


def read_events(
    connection: Connection, room: str, subjects: Iterable[str], *, since: datetime | None = None, limit: int
) -> tuple[EventLine, ...]:
    """What a room wrote of these subjects, the youngest first."""
    query = sa.select(event).where(event.c.room == room, event.c.subject.in_(list(subjects)))
    if since is not None:
        query = query.where(event.c.happened_at >= since)
    rows = connection.execute(query.order_by(event.c.id.desc()).limit(limit))
    return tuple(
        EventLine(row.happened_at, row.who, row.what, row.subject, row.result, row.detail or {}) for row in rows
    )
