"""Wait for a tape to be in its drive."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from airflow.sdk import BaseSensorOperator, Context

from custody.faults import Fault
from custody.tape.catalog import find_tape
from custody.tape.mount import may_have_changed
from custody_airflow.hooks.tape import TapeDriveHook
from custody_airflow.operators.common import faults_as_outcomes
from custody_airflow.operators.tape_run import tape_run
from custody_airflow.operators.tape_work import waits_for_the_drive

LOOK_ANYWAY = timedelta(minutes=15)


class TapeLabelSensor(BaseSensorOperator):
    """Wait until the label of the wanted tape is read in the drive; no worker is held meanwhile.

    It reads a label only where the cartridge may have been changed, and only while nobody else has the drive. Without
    ``config`` it waits for the tape of its run of ``tape_backup``.

    :param config: name of the drive's configuration. (templated)
    :param tape: name of the tape; empty: the active one. (templated)
    :param write: whether it must also be free to be written to.
    """

    template_fields: Sequence[str] = ("config", "tape")

    def __init__(
        self, *, config: str | None = None, tape: str | None = None, write: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**{"mode": "reschedule", "poke_interval": 60.0, "timeout": timedelta(days=7), **kwargs})
        self.config = config
        self.tape = tape
        self.write = write

    def poke(self, context: Context) -> bool:
        """Look once."""
        with faults_as_outcomes():
            try:
                return self._look(context)
            except Fault as fault:
                if not waits_for_the_drive(fault):
                    raise
                self.log.info("%s", fault)
                return False

    def _look(self, context: Context) -> bool:
        if self.config:
            hook = TapeDriveHook(self.config)
            with hook.ledger.read() as connection:
                wanted = find_tape(connection, self.tape or None)
            look = partial(hook.look, wanted, write=self.write)
        else:
            run = tape_run(context)
            hook, wanted = run.hook, run.tape()
            look = partial(run.look, wanted)
        if not (self._is_time_to_read(context) or may_have_changed(hook.config)):
            self.log.info("%s: still not tape %s", hook.config.device, wanted.called)
            return False
        seen = look()
        if seen.is_right:
            self.log.info("%s: tape %s is in", hook.config.device, wanted.name)
        else:
            self.log.info("%s %s; wanted is tape %s", hook.config.device, seen.complaint, wanted.called)
        return seen.is_right

    def _is_time_to_read(self, context: Context) -> bool:
        """The first time, and now and then: somebody else may have looked at a new cartridge before us."""
        task_instance = context.get("ti")
        first = task_instance.get_first_reschedule_date(context) if task_instance else None
        if first is None:
            return True
        waited = datetime.now(UTC) - first
        return waited % LOOK_ANYWAY < timedelta(seconds=self.poke_interval)
