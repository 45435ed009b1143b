"""One copy with all that is known of it, and pages of copies: what the status page shows."""

from __future__ import annotations

from dataclasses import dataclass

from custody.ledger import Ledger
from custody.ledger.events import EventLine, read_events
from custody.ledger.store import Whereabouts
from custody.minidvodb import actions
from custody.minidvodb.actions import Line, Selection
from custody.minidvodb.records import ROOM, Copy, load

MAX_EVENTS = 200


@dataclass(frozen=True)
class Whole:
    """A copy, where else its database lies, and what happened to it, newest first."""

    copy: Copy
    line: Line
    places: tuple[Whereabouts, ...]
    events: tuple[EventLine, ...]


def read(ledger: Ledger, copy_id: int) -> Whole:
    """Everything of one copy. Faults: CONFIG where there is none of that number."""
    copy = load(ledger, copy_id)
    (line,) = actions.select(ledger, Selection(copy_ids=[copy_id]))
    with ledger.read() as connection:
        events = read_events(connection, ROOM, [copy.subject], limit=MAX_EVENTS)
    places = tuple(one for one in ledger.where_is(copy.name.replace("%", "")) if one.name == copy.name)
    return Whole(copy, line, places, events)
