"""The operators that write to tape: archive, and close."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from custody.faults import Fault, FaultKind
from custody.tape import archive, batches, close, recover, tapes
from custody.tape.archive import HEADROOM
from custody.tape.outcome import Archived, Outcome
from custody.tape.session import Session
from custody.tape.states import TapeState
from custody.units import format_size
from custody_airflow.operators.common import failed_tasks
from custody_airflow.operators.tape_ask import AskingOperator
from custody_airflow.operators.tape_run import TapeRun, Verb, require_asked, tape_run
from custody_airflow.operators.tape_work import Pace, TapeOperator, fail_with, named, writable_work


class PlanArchiveOperator(TapeOperator):
    """Divide what is assigned to the tape into tasks of about the configured size."""

    def work(self, context: Context) -> list[dict[str, Any]]:
        """Returns the tasks: numbers of targets, by name."""
        run = tape_run(context)
        require_asked(run, Verb.ARCHIVE)
        tape = run.tape()
        if tape.state is TapeState.FULL:
            raise AirflowSkipException(f"tape {tape.name} is full")
        work = writable_work(run, tape)
        if not work:
            raise AirflowSkipException(f"tape {tape.name}: nothing is assigned to it")
        if not tape.is_online:
            tapes.activate_tape(run.ledger, tape.name, who=run.who)
        divided = batches.divide([backup.target.size_bytes for backup in work], run.config.batch)
        return [
            {
                "name": named([backup.target.name for backup in work[some.start : some.stop]]),
                "targets": batches.pack_numbers(backup.target.id for backup in work[some.start : some.stop]),
                "size_bytes": some.size_bytes,
            }
            for some in divided
        ]


class TapeArchiveOperator(TapeOperator):
    """Write some targets to the tape, one tape file each.

    :param batch: ``name``, ``size_bytes``, and ``targets``: their numbers, packed.
    """

    template_fields: Sequence[str] = ("batch",)

    def __init__(self, *, batch: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch = batch

    def work(self, context: Context) -> dict[str, object]:
        """Take up what a crash left, then write until the batch is done or the tape is full."""
        run = tape_run(context)
        tape = run.tape()
        if tape.state is TapeState.FULL:
            raise AirflowSkipException(f"tape {tape.name} is full: the rest waits for the next one")
        wanted = batches.unpack_numbers(self.batch["targets"])
        pace = Pace(self.log.info, int(self.batch["size_bytes"] * HEADROOM))
        with run.mounted(tape, write=True) as session:
            adopted = recover.settle(session)
            for backup in adopted:
                self.log.info("file %s, %s: was whole on the tape", backup.file_number, backup.target.name)
            recorded, outcome, failed = self._write(session, run, wanted, pace)
        self.log.info("tape %s: %d targets written, %s; %s", tape.name, recorded, outcome, pace.line())
        self.require_going_on()
        fail_with(self, failed, f"of {len(wanted)} targets were not written; nothing is recorded of them")
        if not recorded and not adopted and outcome is Outcome.NO_WORK:
            raise AirflowSkipException("nothing of it is waiting any more")
        return {"tape": tape.name, "targets": recorded, "size_bytes": pace.done_bytes, "outcome": str(outcome)}

    def _write(
        self, session: Session, run: TapeRun, wanted: Sequence[int], pace: Pace
    ) -> tuple[int, Outcome, list[Fault]]:
        recorded, failed = 0, []
        while len(failed) <= len(wanted):
            try:
                done = archive.archive_one(session, run.hook.source, only=wanted, stop=self.stop, progress=pace.advance)
            except Fault as fault:
                if not _is_of_one_target(session, fault):
                    raise
                failed.append(fault)
                continue
            if done.outcome is not Outcome.RECORDED:
                return recorded, done.outcome, failed
            recorded += 1
            assert done.backup is not None
            self._tell(run, done)
            if self.stop.is_set():
                return recorded, Outcome.STOPPED, failed
        return recorded, Outcome.NO_WORK, failed

    def _tell(self, run: TapeRun, done: Archived) -> None:
        backup = done.backup
        assert backup is not None
        size, rate = format_size(backup.tape_bytes or 0), format_size(done.rate_bytes_s)
        self.log.info("file %s, %s: recorded, %s at %s/s", backup.file_number, backup.target.name, size, rate)
        if done.rate_bytes_s < run.config.low_rate and (backup.tape_bytes or 0) > run.config.low_rate:
            floor = format_size(run.config.low_rate)
            self.log.warning(
                "that is below %s/s, and the buffer ran dry %d times: the drive stops and starts", floor, done.underruns
            )


class CloseTapeOperator(TapeOperator, AskingOperator):
    """Close the tape: what is assigned and not on it is free again, the catalogue becomes its last file."""

    def question(self, context: Context) -> tuple[str, str] | None:
        """Which."""
        run = tape_run(context)
        tape = run.tape()
        if tape.state is TapeState.CLOSED or archive_failed(context):
            return None
        left = len(writable_work(run, tape))
        return f"Close tape {tape.name}?", f"{left} targets are assigned to it and would be free again."

    def work(self, context: Context) -> dict[str, object]:
        """Close; refused while something on it is not confirmed, unless forced."""
        run = tape_run(context)
        require_asked(run, Verb.CLOSE)
        if archive_failed(context):
            raise AirflowSkipException("not everything was archived: the tape stays as it is")
        if run.tape().state is TapeState.SUSPECT and not run.params["force"]:
            tape = run.tape()
            command = f"custody tape scan {tape.name} --dry-run, then custody tape trust_tape {tape.name} STATE"
            raise Fault(FaultKind.NEEDS_HUMAN, f"tape {tape.name}", f"is suspect: {tape.reason}", next_command=command)
        run.take_turn()
        closed = close.close_tape(run.ledger, run.config, run.tape().name, who=run.who, force=bool(run.params["force"]))
        self.log.info("tape %s: closed; its catalogue is file %s", closed.name, closed.catalog_file_number)
        return {"tape": closed.name}


def _is_of_one_target(session: Session, fault: Fault) -> bool:
    """Whether other targets may go on: the fault is the target's own, and the tape is as good as before."""
    is_own = fault.kind in {FaultKind.DATA, FaultKind.CONFIG} and fault.subject != session.drive.name
    return is_own and session.reload().state.is_writable


def archive_failed(context: Context) -> bool:
    """Whether a task of this run that writes has failed; closing would hide what it left."""
    return any(task.startswith("archive.") for task in failed_tasks(context))
