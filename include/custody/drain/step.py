"""The frame that every step on a series runs in: the same for all, so that each step is only its own work."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody import lease
from custody.drain import markers, reserve, tables
from custody.drain.hooks import run_hook
from custody.drain.series import ROOM, Series, SeriesState, lease_of, load, set_state
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.ledger import Ledger
from custody.ledger.store import now

if TYPE_CHECKING:
    from custody.drain.targets import Target


@dataclass
class Work:
    """One step on one series while it runs: what it works on, and its pen for the ledger.

    Every write goes through :meth:`transaction`, which first makes sure that the lease is still ours.
    """

    ledger: Ledger
    series: Series
    who: str
    held: lease.Held
    targets: Sequence[Target]
    ends_as: SeriesState
    detail: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A fenced transaction. Faults: CONFLICT where the lease was lost."""
        with self.ledger.begin() as connection:
            self.held.check(connection)
            yield connection

    def event(
        self,
        connection: Connection,
        what: str,
        subject: str,
        result: str = "done",
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Append to the audit."""
        self.ledger.record_event(
            connection, who=self.who, room=ROOM, what=what, subject=subject, result=result, detail=detail
        )

    def reload(self) -> Series:
        """Read the series again after this step changed it."""
        self.series = load(self.ledger, self.series.id)
        return self.series

    def advance(self, count: int) -> None:
        """Tell how many more bytes are done."""
        self.held.progress["bytes_done"] = self.held.progress.get("bytes_done", 0) + count


class Step(Protocol):
    """A step as its callers see it. ``needs`` is the state it takes a series in."""

    needs: SeriesState

    def __call__(self, ledger: Ledger, series_id: int, *, who: str, targets: Sequence[Target] = ()) -> Series:
        """Do the step, or find that it was done; returns the series as it is then."""
        ...


def series_step(name: str, *, needs: SeriesState, makes: SeriesState) -> Callable[[Callable[[Work], None]], Step]:
    """Make a step of a function that does the work.

    The frame is the same for all: one owner (lease), the state before it must be reached *in the ledger* (whatever a
    task is marked as), the state after it and the audit line are written together, a fault is put on record. A step
    that was done already is not done again.
    """

    def frame(do: Callable[[Work], None]) -> Step:
        @wraps(do)
        def step(ledger: Ledger, series_id: int, *, who: str, targets: Sequence[Target] = ()) -> Series:
            with lease.hold(ledger, lease_of(series_id)) as held:
                series = load(ledger, series_id)
                if series.state.rank >= makes.rank:
                    return series
                _require_draining(series)
                _refuse_what_stopped_before(series, needs, name)
                work = Work(ledger, series, who, held, targets, ends_as=makes)
                try:
                    _require(series, needs, name)
                    facts = {"item": series.item, "directory": str(series.directory)}
                    run_hook(series.config, "before", name, facts)
                    _do(do, work)
                    run_hook(series.config, "on", name, facts)
                except Fault as fault:
                    raise _on_record(work, name, fault) from fault
                with work.transaction() as connection:
                    set_state(connection, series_id, work.ends_as)
                    work.event(connection, name, work.series.item, detail=work.detail)
                return load(ledger, series_id)

        step.needs = needs  # type: ignore[attr-defined]
        return cast(Step, step)

    return frame


def _do(do: Callable[[Work], None], work: Work) -> None:
    """Do the work; where the disk is full, once more with the room that was kept for that."""
    try:
        with os_errors_as_faults():
            do(work)
    except Fault as fault:
        if fault.kind is not FaultKind.CAPACITY or not reserve.spend(work.series.config):
            raise
        work.reload()
        work.detail.clear()
        with os_errors_as_faults():
            do(work)


def _require_draining(series: Series) -> None:
    """The operator's switch is looked at before every step; what waits for it is not a fault of the series."""
    if not markers.is_draining(series.config.job_dir):
        switch = f"touch {series.config.job_dir / markers.DRAINME}"
        raise Fault(FaultKind.CANCELLED, series.item, "not draining (no DRAINME)", next_command=switch)


def _refuse_what_stopped_before(series: Series, needs: SeriesState, step: str) -> None:
    """What an earlier step left behind with a fault keeps that fault on record: it says more than we could."""
    if series.state.rank < needs.rank and series.fault:
        reason = f"{_behind(series, needs, step)}; it stopped before: {series.fault_text}"
        next_command = f"custody drain status {shlex.quote(series.config_name)} --stuck"
        raise Fault(FaultKind.NEEDS_HUMAN, series.item, reason, next_command=next_command)


def put_on_record(ledger: Ledger, series: Series, what: str, fault: Fault, *, who: str) -> None:
    """Put a fault on record that kept a step from beginning. Faults: CONFLICT where somebody works on the series."""
    with lease.hold(ledger, lease_of(series.id)) as held, ledger.begin() as connection:
        held.check(connection)
        values = {"fault": fault.kind, "fault_text": str(fault), "changed_at": now()}
        connection.execute(sa.update(tables.series).where(tables.series.c.id == series.id).values(**values))
        detail = {"fault": str(fault)}
        ledger.record_event(
            connection, who=who, room=ROOM, what=what, subject=series.item, result=fault.kind, detail=detail
        )


def _require(series: Series, needs: SeriesState, step: str) -> None:
    if series.state is not needs:
        raise Fault(
            FaultKind.NEEDS_HUMAN,
            series.item,
            _behind(series, needs, step),
            next_command=series.next_command,
        )


def _behind(series: Series, needs: SeriesState, step: str) -> str:
    reason = f"is {series.state}, and {step} takes only what is {needs}"
    return f"{reason}; nothing was done, whatever the task before is marked as"


def _on_record(work: Work, step: str, fault: Fault) -> Fault:
    """Put a fault on record and return the one to raise.

    Nothing is tried for ever: what time alone has not mended after so many attempts is for a person.
    """
    if fault.kind is FaultKind.CONFLICT and work.held.lost:
        return fault  # the lease is somebody else's now, and so is the record
    counts = fault.kind in {FaultKind.TRANSIENT, FaultKind.CAPACITY}  # a wait the other side asked for is no failure
    attempts = work.series.attempts + counts
    if counts and attempts >= work.series.config.max_attempts:
        reason = f"{fault.reason}; given up after {attempts} attempts"
        next_command = f"custody drain retry {work.series.id}"
        fault = Fault(FaultKind.NEEDS_HUMAN, fault.subject, reason, next_command=next_command)
    values = {"fault": fault.kind, "fault_text": str(fault), "attempts": attempts, "changed_at": now()}
    try:
        with work.transaction() as connection:
            connection.execute(sa.update(tables.series).where(tables.series.c.id == work.series.id).values(**values))
            detail = work.detail | {"fault": str(fault)}
            work.event(connection, step, work.series.item, result=fault.kind, detail=detail)
    except Fault as second:
        fault.add_note(f"and the ledger could not be told: {second}")
    return fault
