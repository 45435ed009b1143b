"""The operators that read back: what was written is compared, file by file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Asset, Context
from airflow.sdk.exceptions import AirflowSkipException

from custody.faults import Fault, FaultKind
from custody.tape import batches, confirm
from custody.tape.catalog import Backup
from custody.tape.session import Session
from custody_airflow.operators.common import failed_tasks
from custody_airflow.operators.tape_run import Verb, require_asked, tape_run
from custody_airflow.operators.tape_work import Pace, TapeOperator, fail_with, readable_work

CONFIRMED_TARGETS = Asset("custody-tape-confirmed-targets", uri="x-custody://tape/confirmed-targets")


class PlanConfirmOperator(TapeOperator):
    """Divide what is to be confirmed into tasks of about the configured size, sorted by file number."""

    def work(self, context: Context) -> list[dict[str, Any]]:
        """Returns the tasks: file numbers."""
        run = tape_run(context)
        require_asked(run, Verb.CONFIRM)
        if broken := {"mount.insert", "mount.label"} & set(failed_tasks(context)):
            raise AirflowSkipException(f"the tape is not in the drive ({', '.join(sorted(broken))} failed)")
        tape = run.tape()
        work = readable_work(run, tape)
        if not work:
            raise AirflowSkipException(f"tape {tape.name}: nothing on it is waiting to be confirmed")
        numbers = [backup.file_number or 0 for backup in work]
        divided = batches.divide([backup.tape_bytes for backup in work], run.config.batch)
        return [
            {
                "name": _range_of(numbers[some.start : some.stop]),
                "files": batches.pack_numbers(numbers[some.start : some.stop]),
                "size_bytes": some.size_bytes,
            }
            for some in divided
        ]


class TapeConfirmOperator(TapeOperator):
    """Read some files of the tape back and compare every member.

    What is confirmed is an event of the asset ``CONFIRMED_TARGETS``, where the DAG names it among ``outlets``.

    :param batch: ``name``, ``size_bytes``, and ``files``: their file numbers, packed.
    """

    template_fields: Sequence[str] = ("batch",)

    def __init__(self, *, batch: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch = batch

    def work(self, context: Context) -> dict[str, object]:
        """Confirm in one pass; a difference fails the task once all of them were read."""
        run = tape_run(context)
        tape = run.tape()
        wanted = set(batches.unpack_numbers(self.batch["files"]))
        waiting = [backup for backup in readable_work(run, tape) if backup.file_number in wanted]
        if not waiting:
            raise AirflowSkipException("all of it is confirmed")
        pace, failed = Pace(self.log.info, int(self.batch["size_bytes"])), []
        with run.mounted(tape) as session:
            for backup in waiting:
                self.require_going_on()
                if fault := self._confirm(session, backup, pace):
                    failed.append(fault)
        self.require_going_on()
        self.log.info("tape %s: %s", tape.name, pace.line())
        fail_with(self, failed, f"of {len(waiting)} files are not as they were written")
        result: dict[str, object] = {"tape": tape.name, "targets": len(waiting), "size_bytes": pace.done_bytes}
        if CONFIRMED_TARGETS in self.outlets:
            context["outlet_events"][CONFIRMED_TARGETS].extra = {**result, "files": self.batch["files"]}
        return result

    def _confirm(self, session: Session, backup: Backup, pace: Pace) -> Fault | None:
        try:
            done = confirm.confirm_one(session, backup, stop=self.stop, progress=pace.advance)
            for complaint in done.complaints:
                self.log.error("file %s: %s", backup.file_number, complaint)
            done.require()
        except Fault as fault:
            if fault.kind is not FaultKind.DATA:
                raise
            return fault  # a bad spot: the other files of the tape may be well
        self.log.info("file %s, %s: confirmed, %d members", backup.file_number, backup.target.name, done.members)
        return None


def _range_of(numbers: Sequence[int]) -> str:
    """What the grid shows of some file numbers."""
    return f"file {numbers[0]}" if len(numbers) == 1 else f"files {numbers[0]} … {numbers[-1]} ({len(numbers)})"
