"""What an operator does to copies by hand: list, revert, update. No data is touched by any of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from custody import lease
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.minidvodb import destination, tables
from custody.minidvodb.codes import FaultCode
from custody.minidvodb.far import check_path
from custody.minidvodb.records import NO_FAULT, NOT_RESERVED, ROOM, CopyState, CopyStep, change, lease_of, load
from custody.minidvodb.step import Reach, far_side

OLD_FAULTS = range(1, 10)
"""Numbers of the old script that have no name; 4 was any failure."""


@dataclass(frozen=True)
class Selection:
    """Which copies are meant: those that fit everything that is given; ``everything`` alone means all."""

    copy_ids: Sequence[int] = ()
    minidvodb_ids: Sequence[int] = ()
    group: str | None = None
    host: str | None = None
    fault: int | str | None = None
    state: str | None = None
    everything: bool = False

    def demand_known(self) -> None:
        """A fault or state that nobody knows selects nothing, and says so. Faults: CONFIG."""
        if self.state is not None and self.state not in set(CopyState):
            raise Fault(FaultKind.CONFIG, f"state {self.state!r}", f"is none of {', '.join(CopyState)}")
        text = str(self.fault).upper()
        if self.fault is not None and not text.isdigit() and text not in set(FaultCode):
            raise unknown_fault(self.fault)

    def demand_some(self) -> None:
        """What changes copies is not done to all of them by leaving everything out. Faults: CONFIG."""
        given = (self.copy_ids, self.minidvodb_ids, self.group, self.host, self.fault, self.state, self.everything)
        if not any(value not in {None, False} and value != () for value in map(_hashable, given)):
            raise Fault(FaultKind.CONFIG, "which copies", "are meant? name some, or say --all")


def unknown_fault(value: object) -> Fault:
    """For a fault that nobody knows."""
    known = ", ".join(f"{code} ({code.number})" for code in FaultCode)
    return Fault(FaultKind.CONFIG, f"fault {value!r}", f"is not known; there are: {known}")


def _hashable(value: object) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class Line:
    """One copy in a list."""

    id: int
    minidvodb_id: int
    name: str
    group: str
    host: str
    path: str
    source: str
    state: str
    step: str
    fault: int
    fault_name: str | None
    fault_text: str | None
    attempts: int
    not_before: datetime | None
    priority: int
    bytes: int | None
    files: int | None
    sent_bytes: int | None
    mover: str | None
    dtime: float | None
    verify_s: float | None
    epoch: datetime
    verified_at: datetime | None

    @property
    def rate_bytes_s(self) -> float | None:
        """Of the last copy, bytes a second from first step to last."""
        return self.bytes / self.dtime if self.bytes and self.dtime and self.state == CopyState.FULL else None


def select(
    ledger: Ledger,
    which: Selection | None = None,
    *,
    pending: bool = False,
    faulted: bool = False,
    limit: int = 0,
    offset: int = 0,
) -> list[Line]:
    """Copies by their numbers. Faulted ones are shown too, unless ``pending`` (new, without a fault) is asked for."""
    one = tables.copy
    query = (
        sa.select(
            one,
            tables.run.c.minidvodb_name,
            tables.run.c.minidvodb_group,
            tables.run.c.minidvodb_path,
            tables.destination.c.name,
        )
        .join(tables.run, tables.run.c.minidvodb_id == one.c.minidvodb_id)
        .join(tables.destination, tables.destination.c.id == one.c.destination_id)
        .where(*_conditions(which or Selection()))
        .order_by(one.c.minidvodbcopy_id)
    )
    if pending:
        query = query.where(one.c.state == CopyState.NEW, one.c.fault == 0)
    if faulted:
        query = query.where(one.c.fault != 0)
    with ledger.read() as connection:
        rows = connection.execute(query.limit(limit).offset(offset) if limit else query).all()
    return [
        Line(
            row.minidvodbcopy_id,
            row.minidvodb_id,
            row.minidvodb_name,
            row.minidvodb_group,
            row.name,
            row.minidvodb_rsync_path,
            row.minidvodb_path,
            row.state,
            row.step,
            row.fault,
            row.fault_name,
            row.fault_text,
            row.attempts,
            row.not_before,
            row.priority,
            row.bytes,
            row.files,
            row.sent_bytes,
            row.mover,
            row.dtime,
            row.verify_s,
            row.epoch,
            row.verified_at,
        )
        for row in rows
    ]


def count(ledger: Ledger, which: Selection, *, faulted: bool = False) -> int:
    """How many copies :func:`select` would give without a limit."""
    one = tables.copy
    query = (
        sa.select(sa.func.count())
        .select_from(one)
        .join(tables.run, tables.run.c.minidvodb_id == one.c.minidvodb_id)
        .join(tables.destination, tables.destination.c.id == one.c.destination_id)
        .where(*_conditions(which))
    )
    with ledger.read() as connection:
        return int(connection.scalar(query.where(one.c.fault != 0) if faulted else query) or 0)


def _conditions(which: Selection) -> list[sa.ColumnElement[bool]]:
    which.demand_known()
    one = tables.copy
    found: list[sa.ColumnElement[bool]] = []
    if which.copy_ids:
        found.append(one.c.minidvodbcopy_id.in_(list(which.copy_ids)))
    if which.minidvodb_ids:
        found.append(one.c.minidvodb_id.in_(list(which.minidvodb_ids)))
    if which.group:
        found.append(tables.run.c.minidvodb_group == which.group)
    if which.host:
        found.append(tables.destination.c.name == which.host)
    if which.state:
        found.append(one.c.state == which.state)
    if which.fault is not None:
        text = str(which.fault)
        found.append(one.c.fault == int(text) if text.isdigit() else one.c.fault_name == text.upper())
    return found


@dataclass(frozen=True)
class Reverted:
    """What a revert did or would do: copies it takes up again, and those it leaves, with the reason."""

    copies: tuple[Line, ...]
    left: tuple[tuple[Line, str], ...]


def revert(ledger: Ledger, which: Selection, *, who: str, replace: bool = False, dry_run: bool = False) -> Reverted:
    """Let the next runs take copies up again: faulted ones, and those that were lost, found corrupt, or retired.

    :param replace: what lies under their names over there may be set aside (it is kept in ``.custody`` there). A copy
        that was found corrupt gets this anyway: what lies there is its own.
    """
    which.demand_some()
    taken: list[Line] = []
    left: list[tuple[Line, str]] = []
    lines = [line for line in select(ledger, which) if line.fault or line.state in _LOST or replace]
    held = lease.holders(ledger, [lease_of(line.id) for line in lines])
    for line in lines:
        if line.state == CopyState.FULL:
            left.append((line, "it is full"))
        elif lease_of(line.id) in held:
            left.append((line, f"{held[lease_of(line.id)]} works on it"))
        else:
            taken.append(line)
    if dry_run:
        return Reverted(tuple(taken), tuple(left))
    for line in taken:
        values: dict[str, Any] = {**NO_FAULT, **NOT_RESERVED, "attempts": 0}
        if line.state in _LOST or line.step in {CopyStep.CHECKED, CopyStep.SENT}:
            values |= {"state": CopyState.NEW, "step": CopyStep.QUEUED}
        if replace or line.state == CopyState.CORRUPT:
            values |= {"may_replace": True}
        with ledger.begin() as connection:
            change(connection, line.id, **values)
            detail = {"fault": line.fault, "code": line.fault_name, "state": line.state, "replace": replace}
            subject = f"{line.name} on {line.host}"
            ledger.record_event(connection, who=who, room=ROOM, what="reverted", subject=subject, detail=detail)
    return Reverted(tuple(taken), tuple(left))


def clear_staging(ledger: Ledger, copy_id: int, *, who: str, reach: Reach) -> None:
    """Throw away what was sent of a copy that is not published; it begins anew. Faults: those of the host, CONFLICT."""
    with lease.hold(ledger, lease_of(copy_id)) as held:
        copy = load(ledger, copy_id)
        if copy.state is CopyState.NEW:
            with far_side(copy, reach) as far:
                far.clear()
        with ledger.begin() as connection:
            held.check(connection)
            if copy.state is CopyState.NEW:
                change(connection, copy_id, step=CopyStep.QUEUED, **NOT_RESERVED)
            ledger.record_event(connection, who=who, room=ROOM, what="staging cleared", subject=copy.subject)


_LOST = frozenset({CopyState.LOST, CopyState.CORRUPT, CopyState.RETIRED})


def update(ledger: Ledger, which: Selection, *, who: str, **values: Any) -> list[Line]:
    """Set columns by hand; 0 is a value like others.

    :param values: of fault, dtime, path, host, state, priority; None leaves a column as it is. A state that is set to
        full is not proven by it: it shows as never verified, and the next audit reads it.
    """
    which.demand_some()
    given = {name: value for name, value in values.items() if value is not None}
    columns: dict[str, Any] = {}
    for name, value in given.items():
        columns |= _COLUMNS[name](ledger, value)
    if not columns:
        raise Fault(FaultKind.CONFIG, "update", "changes nothing: give at least one --set-… option")
    lines = select(ledger, which)
    held = lease.holders(ledger, [lease_of(line.id) for line in lines])
    busy = [line for line in lines if lease_of(line.id) in held]
    if busy:
        raise Fault(
            FaultKind.CONFLICT,
            f"copy {busy[0].id}",
            f"{held[lease_of(busy[0].id)]} works on it; nothing was changed",
            next_command="wait for it, then run again",
        )
    for line in lines:
        with ledger.begin() as connection:
            change(connection, line.id, **columns)
            subject = f"{line.name} on {line.host}"
            ledger.record_event(connection, who=who, room=ROOM, what="updated", subject=subject, detail=given)
    return select(ledger, Selection(copy_ids=[line.id for line in lines])) if lines else []


def _fault_columns(_ledger: Ledger, value: int) -> dict[str, Any]:
    if value == 0:
        return {**NO_FAULT, "attempts": 0}
    code = FaultCode.of_number(value)
    if code is None and value not in OLD_FAULTS:
        raise unknown_fault(value)
    return {
        "fault": value,
        "fault_name": code,
        "fault_kind": FaultKind.NEEDS_HUMAN,
        "fault_text": "set by hand",
        "not_before": None,
    }


def _state_columns(_ledger: Ledger, value: str) -> dict[str, Any]:
    if value not in set(CopyState):
        raise Fault(FaultKind.CONFIG, f"state {value!r}", f"is none of {', '.join(CopyState)}")
    if value == CopyState.FULL:
        nothing = {"verified_at": None, "manifest_sha256": None, "fingerprint": None}
        return {"state": value, "step": CopyStep.PUBLISHED, **nothing}
    return {"state": value, "step": CopyStep.QUEUED}


def _host_columns(ledger: Ledger, value: str) -> dict[str, Any]:
    return {"destination_id": destination.find(ledger, value).id, "destination_host": value}


def _path_columns(_ledger: Ledger, value: str) -> dict[str, Any]:
    check_path(value)
    return {"minidvodb_rsync_path": value}


def _priority_columns(_ledger: Ledger, value: int) -> dict[str, Any]:
    if value not in range(1, 6):
        raise Fault(FaultKind.CONFIG, f"priority {value}", "is not 1 (first) to 5")
    return {"priority": value}


_COLUMNS: dict[str, Callable[[Ledger, Any], dict[str, Any]]] = {
    "fault": _fault_columns,
    "dtime": lambda _ledger, value: {"dtime": float(value)},
    "path": _path_columns,
    "host": _host_columns,
    "state": _state_columns,
    "priority": _priority_columns,
}
