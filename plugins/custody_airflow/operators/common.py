"""What every operator of Custody shares: faults become Airflow's outcomes, in one place.

| fault | outcome |
|---|---|
| TRANSIENT, CAPACITY | the attempt fails; Airflow tries again with growing pauses |
| CONFLICT | the same: somebody else has it now, and may be done with it by then |
| THROTTLED | the task waits without a worker slot until the time the other side named |
| CANCELLED | skipped: somebody stopped it on purpose |
| AUTH, DATA, CONFIG, NEEDS_HUMAN | failed at once, no retry; the message ends with the next command |
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from custody.faults import Fault, FaultKind
from custody_airflow.links import CustodyLink

SHORTEST_DEFERRAL = timedelta(seconds=15)  # below that a trigger can fire before the scheduler has put the task away
DEFAULT_PAUSE = timedelta(seconds=60)

RETRY_DELAY = timedelta(seconds=float(os.environ.get("CUSTODY_RETRY_DELAY_S", "15")))
"""The pause before the first retry of a task; each further one is twice as long. ``$CUSTODY_RETRY_DELAY_S`` sets it."""

RETRY_ARGUMENTS: dict[str, Any] = {
    "retries": 5,
    "retry_delay": RETRY_DELAY,
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=30),
}
"""Defaults of every task: whatever may be deferred needs a retry anyway."""


def outcome_of(fault: Fault) -> AirflowException:
    """What Airflow is told of a fault."""
    match fault.kind:
        case FaultKind.CANCELLED:
            return AirflowSkipException(str(fault))
        case kind if kind.is_worth_a_retry or kind is FaultKind.CONFLICT:
            return AirflowException(str(fault))
        case _:
            return AirflowFailException(str(fault))


def failed_tasks(context: Context, *, and_behind: bool = True) -> list[str]:
    """The tasks of this run that failed, and those that could not begin because of one that did."""
    instance: Any = context["ti"]
    states = instance.get_task_states(dag_id=instance.dag_id, run_ids=[instance.run_id]).get(instance.run_id, {})
    wanted = {"failed", "upstream_failed"} if and_behind else {"failed"}
    return sorted({task for task, state in states.items() if str(state) in wanted})


@contextmanager
def faults_as_outcomes() -> Iterator[None]:
    """For sensors, which have their own way of waiting."""
    try:
        yield
    except Fault as fault:
        raise outcome_of(fault) from fault


class CustodyOperator(BaseOperator):
    """An operator whose work raises faults. Subclasses write :meth:`work`."""

    operator_extra_links = (CustodyLink(),)

    def work(self, context: Context) -> Any:
        """Do what the task is for; what is returned goes to XCom: ids and counts only."""
        raise NotImplementedError

    def execute(self, context: Context) -> Any:
        """Work, and answer a fault as the table above says."""
        while True:
            try:
                return self.work(context)
            except Fault as fault:
                self._answer(fault)

    def resume(self, context: Context, event: Any = None) -> Any:
        """Go on after a deferral; what was done already is found done."""
        return self.execute(context)

    def _answer(self, fault: Fault) -> None:
        """Raise what Airflow makes the outcome of; returns after a short throttling that was sat out here."""
        if fault.kind is FaultKind.THROTTLED:
            self._wait_until(fault.until or datetime.now(UTC) + DEFAULT_PAUSE, fault)
        else:
            raise outcome_of(fault) from fault

    def _wait_until(self, until: datetime, fault: Fault) -> None:
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        left = until - datetime.now(UTC)
        if left < SHORTEST_DEFERRAL:
            self.log.info("%s; going on in %.0f s", fault, max(0.0, left.total_seconds()))
            time.sleep(max(0.0, left.total_seconds()))
            return
        spread = timedelta(seconds=random.uniform(0, left.total_seconds() / 10))  # noqa: S311 - jitter, not a secret
        self.log.info("%s; waiting until %s", fault, until + spread)
        self.defer(trigger=DateTimeTrigger(moment=until + spread), method_name="resume")


def run_of(context: Context) -> str:
    """Who acts: DAG, run and task, as the ledger's audit names it."""
    task_instance = context["ti"]
    index = task_instance.map_index
    mapped = "" if index is None or index < 0 else f"[{index}]"
    return f"{task_instance.dag_id}/{task_instance.run_id}/{task_instance.task_id}{mapped}"
