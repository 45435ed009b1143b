"""The questions of a tape run: whether a step is to be done, and for the tape that is needed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, NoReturn

from airflow.sdk import Context
from airflow.sdk.bases.skipmixin import SkipMixin
from airflow.sdk.exceptions import AirflowException, AirflowSkipException

from custody.faults import Fault, FaultKind
from custody.tape.mount import Look, may_have_changed, put_on_record
from custody_airflow.operators.common import CustodyOperator, faults_as_outcomes
from custody_airflow.operators.questions import QuestionOperator
from custody_airflow.operators.tape_run import TapeRun, tape_run
from custody_airflow.operators.tape_work import TapeOperator, has_work_on_drive, waits_for_the_drive

REPORT = "report"


def skip_rest(task: Any, context: Context, reason: str) -> NoReturn:
    """End a run here on purpose: everything behind a task is skipped but the report. Does not return."""
    task.log.warning(reason)
    rest = [one for one in context["task"].get_flat_relatives(upstream=False) if one.task_id != REPORT]
    task.skip(ti=context["ti"], tasks=rest)
    raise AirflowSkipException(reason)  # there was nothing behind it


class AskingOperator(CustodyOperator, QuestionOperator, SkipMixin):
    """A step that a person is asked about before it is done, where the run has ``ask``; "Stop" ends the run."""

    inherits_from_skipmixin: ClassVar[bool] = True
    YES, NO = "Do it", "Stop here"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(options=[self.YES, self.NO], **kwargs)

    def question(self, context: Context) -> tuple[str, str] | None:
        """Subject and details (Markdown) of the question; None where there is nothing to ask about."""
        raise NotImplementedError

    def execute(self, context: Context) -> Any:
        """Ask, unless nobody wants to be asked or the answer was given before a retry; then work."""
        asked = None
        with faults_as_outcomes():
            if tape_run(context).params["ask"] and not context["task_state_store"].get("agreed"):
                asked = self.question(context)
        if asked is None:
            return super().execute(context)
        self.ask(context, *asked)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on with the answer; where there is none yet, keep the drive if this run has it, and wait on."""
        answer = self.answer(context, event)
        if answer is None:
            with faults_as_outcomes():
                tape_run(context).keep_turn()
            self.wait_on()
        if answer.option != self.YES:
            skip_rest(self, context, f"{answer.by} said: {self.NO.lower()}")
        self.log.info("%s said: %s", answer.by, self.YES.lower())
        context["task_state_store"].set("agreed", answer.by)
        return super().execute(context)


class InsertTapeOperator(TapeOperator, QuestionOperator, SkipMixin):
    """Have the right tape in the drive: go on at once where it is in, else ask a person to insert it.

    While the question is open the drive is looked at every minute: the run goes on when the label matches, whether
    anybody answers or not.
    """

    inherits_from_skipmixin: ClassVar[bool] = True
    DONE, CANCEL = "It is in the drive", "Cancel this run"

    def __init__(self, **kwargs: Any) -> None:
        # Whoever says that it is in, while another one is, is asked again by the next try.
        again = {"retries": 100, "retry_delay": timedelta(seconds=5), "retry_exponential_backoff": False}
        super().__init__(options=[self.DONE, self.CANCEL], **{**kwargs, **again})

    def work(self, context: Context) -> dict[str, object]:
        """Look, and ask where that is needed."""
        run = tape_run(context)
        tape = run.tape()
        if not has_work_on_drive(run, tape):
            raise AirflowSkipException(f"tape {tape.name}: there is nothing to do on it")
        seen = run.look(tape)
        if seen.is_right:
            return self._go_on(run, seen)
        self._record(run, seen, waits=True)
        self.log.info("%s: %s; wanted is tape %s", run.config.device, seen.complaint, tape.called)
        body = f"Drive `{run.config.device}` {_escaped(seen.complaint)}. Wanted is tape **{_escaped(tape.called)}**."
        if others := run.other_tapes():
            body += f" What is to be restored lies on {_escaped(', '.join(others))} as well."
        deadline = datetime.now(UTC) + timedelta(seconds=run.config.mount_timeout_s)
        self.ask(context, f"Insert tape {tape.called}", body, deadline=deadline)

    def execute_complete(self, context: Context, event: dict[str, Any], deadline: str = "") -> Any:
        """Look again: the question was answered, or a minute has passed."""
        answer = self.answer(context, event)
        with faults_as_outcomes():
            run = tape_run(context)
            if answer is None:
                return self._look_again(run, datetime.fromisoformat(deadline))
        if answer.option == self.CANCEL:
            self._record(run, Look(run.tape(), "another tape or none", ""), waits=False)
            skip_rest(self, context, f"cancelled by {answer.by}: the tape was not inserted; what is assigned stays so")
        with faults_as_outcomes():
            seen = run.look(run.tape())
            self._record(run, seen, waits=not seen.is_right)
        if not seen.is_right:
            raise AirflowException(
                f"{run.config.device}: {answer.by} said that tape {seen.tape.name} is in, but it {seen.complaint}"
            )
        return self._go_on(run, seen)

    def _look_again(self, run: TapeRun, deadline: datetime) -> dict[str, object]:
        tape = run.tape()
        try:
            run.take_turn()
            seen = run.look(tape) if may_have_changed(run.config) else None
        except Fault as fault:
            if not waits_for_the_drive(fault):
                raise
            seen = None
        if seen and seen.is_right:
            return self._go_on(run, seen)
        is_over = datetime.now(UTC) >= deadline
        if seen:
            self._record(run, seen, waits=not is_over)
        if is_over:
            reason = f"nobody inserted it within {timedelta(seconds=run.config.mount_timeout_s)}"
            command = f"insert it, then custody tape activate_tape {tape.name} and trigger tape_backup again"
            raise Fault(FaultKind.NEEDS_HUMAN, f"tape {tape.called}", reason, next_command=command)
        self.wait_on(deadline)

    @staticmethod
    def _record(run: TapeRun, seen: Look, *, waits: bool) -> None:
        put_on_record(run.ledger, run.config, seen, who=run.who, waits=waits)

    def _go_on(self, run: TapeRun, seen: Look) -> dict[str, object]:
        self._record(run, seen, waits=False)
        self.log.info("tape %s is in the drive", seen.tape.name)
        return {"tape": seen.tape.name}


def _escaped(text: str) -> str:
    """Text that a label or a file name may be part of, as it is, in Markdown."""
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|" else sign for sign in text)
