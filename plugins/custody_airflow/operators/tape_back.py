"""The operators that read tapes for people: restore, and scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import Context

from custody.faults import Fault, FaultKind
from custody.tape import rebuild
from custody.tape import restore as restoring
from custody.units import format_size
from custody_airflow.operators.tape_run import TapeRun, Verb, require_asked, tape_run
from custody_airflow.operators.tape_work import Pace, TapeOperator, fail_with


class TapeRestoreOperator(TapeOperator):
    """Restore what the patterns mean from the tape in the drive, each file compared before it gets its name."""

    def work(self, context: Context) -> dict[str, object]:
        """Restore into ``into``; what other tapes hold is for the next run."""
        run = tape_run(context)
        require_asked(run, Verb.RESTORE)
        if not run.params["into"]:
            raise Fault(FaultKind.CONFIG, "action restore", "needs `patterns` and `into`", next_command="fill in both")
        into, overwrite = Path(run.params["into"]), bool(run.params["overwrite"])
        (plan,) = restoring.plan(run.ledger, run.patterns_on(run.tape().name), tape=run.tape().name)
        for line in restoring.commands(run.ledger, plan, run.config.device):
            self.log.info("by hand, the same is:\n%s", line)
        try:
            restored, failed = self._restore(run, plan, into, overwrite=overwrite)
        except Fault as fault:
            raise restoring.with_others(run.ledger, plan, fault) from fault
        self.require_going_on()
        fail_with(self, failed, f"things could not be restored from tape {plan.tape.name}")
        return {"tape": plan.tape.name, "restored": restored}

    def _restore(
        self, run: TapeRun, plan: restoring.TapePlan, into: Path, *, overwrite: bool
    ) -> tuple[int, list[Fault]]:
        restored: int = 0
        failed: list[Fault] = []
        total = sum(one.backup.tape_bytes or 0 for one in plan.selections)
        pace = Pace(self.log.info, total)
        with run.mounted(plan.tape) as session:
            for selection in plan.selections:
                self.require_going_on()
                done = restoring.restore_one(
                    session, selection, into, overwrite=overwrite, stop=self.stop, progress=pace.advance
                )
                self._tell(done)
                restored += done.restored + done.already_there
                failed += done.problems
        return restored, failed

    def _tell(self, done: restoring.Restored) -> None:
        self.log.info(
            "%s, %s: %d restored, %s; %d were there already, %d without a digest to compare with",
            done.selection.where,
            done.selection.backup.target.name,
            done.restored,
            format_size(done.size_bytes),
            done.already_there,
            done.unverified,
        )


def next_restore(run: TapeRun) -> dict[str, Any] | None:
    """What is left of a restore after its first tape: tapes and patterns of the next run; None where nothing is."""
    tapes = run.restore_tapes()[1:]
    patterns = [text for text in run.patterns() if any(run.is_held(text, tape) for tape in tapes)]
    if not patterns:
        return None
    return {"tapes": tapes, "patterns": [restoring.escape(text) for text in patterns]}


class ScanTapeOperator(TapeOperator):
    """Read a whole tape: every file against the manifest it carries; what the catalogue lacks is put on record."""

    def work(self, context: Context) -> dict[str, object]:
        """Scan the tape in the drive; one that is named must be the one that is in. With ``dry_run`` only look."""
        run = tape_run(context)
        require_asked(run, Verb.SCAN)
        pace = Pace(self.log.info, 0)
        run.take_turn()
        done = rebuild.scan_tape(
            run.ledger,
            run.config,
            who=run.who,
            name=run.tapes[0] if run.tapes and not run.params["adopt_as"] else None,
            dry_run=bool(run.params["dry_run"]),
            adopt_as=run.params["adopt_as"] or None,
            source=run.hook.source.name,
            progress=pace.advance,
            tell=lambda found: self.log.info("%s", found),
            stop=self.stop,
        )
        self.require_going_on()
        done.require()
        return {"tape": done.tape_name, "files": len(done.files), "unfinished": len(done.damaged)}
