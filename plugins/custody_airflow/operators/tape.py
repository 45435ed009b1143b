"""The operators of tape_backup that begin a run, and those for tapes as things."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk import Context
from airflow.sdk.bases.skipmixin import SkipMixin

from custody.faults import Fault, FaultKind
from custody.tape import assign, tapes
from custody.tape.catalog import find_tape, list_tapes
from custody.tape.names import escape
from custody_airflow.operators.tape_run import TapeRun, Verb, require_asked, tape_run
from custody_airflow.operators.tape_work import TapeOperator, readable_work, writable_work

_OF_ONE_TAPE = {Verb.ASSIGN, Verb.ARCHIVE, Verb.CONFIRM, Verb.CLOSE, Verb.RESTORE}


class ChooseStepsOperator(TapeOperator, SkipMixin):
    """The first task: refuse what cannot be right before anything is done, and skip the tasks nobody asked for.

    :param tasks: for each verb the tasks that belong to it; what belongs to several is kept for any of them.
    """

    inherits_from_skipmixin: ClassVar[bool] = True

    def __init__(self, *, tasks: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tasks = {verb: list(ids) for verb, ids in tasks.items()}

    def work(self, context: Context) -> None:
        """Check params, configuration and tapes."""
        run = tape_run(context)
        self.log.info("%s, drive %s: %s", run.config.name, run.config.device, ", ".join(run.verbs))
        if not {Verb.OPEN, Verb.SCAN} & set(run.verbs):
            with run.ledger.read() as connection:
                for name in run.tapes:
                    find_tape(connection, name)
            if _OF_ONE_TAPE & set(run.verbs) and Verb.ACTIVATE not in run.verbs:
                run.tape()
        kept = {task_id for verb in run.verbs for task_id in self.tasks[verb]}
        if run.params["dry_run"] and Verb.SCAN not in run.verbs:
            for line in plan_lines(run):
                self.log.info("dry run: would %s", line)
            kept = set()
        if Verb.SCAN in run.verbs and not run.is_known():  # whatever is in the drive
            kept = {task_id for task_id in kept if not task_id.startswith("mount.")}
        unwanted = {task_id for ids in self.tasks.values() for task_id in ids} - kept
        later = [task for task in context["dag"].tasks if task.task_id != self.task_id]
        at_once = skippable({task.task_id: task.downstream_task_ids for task in later}, unwanted)
        self.skip(ti=context["ti"], tasks=[context["dag"].get_task(task_id) for task_id in sorted(at_once)])


class OpenTapeOperator(TapeOperator):
    """Put new tapes on record; their labels are written when they are first mounted for writing."""

    def work(self, context: Context) -> dict[str, object]:
        """Open every tape of the list that is not there yet; the first is the active one."""
        run = tape_run(context)
        require_asked(run, Verb.OPEN)
        if not run.tapes:
            raise Fault(FaultKind.CONFIG, "action open", "needs the names of the tapes", next_command="fill in tapes")
        with run.ledger.read() as connection:
            known = {tape.name for tape in list_tapes(connection)}
        marks = {key: run.params[key] for key in ("serial", "barcode")} if len(run.tapes) == 1 else {}
        if len(run.tapes) > 1 and (run.params["serial"] or run.params["barcode"]):
            raise Fault(FaultKind.CONFIG, "action open", "takes serial and barcode for one tape only")
        for position, name in enumerate(run.tapes):
            if name in known:
                self.log.info("tape %s is on record already", name)
                continue
            tape = tapes.open_tape(
                run.ledger, run.config, name, who=run.who, pool=run.params["pool"], online=position == 0, **marks
            )
            self.log.info("tape %s is new, of pool %s", tape.called, tape.pool)
        return {"tapes": len(run.tapes)}


class ActivateTapeOperator(TapeOperator):
    """Make a tape the one that is meant where no other is named."""

    def work(self, context: Context) -> dict[str, object]:
        """Activate the first of the list."""
        run = tape_run(context)
        require_asked(run, Verb.ACTIVATE)
        if not run.tapes:
            raise Fault(FaultKind.CONFIG, "action activate", "needs the name of a tape", next_command="fill in tapes")
        return {"tape": tapes.activate_tape(run.ledger, run.tapes[0], who=run.who).name}


def skippable(graph: Mapping[str, Collection[str]], unwanted: Collection[str]) -> set[str]:
    """Those of the unwanted tasks that may be skipped at once.

    What is behind a skipped task does not wait for what is before it. So one that stands between two tasks that are
    wanted stays, unless the second waits for the first in another way; it skips itself when its turn comes.

    :param graph: by task, the tasks directly behind it.
    """
    skipped: set[str] = set()
    wanted = set(graph) - set(unwanted)
    order = {task: _behind(graph, task, set()) & wanted for task in wanted}
    for task in sorted(unwanted):
        if all(_behind(graph, before, skipped | {task}) & wanted == after for before, after in order.items()):
            skipped.add(task)
    return skipped


def _behind(graph: Mapping[str, Collection[str]], task: str, without: Collection[str]) -> set[str]:
    found: set[str] = set()
    waiting = [task]
    while waiting:
        new = set(graph[waiting.pop()]) - found - set(without)
        found |= new
        waiting += new
    return found


def plan_lines(run: TapeRun) -> Iterator[str]:
    """What a run would do, a line each; nothing is touched."""
    for verb in run.verbs:
        if tell := _TOLD.get(verb):
            yield from tell(run)


def _would_assign(run: TapeRun) -> Iterator[str]:
    found = assign.assign(run.ledger, run.tape().name, who=run.who, dry_run=True)
    return (f"assign {target.name} to tape {found.tape.name}" for target in found.targets)


_TOLD: Mapping[Verb, Callable[[TapeRun], Iterator[str]]] = {
    Verb.OPEN: lambda run: (f"open tape {name}" for name in run.tapes),
    Verb.IMPORT: lambda run: (f"import {escape(path)}" for path in run.paths()),
    Verb.ASSIGN: _would_assign,
    Verb.ARCHIVE: lambda run: (f"archive {backup.target.name}" for backup in writable_work(run, run.tape())),
    Verb.CONFIRM: lambda run: (
        f"confirm file {backup.file_number}, {backup.target.name}" for backup in readable_work(run, run.tape())
    ),
    Verb.CLOSE: lambda run: iter([f"close tape {run.tape().name}"]),
    Verb.RESTORE: lambda run: (f"restore from tape {name}" for name in run.restore_tapes()),
}
