"""How far the drives are at this moment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody import lease
from custody.ledger import Ledger
from custody.ledger import tables as shared
from custody.tape import tables
from custody.tape.catalog import tape_by_id
from custody.tape.report import Sum, sums
from custody.tape.states import AttemptResult, BackupState

_LEASES = "tape/drive/"


@dataclass(frozen=True)
class Running:
    """A drive in use.

    :param seen_at: when the process last said how far it is.
    :param eta: for the tape file; ``tape_eta``: for all that is assigned to the tape.
    """

    drive: str
    holder: str
    what: str
    target: str
    tape_name: str
    file_number: int | None
    bytes_done: int
    bytes_total: int | None
    seen_at: datetime
    rate_bytes_s: float | None
    eta: timedelta | None
    tape_eta: timedelta | None


def running(ledger: Ledger) -> list[Running]:
    """Every drive that somebody holds at this moment, and how far it is."""
    table = shared.lease
    with ledger.read() as connection:
        rows = connection.execute(sa.select(table).where(table.c.name.startswith(_LEASES, autoescape=True))).all()
    held = lease.holders(ledger, [row.name for row in rows]) if rows else {}
    with ledger.read() as connection:
        return [_running(connection, row, row.expires_at - lease.DEFAULT_TTL) for row in rows if row.name in held]


def _running(connection: Connection, row: Any, seen_at: datetime) -> Running:
    progress = row.progress or {}
    what = next((word for word in ("confirming", "restoring", "scanning") if word in progress), "archiving")
    target = str(progress.get("target") or progress.get(what) or "")
    number, done, total = progress.get("file_number"), int(progress.get("bytes_done") or 0), progress.get("bytes_total")
    attempt = tables.attempt
    going = connection.execute(
        sa.select(attempt.c.started_at, attempt.c.tape_id)
        .where(attempt.c.result == AttemptResult.INTENT, attempt.c.started_at >= row.taken_at)
        .where(attempt.c.file_number == number if number is not None else sa.true())
        .order_by(attempt.c.id.desc())
    ).first()
    rate = eta = tape_eta = None
    if going and done and (seconds := (seen_at - going.started_at).total_seconds()) > 0:
        rate = done / seconds
        eta = timedelta(seconds=max(0, total - done) / rate) if total else None
        left = sums(connection, tables.backup.c.tape_id == going.tape_id).get(going.tape_id, {})
        if what == "archiving" and eta is not None:
            tape_eta = eta + timedelta(seconds=left.get(BackupState.ASSIGNED, Sum()).size_bytes / rate)
    return Running(
        drive=row.name.removeprefix(_LEASES),
        holder=row.holder,
        what=what if progress else "in use",
        target=target,
        tape_name=tape_by_id(connection, going.tape_id).name if going else "",
        file_number=number,
        bytes_done=done,
        bytes_total=total,
        seen_at=seen_at,
        rate_bytes_s=rate,
        eta=eta,
        tape_eta=tape_eta,
    )
