"""How a tape run ends: the next tape for what is left over, and what became of everything."""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from custody.tape import report, tables
from custody.tape.catalog import Tape, list_backups
from custody.tape.states import BackupState, TapeState
from custody.tape.unfinished import Unfinished, list_unfinished
from custody.units import format_size
from custody_airflow.operators.common import failed_tasks
from custody_airflow.operators.tape_back import next_restore
from custody_airflow.operators.tape_run import TapeRun, Verb, tape_run
from custody_airflow.operators.tape_work import TapeOperator
from custody_airflow.params.tape import BACKUP

_HANDED_ON = ("config", "tapes", "pool", "mount_timeout_s", "ask", "force")


class NextTapeOperator(TapeOperator):
    """Where the tape is full and something is left: the conf of the run that goes on with the next tape."""

    def work(self, context: Context) -> list[dict[str, Any]]:
        """Returns one conf, or none."""
        run = tape_run(context)
        run.give_turn_back()  # the drive is done with; the run that goes on may have it
        if run.verbs == (Verb.RESTORE,):
            return self._next_restore(run)
        tape = run.tape()
        left = left_over(run, tape)
        if Verb.ARCHIVE not in run.verbs or tape.state not in {TapeState.FULL, TapeState.CLOSED} or not left:
            raise AirflowSkipException("no other tape is needed")
        unread = any(task.startswith("confirm.") for task in failed_tasks(context))
        if unread or bad_on_tape(run, tape):
            raise AirflowSkipException(f"not all of tape {tape.name} reads back as it was written: no other is begun")
        if len(run.tapes) < 2:
            raise AirflowSkipException(f"{left} targets are left over, and the run knows of no other tape")
        conf = {key: run.params[key] for key in _HANDED_ON} | {"tapes": run.tapes[1:], "action": BACKUP}
        steps = ({*run.verbs, Verb.ASSIGN, Verb.ARCHIVE}) - {Verb.OPEN, Verb.ACTIVATE, Verb.IMPORT}
        conf["steps"] = [str(verb) for verb in Verb if verb in steps]
        self.log.info("%d targets are left over: going on with tape %s", left, run.tapes[1])
        return [conf]

    def _next_restore(self, run: TapeRun) -> list[dict[str, Any]]:
        rest = next_restore(run)
        if rest is None:
            raise AirflowSkipException("no other tape is needed")
        self.log.info("the rest is on tape %s", ", ".join(rest["tapes"]))
        return [{key: run.params[key] for key in (*_HANDED_ON, "into", "overwrite")} | {"action": "restore"} | rest]


class TapeReportOperator(TapeOperator):
    """Say what became of everything, and fail the run where something is stuck: partial is never shown as success."""

    def work(self, context: Context) -> dict[str, object]:
        """Report from the ledger."""
        if "choose" in (broken := failed_tasks(context)):
            raise AirflowFailException("nothing was done; see the log of choose")
        run = tape_run(context)
        run.give_turn_back()
        if run.params["dry_run"] and Verb.SCAN not in run.verbs:
            raise AirflowSkipException("dry run: nothing was touched")
        stuck = self._stuck(run) if {Verb.ARCHIVE, Verb.CONFIRM, Verb.CLOSE} & set(run.verbs) else []
        goes_on = bool(context["ti"].xcom_pull(task_ids="next_tape.plan"))
        for one in stuck:
            level = logging.WARNING if goes_on else logging.ERROR
            self.log.log(level, "%s %s. Next: %s", one.subject, one.what, one.next_command)
        if broken or (stuck and not goes_on):
            what = [f"{len(broken)} tasks failed ({', '.join(broken[:5])})"] if broken else []
            what += [f"{one.subject} {one.what}. Next: {one.next_command}" for one in stuck[:1]]
            raise AirflowFailException("; ".join(what))
        return {"stuck": len(stuck)}

    def _stuck(self, run: TapeRun) -> list[Unfinished]:
        """What does not go on by itself of the tape that the run works with; says how the tape stands."""
        known = report.tapes(run.ledger)
        wanted = [one for one in known if (one.tape.name == run.tapes[0] if run.tapes else one.tape.is_online)]
        for one in wanted:
            self._tell(one)
        subjects = {f"tape {one.tape.name}" for one in wanted}
        return [one for one in list_unfinished(run.ledger) if one.is_stuck and one.subject in subjects]

    def _tell(self, found: report.TapeStatus) -> None:
        self.log.info("tape %s is %s", found.tape.called, found.tape.state)
        for state, total in found.sums.items():
            self.log.info("%s: %d targets, %s", state, total.targets, format_size(total.size_bytes))


def left_over(run: TapeRun, tape: Tape) -> int:
    """How many targets are meant for a tape that takes no more, or for none of its pool."""
    waiting = [BackupState.ASSIGNED, BackupState.OUTSTANDING]
    with run.ledger.read() as connection:
        found = list_backups(connection, tables.backup.c.tape_id == tape.id, tables.backup.c.state.in_(waiting))
    return len(found) + report.unassigned(run.ledger, [tape.pool])[tape.pool].targets


def bad_on_tape(run: TapeRun, tape: Tape) -> list[int]:
    """File numbers that did not read back as they were written."""
    table = tables.backup
    with run.ledger.read() as connection:
        found = list_backups(
            connection,
            table.c.tape_id == tape.id,
            table.c.state == BackupState.FAILED,
            table.c.file_number.is_not(None),
        )
    return [backup.file_number for backup in found if backup.file_number is not None]
