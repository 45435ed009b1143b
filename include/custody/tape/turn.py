"""Whose turn a drive is: one run after the other, also between its tasks, when nobody holds the drive itself.

The lease of a drive ends with each task. Without a turn, another run could have the cartridge changed in between.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.ledger.tables import lease as table
from custody.tape.config import TapeConfig
from custody.tape.session import drive_lease

PATIENCE = timedelta(minutes=15)
"""How long a turn outlasts the last sign of its run: a run that was killed keeps nobody waiting longer."""
LONGEST = PATIENCE + timedelta(minutes=5)
"""A turn that ends later than this is of a time before the clock was set back."""
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def turn_of(config: TapeConfig) -> str:
    """The name of a drive's turn among the leases."""
    return drive_lease(config.device).replace("tape/drive/", "tape/turn/", 1)


def take_turn(ledger: Ledger, config: TapeConfig, run: str, *, patience: timedelta = PATIENCE) -> None:
    """Take a drive's turn for a run, or keep it. Faults: CONFLICT, naming the run that has it."""
    name, at = turn_of(config), now()
    with ledger.begin() as connection:
        row = connection.execute(sa.select(table).where(table.c.name == name).with_for_update()).one_or_none()
        values = {"holder": run, "taken_at": at, "expires_at": at + patience, "progress": {}}
        if row is None:
            connection.execute(sa.insert(table).values(name=name, token=1, **values))
        elif row.holder == run:
            connection.execute(sa.update(table).where(table.c.name == name).values(expires_at=at + patience))
        elif at < row.expires_at <= at + LONGEST:
            reason = f"it is the turn of {row.holder}"
            raise Fault(FaultKind.CONFLICT, name, reason, next_command="wait for it, or cancel that run")
        else:
            connection.execute(sa.update(table).where(table.c.name == name).values(token=row.token + 1, **values))


def keep_turn(ledger: Ledger, config: TapeConfig, run: str) -> None:
    """Keep a drive's turn that is the run's, be its time over: nobody took it. What it gave back it has no more."""
    at = now()
    ours = (table.c.name == turn_of(config), table.c.holder == run, table.c.expires_at > _LONG_AGO)
    with ledger.begin() as connection:
        connection.execute(sa.update(table).where(*ours).values(expires_at=at + PATIENCE))


def give_turn_back(ledger: Ledger, config: TapeConfig, run: str) -> None:
    """Let the next run have it; harmless where it was lost already."""
    name = turn_of(config)
    with ledger.begin() as connection:
        ours = (table.c.name == name, table.c.holder == run)
        connection.execute(sa.update(table).where(*ours).values(expires_at=_LONG_AGO))
