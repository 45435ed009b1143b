"""A copy as the ledger has it: which database, where to, how far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.minidvodb import destination, tables
from custody.minidvodb.destination import ROOM as ROOM
from custody.minidvodb.destination import Destination


class CopyState(StrEnum):
    """The ``state`` column. The first two are the old ones."""

    NEW = "new"
    FULL = "full"
    LOST = "lost"  # was full; an audit did not find it
    CORRUPT = "corrupt"  # was full; an audit found it different
    RETIRED = "retired"  # was full, and let go on purpose, through the gate


class CopyStep(StrEnum):
    """How far a copy has come; the order is the order of the steps."""

    QUEUED = "queued"
    CHECKED = "checked"
    SENT = "sent"
    VERIFIED = "verified"
    PUBLISHED = "published"

    @property
    def rank(self) -> int:
        """Its place in the order."""
        return list(CopyStep).index(self)


@dataclass(frozen=True)
class Copy:
    """One copy. ``row`` holds every column by name."""

    id: int
    minidvodb_id: int
    name: str
    group: str
    source: Path
    source_host: str | None
    path: str
    destination: Destination
    state: CopyState
    step: CopyStep
    row: Mapping[str, Any]

    @property
    def subject(self) -> str:
        """The copy, for people and the audit."""
        return f"{self.name} on {self.destination.name}"

    @property
    def next_command(self) -> str:
        """What takes it up again."""
        return f"airflow dags trigger minidvodb_copy --conf '{{\"copy\": {self.id}}}'"


def load(ledger: Ledger, copy_id: int) -> Copy:
    """Read one copy. Faults: CONFIG where there is none of that number."""
    one = tables.copy
    query = (
        sa.select(
            one,
            tables.run.c.minidvodb_name,
            tables.run.c.minidvodb_group,
            tables.run.c.minidvodb_path,
            tables.run.c.minidvodb_host,
        )
        .join(tables.run, tables.run.c.minidvodb_id == one.c.minidvodb_id)
        .where(one.c.minidvodbcopy_id == copy_id)
    )
    with ledger.read() as connection:
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise Fault(
                FaultKind.CONFIG, f"copy {copy_id}", "is not in the ledger", next_command="custody minidvodb list"
            )
        table = tables.destination
        place = connection.execute(sa.select(table).where(table.c.id == row["destination_id"])).one()
    return Copy(
        id=copy_id,
        minidvodb_id=row["minidvodb_id"],
        name=row["minidvodb_name"],
        group=row["minidvodb_group"],
        source=Path(row["minidvodb_path"]),
        source_host=row["minidvodb_host"],
        path=row["minidvodb_rsync_path"],
        destination=destination.of_row(place),
        state=CopyState(row["state"]),
        step=CopyStep(row["step"]),
        row=dict(row),
    )


def change(connection: Connection, copy_id: int, **values: Any) -> None:
    """Write columns of a copy; ``epoch`` moves with every change, as it always did."""
    table = tables.copy
    connection.execute(sa.update(table).where(table.c.minidvodbcopy_id == copy_id).values(epoch=now(), **values))


NO_FAULT: Mapping[str, Any] = {
    "fault": 0,
    "fault_name": None,
    "fault_kind": None,
    "fault_text": None,
    "exit_status": None,
    "stderr_tail": None,
    "not_before": None,
}
"""The columns of a fault, when there is none."""

NOT_RESERVED: Mapping[str, Any] = {"reserved_bytes": 0, "reserved_inodes": 0, "reserved_at": None}


def lease_of(copy_id: int) -> str:
    """The name of a copy's lease."""
    return f"minidvodb copy {copy_id}"


def elapsed_s(since: datetime | None) -> float | None:
    """Seconds from a time on record to now."""
    return (now() - since).total_seconds() if since else None
