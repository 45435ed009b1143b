"""The frame that every step on a copy runs in: the same for all, so that each step is only its own work."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, wraps
from typing import Any, Protocol

from sqlalchemy.engine import Connection

from custody import lease
from custody.faults import Fault, FaultKind, from_os_error
from custody.host import Host, LocalHost
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.minidvodb import switches
from custody.minidvodb.codes import CopyFault, FaultCode, code_of
from custody.minidvodb.destination import Destination
from custody.minidvodb.far import Far
from custody.minidvodb.records import (
    NO_FAULT,
    NOT_RESERVED,
    ROOM,
    Copy,
    CopyState,
    CopyStep,
    change,
    elapsed_s,
    lease_of,
    load,
)
from custody.minidvodb.ssh import SharedSshHost

Reach = Callable[[Destination], Host]
"""Makes the machine of a destination; Airflow connections are translated to it."""

FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(hours=6)
JITTER = 0.25
_RETRIED = frozenset(code for code in FaultCode if code.kind.is_worth_a_retry)


def reach_locally(known: Destination) -> Host:
    """For destinations without a connection: a directory of this machine. Faults: CONFIG for the others."""
    if known.connection:
        raise CopyFault(FaultCode.CONFIG, f"host {known.name}", f"needs the connection {known.connection}")
    return LocalHost()


def close_host(host: Host) -> None:
    """End the connection that a machine's commands shared, where there is one."""
    close = getattr(host, "close", None)
    if close:
        close()


@contextmanager
def far_side(copy: Copy, reach: Reach) -> Iterator[Far]:
    """The directory over there for the length of a block, outside of a step."""
    host = reach(copy.destination)
    try:
        yield Far(host, copy.path, copy.name, copy.id, place=copy.destination.name)
    finally:
        close_host(host)


