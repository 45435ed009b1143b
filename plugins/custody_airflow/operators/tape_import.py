"""The operators that know sources: import, scan, assign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from custody.faults import Fault, FaultKind
from custody.tape import assign, batches, tables, targets
from custody.tape.catalog import list_backups
from custody.tape.states import BackupState, TapeState
from custody.units import format_size
from custody_airflow.operators.common import failed_tasks
from custody_airflow.operators.tape_ask import AskingOperator
from custody_airflow.operators.tape_run import Verb, require_asked, tape_run
from custody_airflow.operators.tape_work import Pace, TapeOperator, fail_with, named

MAX_SCANS = 64
SHOWN = 20


class ImportTargetsOperator(TapeOperator, AskingOperator):
    """Put directories on record as targets; a second time makes no new ones. Returns what is to be scanned."""

    def question(self, context: Context) -> tuple[str, str] | None:
        """Which."""
        paths = tape_run(context).paths()
        shown = "".join(f"    {path.decode('utf-8', 'backslashreplace')}\n" for path in paths[:SHOWN])
        more = f"\nand {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
        return (f"Import {len(paths)} targets?", shown + more) if paths else None

    def work(self, context: Context) -> list[dict[str, str]]:
        """Import, and divide the scans into tasks."""
        run = tape_run(context)
        require_asked(run, Verb.IMPORT)
        paths = run.paths()
        if not paths:
            raise AirflowSkipException("no targets were given: nothing to import")
        rescan = bool(run.params["retry"])
        found = targets.import_targets(run.ledger, run.config, run.hook.source, paths, who=run.who, rescan=rescan)
        self.log.info("%d new targets, %d known ones, %d to scan", len(found.new), len(found.known), len(found.to_scan))
        waiting = found.to_scan
        divided = batches.divide([1] * len(waiting), 1, most=MAX_SCANS)
        return [
            {
                "name": named([one.name for one in waiting[some.start : some.stop]]),
                "targets": batches.pack_numbers(one.id for one in waiting[some.start : some.stop]),
            }
            for some in divided
        ]


class ScanTargetOperator(TapeOperator):
    """Read targets at their source once: their members, and a digest of every file.

    :param batch: ``name``, and ``targets``: their numbers, packed.
    """

    template_fields: Sequence[str] = ("batch",)

    def __init__(self, *, batch: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch = batch

    def work(self, context: Context) -> dict[str, object]:
        """Scan one after the other; one that cannot be scanned keeps no other from it."""
        run = tape_run(context)
        pace = Pace(self.log.info, 0)
        failed: list[Fault] = []
        wanted = targets.load_targets(run.ledger, batches.unpack_numbers(self.batch["targets"]))
        for target in wanted:
            self.require_going_on()
            try:
                done = targets.scan_target(
                    run.ledger, run.config, run.hook.source, target, who=run.who, progress=pace.advance
                )
                self.log.info("%s: %s members, %s", done.name, done.members, format_size(done.size_bytes or 0))
            except Fault as fault:
                if fault.kind not in {FaultKind.DATA, FaultKind.CONFIG}:
                    raise
                failed.append(fault)
        fail_with(self, failed, f"of {len(wanted)} targets could not be scanned")
        return {"targets": len(wanted), "size_bytes": pace.done_bytes}


class AssignOperator(TapeOperator, AskingOperator):
    """Give every target without a copy in the tape's pool to the tape."""

    def question(self, context: Context) -> tuple[str, str] | None:
        """How much, to which."""
        run = tape_run(context)
        found = assign.assign(run.ledger, run.tape().name, who=run.who, dry_run=True)
        if not found.targets:
            return None
        names = "".join(f"    {target.name}\n" for target in found.targets[:SHOWN])
        return (
            f"Assign {len(found.targets)} targets, {format_size(found.size_bytes)}, to tape {found.tape.name}?",
            names,
        )

    def work(self, context: Context) -> dict[str, object]:
        """Assign; what waits for a tape that is full is free for this one."""
        run = tape_run(context)
        require_asked(run, Verb.ASSIGN)
        if broken := {"choose", "tape.open", "tape.activate", "import_targets.plan"} & set(failed_tasks(context)):
            raise AirflowFailException(
                f"{', '.join(sorted(broken))} failed"
            )  # a scan that failed keeps no other target
        tape = run.tape()
        if tape.state is TapeState.FULL:
            raise AirflowSkipException(f"tape {tape.name} is full: nothing more is assigned to it")
        with run.ledger.read() as connection:
            failed = self._failed(connection, tape.pool) if run.params["retry"] else []
        done = assign.assign(run.ledger, tape.name, who=run.who)
        if failed:
            assign.reassign(run.ledger, tape.name, failed, who=run.who)
        count = len(done.targets) + len(failed)
        self.log.info("tape %s: %d targets assigned, %s", tape.name, count, format_size(done.size_bytes))
        return {"tape": tape.name, "targets": count}

    @staticmethod
    def _failed(connection: Any, pool: str) -> list[str]:
        """Names of targets that drifted at their source; what was bad on a tape is for a person to decide."""
        table = tables.backup
        failed = (tables.tape.c.pool == pool, table.c.state == BackupState.FAILED, table.c.file_number.is_(None))
        return [backup.target.name for backup in list_backups(connection, *failed)]
