"""Questions to a person in Airflow's Required Actions: nobody who waits for an answer holds a worker or a pool."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, NoReturn

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import TaskAwaitingInput

from custody_airflow.notices import CustodyNotifier

LOOK_AGAIN = timedelta(seconds=float(os.environ.get("CUSTODY_LOOK_AGAIN_S", "60")))
"""How often a task with an open question looks again. ``$CUSTODY_LOOK_AGAIN_S`` sets it."""


class Answer(NamedTuple):
    """What somebody said."""

    option: str
    by: str


class QuestionOperator(HITLOperator):
    """A task that may ask a person, and tells somebody that it does (:mod:`custody_airflow.notices`).

    A question is parked for a minute at a time: Airflow keeps an answer that comes in the very moment of parking, but
    does not always wake the task for it; and what the question is about may have changed meanwhile.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"subject": "", "notifiers": [CustodyNotifier()], **kwargs})

    def ask(self, context: Context, subject: str, body: str, *, deadline: datetime | None = None) -> NoReturn:
        """Ask, and park the task. Does not return."""
        self.subject, self.body = subject, body
        self.response_timeout = _left(deadline)
        try:
            HITLOperator.execute(self, context)
        except TaskAwaitingInput:
            self.wait_on(deadline)
        raise AssertionError("Airflow did not park the task")

    def wait_on(self, deadline: datetime | None = None) -> NoReturn:
        """Park the task again; the question stays open. Does not return."""
        kwargs = {"deadline": deadline.isoformat()} if deadline else {}
        raise TaskAwaitingInput(method_name="execute_complete", timeout=_left(deadline), kwargs=kwargs)

    def answer(self, context: Context, event: dict[str, Any]) -> Answer | None:
        """What was answered; None where it is only time to look again."""
        if event.get("error_type") == "timeout":
            return None
        given = HITLOperator.execute_complete(self, context, event)
        return Answer(given["chosen_options"][0], (given["responded_by_user"] or {}).get("name", "nobody"))


def _left(deadline: datetime | None) -> timedelta:
    if deadline is None:
        return LOOK_AGAIN
    return max(timedelta(seconds=1), min(LOOK_AGAIN, deadline - datetime.now(UTC)))
