"""What a run of ``tape_backup`` was asked for: its params as the steps understand them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from custody import lease
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.tape import listing, restore, turn
from custody.tape.catalog import Tape, find_tape, list_tapes
from custody.tape.config import TapeConfig
from custody.tape.mount import Look
from custody.tape.session import Session, drive_lease
from custody_airflow.hooks.tape import TapeDriveHook
from custody_airflow.operators.common import run_of
from custody_airflow.params.tape import BACKUP, PARAMS


class Verb(StrEnum):
    """What a run can do, in the order in which it is done."""

    OPEN = "open"
    ACTIVATE = "activate"
    IMPORT = "import"
    ASSIGN = "assign"
    ARCHIVE = "archive"
    CONFIRM = "confirm"
    CLOSE = "close"
    RESTORE = "restore"
    SCAN = "scan"


ON_THE_DRIVE = (Verb.ARCHIVE, Verb.CONFIRM, Verb.CLOSE, Verb.RESTORE, Verb.SCAN)
"""What needs the tape in the drive."""


@dataclass(frozen=True)
class TapeRun:
    """One run: its drive, its params, and who it is in the audit (``who`` with the task, ``run`` without)."""

    hook: TapeDriveHook
    params: Mapping[str, Any]
    who: str
    run: str

    @property
    def config(self) -> TapeConfig:
        """The configuration of the drive."""
        return self.hook.config

    @property
    def ledger(self) -> Ledger:
        """The ledger."""
        return self.hook.ledger

    @property
    def verbs(self) -> tuple[Verb, ...]:
        """What was asked for, in its order."""
        return verbs_of(self.params)

    @property
    def tapes(self) -> list[str]:
        """The tapes in the order in which they are to be used; none: the one that is active."""
        return list(self.params["tapes"] or [])

    @property
    def writes(self) -> bool:
        """Whether anything goes to tape."""
        return bool({Verb.ARCHIVE, Verb.CLOSE} & set(self.verbs))

    def tape(self) -> Tape:
        """The tape that this run works with. Faults: CONFIG where there is none of that name, or none is active."""
        names = self.restore_tapes() if Verb.RESTORE in self.verbs else self.tapes
        with self.ledger.read() as connection:
            return find_tape(connection, names[0] if names else None)

    def is_known(self) -> bool:
        """Whether the tape that was named is in the catalogue."""
        with self.ledger.read() as connection:
            return bool(self.tapes) and self.tapes[0] in {tape.name for tape in list_tapes(connection)}

    def patterns(self) -> list[bytes]:
        """What is to be restored. Faults: CONFIG where nothing is named."""
        given = [text for text in self.params["patterns"] or () if text]
        if not given:
            raise Fault(FaultKind.CONFIG, "action restore", "needs `patterns` and `into`", next_command="fill in both")
        return [os.fsencode(text) for text in given]

    def is_held(self, pattern: bytes, tape: str) -> bool:
        """Whether a tape has anything of what a pattern means."""
        try:
            return bool(restore.plan(self.ledger, [pattern], tape=tape))
        except Fault as fault:
            if fault.kind in {FaultKind.CONFIG, FaultKind.NEEDS_HUMAN}:
                return False
            raise

    def patterns_on(self, tape: str) -> list[bytes]:
        """Those patterns of which a tape has anything."""
        return [pattern for pattern in self.patterns() if self.is_held(pattern, tape)]

    def restore_tapes(self) -> list[str]:
        """The tapes of a restore in their order: those that were named, or those that it needs.

        Faults: CONFIG naming the pattern that none of them holds.
        """
        if not self.tapes:
            return [plan.tape.name for plan in restore.plan(self.ledger, self.patterns())]
        held = {tape: self.patterns_on(tape) for tape in self.tapes}
        for pattern in self.patterns():
            if not any(pattern in patterns for patterns in held.values()):
                restore.plan(self.ledger, [pattern], tape=self.tapes[0])  # says why
        return [tape for tape, patterns in held.items() if patterns]

    def other_tapes(self) -> list[str]:
        """Other tapes that have everything that a restore wants of its first one."""
        if Verb.RESTORE not in self.verbs:
            return []
        name = self.tape().name
        return [
            other
            for plan in restore.plan(self.ledger, self.patterns_on(name), tape=name)
            for other in restore.elsewhere(self.ledger, plan)
        ]

    def take_turn(self) -> None:
        """Have the drive to this run, from its first look at it to its end. Faults: CONFLICT while another has it."""
        turn.take_turn(self.ledger, self.config, self.run)

    def keep_turn(self) -> None:
        """Keep the drive where this run has it: a person is taking time to answer."""
        turn.keep_turn(self.ledger, self.config, self.run)

    def give_turn_back(self) -> None:
        """Let the next run have the drive."""
        turn.give_turn_back(self.ledger, self.config, self.run)

    def look(self, tape: Tape) -> Look:
        """See which tape is in the drive. Faults: CONFLICT while another run, or anybody else, has the drive."""
        name = drive_lease(self.config.device)
        if holder := lease.holders(self.ledger, [name]).get(name):
            raise Fault(FaultKind.CONFLICT, name, f"is held by {holder}")
        self.take_turn()
        return self.hook.look(tape, write=self.writes)

    @contextmanager
    def mounted(self, tape: Tape, *, write: bool = False) -> Iterator[Session]:
        """Hold the drive with this tape in it; the turn stays with the run when the drive is given back."""
        self.take_turn()
        with self.hook.mounted(tape, who=self.who, write=write) as session:
            try:
                yield session
            finally:
                with suppress(Fault):  # what the block ended with says more
                    self.keep_turn()  # not take: a task that is ended late must not have it after its run gave it back

    def paths(self) -> list[bytes]:
        """What is to be imported, each once, in the order given. Faults: CONFIG, those of the source."""
        given: list[bytes] = []
        if typed := [path for path in self.params["targets"] or () if path.strip()]:
            given += listing.typed(typed)
        if self.params["targets_file"]:
            given += listing.from_file(Path(self.params["targets_file"]))
        if self.params["find_below"]:
            given += listing.below(self.hook.source, self.params["find_below"], self.params["find_name"] or "*")
        return list(dict.fromkeys(given))


def verbs_of(params: Mapping[str, Any]) -> tuple[Verb, ...]:
    """The verbs that params ask for. Faults: CONFIG for an unknown step."""
    asked: Sequence[str] = params["steps"] or () if params["action"] == BACKUP else (params["action"],)
    if unknown := sorted(set(asked) - set(Verb)):
        reason = f"is none; there are: {', '.join(Verb)}"
        raise Fault(FaultKind.CONFIG, f"step {unknown[0]!r}", reason)
    if not asked:
        raise Fault(FaultKind.CONFIG, "param steps", "names no step", next_command=f"name some of: {', '.join(Verb)}")
    return tuple(verb for verb in Verb if verb in asked)


def tape_run(context: Context) -> TapeRun:
    """The run that a task belongs to; a misspelt key of ``--conf`` is refused. Faults: CONFIG."""
    params = dict(context["params"])
    if unknown := sorted(set(params) - set(PARAMS)):
        reason = f"is not known; known are: {', '.join(sorted(PARAMS))}"
        raise Fault(FaultKind.CONFIG, f"--conf key {unknown[0]!r}", reason)
    overrides = {"mount_timeout_s": params["mount_timeout_s"]} if params["mount_timeout_s"] else {}
    task_instance = context["ti"]
    run = f"{task_instance.dag_id}/{task_instance.run_id}"
    return TapeRun(TapeDriveHook(params["config"], overrides), params, run_of(context), run)


def require_asked(run: TapeRun, verb: Verb) -> None:
    """Skip a task that the run was not asked for."""
    if verb not in run.verbs or (run.params["dry_run"] and verb is not Verb.SCAN):
        raise AirflowSkipException(f"{verb} is not among the steps of this run")
