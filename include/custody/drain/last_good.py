"""The last good configuration: what a run goes by while the file cannot be read as one.

A slip in an edit must not stop a drain. So every run that could read its configuration puts it on record where it has
changed, and a run that cannot goes on with that: it packs, sends and proves. It deletes nothing: what the edit was
meant to say, a second copy for instance, is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from custody.drain import config as configuration
from custody.drain.config import DrainConfig
from custody.drain.series import ROOM
from custody.faults import Fault
from custody.ledger import Ledger
from custody.ledger.tables import event

_WHAT = "configuration"


@dataclass(frozen=True)
class LastGood:
    """A configuration as it was when it could last be read, and since when it was so."""

    settings: Mapping[str, Any]
    since: datetime


def remember(ledger: Ledger, name: str, config: DrainConfig, *, who: str) -> None:
    """Put a configuration on record, unless it is the one that is there."""
    settings = config.model_dump(mode="json")
    known = recall(ledger, name)
    if known is not None and known.settings == settings:
        return
    with ledger.begin() as connection:
        detail = {"settings": settings}
        ledger.record_event(connection, who=who, room=ROOM, what=_WHAT, subject=name, detail=detail)


def recall(ledger: Ledger, name: str) -> LastGood | None:
    """What :func:`remember` put on record last."""
    query = sa.select(event.c.detail, event.c.happened_at).where(
        event.c.room == ROOM, event.c.subject == name, event.c.what == _WHAT
    )
    with ledger.read() as connection:
        row = connection.execute(query.order_by(event.c.id.desc()).limit(1)).one_or_none()
    return LastGood(row.detail["settings"], row.happened_at) if row else None


def find_fault(name: str) -> Fault | None:
    """What is wrong with the file of a configuration; None where it can be read, or where there is no file."""
    if name not in configuration.config_names():
        return None
    try:
        configuration.load(name)
    except Fault as fault:
        return fault
    return None


def load(ledger: Ledger, name: str, overrides: Mapping[str, Any]) -> DrainConfig:
    """The configuration ``name`` with some values replaced; where its file is wrong, the last good one.

    Faults: CONFIG where a value that replaces another is wrong, where there is no such file, and where its file is
    wrong and none was on record.
    """
    try:
        return configuration.load(name, overrides)
    except Fault as fault:
        known = recall(ledger, name) if find_fault(name) else None
        if known is None:
            raise
        where = f"the last good configuration of {name}, of {known.since:%Y-%m-%d %H:%M} UTC"
        try:
            return configuration.parse({**known.settings, **overrides}, where)
        except Fault:
            raise fault from None  # it is of an older program