@dataclass
class Work:
    """One step on one copy while it runs: what it works on, and its pen for the ledger.

    Every write goes through :meth:`transaction`, which first makes sure that the lease is still ours.

    :param values: columns that the end of the step writes.
    :param back_to: the step that the copy falls back to if this one fails.
    :param also: what else is written in the transaction that ends the step.
    """

    ledger: Ledger
    copy: Copy
    who: str
    held: lease.Held
    reach: Reach
    makes: CopyStep
    values: dict[str, Any] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)
    back_to: CopyStep | None = None
    also: Callable[[Connection], None] | None = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A fenced transaction. Faults: CONFLICT where the lease was lost."""
        with self.ledger.begin() as connection:
            self.held.check(connection)
            yield connection

    @cached_property
    def host(self) -> Host:
        """The machine that takes the copy; one connection serves the whole step."""
        return self.reach(self.copy.destination)

    def far(self) -> Far:
        """The directory over there; a connection to it is begun, so that it is made while something else is done."""
        if isinstance(self.host, SharedSshHost):
            self.host.begin()
        return Far(self.host, self.copy.path, self.copy.name, self.copy.id, place=self.copy.destination.name)

    def close(self) -> None:
        """End the connection, where there is one."""
        if "host" in self.__dict__:
            close_host(self.host)

    def event(
        self, connection: Connection, what: str, result: str = "done", detail: Mapping[str, Any] | None = None
    ) -> None:
        """Append to the audit."""
        self.ledger.record_event(
            connection, who=self.who, room=ROOM, what=what, subject=self.copy.subject, result=result, detail=detail
        )

    def advance(self, count: int) -> None:
        """Tell how many more bytes are done."""
        self.held.progress["bytes_done"] = self.held.progress.get("bytes_done", 0) + count


class Step(Protocol):
    """A step as its callers see it."""

    def __call__(self, ledger: Ledger, copy_id: int, *, who: str, reach: Reach = reach_locally) -> Copy:
        """Do the step, or find that it was done; returns the copy as it is then."""
        ...


def copy_step(name: str, *, needs: CopyStep, makes: CopyStep) -> Callable[[Callable[[Work], None]], Step]:
    """Make a step of a function that does the work.

    The frame is the same for all: one owner (lease), the stage *run* and the host are on, the step before it is
    reached *in the ledger*, what it found out is written together with the audit line, a fault is put on record.
    A step that was done already is not done again.
    """

    def frame(do: Callable[[Work], None]) -> Step:
        @wraps(do)
        def step(ledger: Ledger, copy_id: int, *, who: str, reach: Reach = reach_locally) -> Copy:
            with lease.hold(ledger, lease_of(copy_id)) as held:
                copy = load(ledger, copy_id)
                if copy.state is CopyState.FULL or copy.step.rank >= makes.rank:
                    return copy
                _demand_open(ledger, copy)
                _require(copy, needs, name)
                held.progress |= {"step": name, "bytes": copy.row["bytes"] or 0, "bytes_done": 0}
                work = Work(ledger, copy, who, held, reach, makes)
                began = time.monotonic()
                try:
                    do(work)
                except OSError as error:
                    raise _on_record(work, name, from_os_error(error)) from error
                except Fault as fault:
                    raise _on_record(work, name, fault) from fault
                finally:
                    work.close()
                work.detail |= {"seconds": round(time.monotonic() - began, 3)}
                _write_end(work, name)
                return load(ledger, copy_id)

        return step

    return frame


def _demand_open(ledger: Ledger, copy: Copy) -> None:
    """What is switched off, or outside of its hours, begins no step; that is no fault of the copy."""
    switches.demand_on(ledger, switches.Stage.RUN)
    copy.destination.demand_enabled()
    if not copy.destination.settings.may_run(now()):
        reason = f"takes copies only {copy.destination.settings.window}"
        raise CopyFault(FaultCode.CANCELLED, copy.destination.name, reason, next_command="it goes on by itself then")


def _require(copy: Copy, needs: CopyStep, step: str) -> None:
    if copy.state is not CopyState.NEW or copy.step is not needs:
        raise Fault(
            FaultKind.NEEDS_HUMAN,
            copy.subject,
            f"is {copy.state}, {copy.step}, and {step} takes only what is new, {needs}; nothing was done, whatever the "
            "task before is marked as",
            next_command=copy.next_command,
        )


def _write_end(work: Work, name: str) -> None:
    values = {"step": work.makes, **NO_FAULT, **work.values}
    if name == "preflight":
        values |= {"started_at": now(), "ended_at": None}
    try:
        with work.transaction() as connection:
            change(connection, work.copy.id, **values)
            if work.also:
                work.also(connection)
            work.event(connection, name, detail=work.detail)
    except Fault as fault:
        if fault.kind is FaultKind.CONFLICT:
            raise
        raise CopyFault(
            FaultCode.DB_UPDATE,
            work.copy.subject,
            f"{name} is done, but the ledger could not be told ({fault.reason})",
            next_command="run it again: nothing is sent twice",
        ) from fault


def _on_record(work: Work, step: str, fault: Fault) -> Fault:
    """Put a fault on record and return the one to raise.

    What time may mend is tried again after growing pauses, but not for ever; the rest waits for a revert.
    """
    if fault.kind is FaultKind.CONFLICT and work.held.lost:
        return fault  # the lease is somebody else's now, and so is the record
    if fault.kind is FaultKind.THROTTLED:
        with suppress(Fault), work.transaction() as connection:
            change(connection, work.copy.id)  # a wait for its turn is no failure; it stays in this run's hands
        return fault
    code = code_of(fault)
    attempts = work.copy.row["attempts"] + (code is not FaultCode.CANCELLED)
    settings = work.copy.destination.settings
    values: dict[str, Any] = {
        "fault": code.number,
        "fault_name": code,
        "attempts": attempts,
        "ended_at": now(),
        "dtime": elapsed_s(work.copy.row["started_at"]),
        "exit_status": getattr(fault, "exit_status", None),
        "stderr_tail": getattr(fault, "stderr_tail", None),
        "not_before": None,
        **NOT_RESERVED,
    }
    if work.back_to:
        values["step"] = work.back_to
    if is_retried(code, fault):
        if attempts >= settings.max_attempts:
            fault = CopyFault(
                code,
                fault.subject,
                f"{fault.reason}; given up after {attempts} attempts",
                kind=FaultKind.NEEDS_HUMAN,
                next_command=f"custody minidvodb revert --copy {work.copy.id}",
            )
        else:
            values["not_before"] = pause_until(now(), attempts)
    values |= {"fault_kind": fault.kind, "fault_text": str(fault)[:10_000]}
    try:
        with work.transaction() as connection:
            change(connection, work.copy.id, **values)
            work.event(connection, step, result=fault.kind, detail=work.detail | {"fault": str(fault), "code": code})
    except Fault as second:
        fault.add_note(f"and the ledger could not be told: {second}")
    return fault


def is_retried(code: FaultCode, fault: Fault) -> bool:
    """Whether the next runs try a copy with this fault again by themselves."""
    return code in _RETRIED and fault.kind is not FaultKind.NEEDS_HUMAN


def pause_until(at: datetime, attempts: int) -> datetime:
    """When the next attempt may be made: twice as long after each, and never all of them at the same moment."""
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(20, max(0, attempts - 1))))
    return at + pause * random.uniform(1, 1 + JITTER)  # noqa: S311 - no secret
