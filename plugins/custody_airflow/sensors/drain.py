"""Wait for what drain does: for its switch, for a proof."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseSensorOperator, Context

from custody.drain import markers
from custody.drain.series import SeriesState, load
from custody_airflow.hooks.ledger import open_ledger
from custody_airflow.operators.common import faults_as_outcomes


class DrainmeSensor(BaseSensorOperator):
    """Wait until an operator switches draining on (DRAINME in the job directory).

    :param job_dir: the job directory, on the worker's machine. (templated)
    """

    template_fields: Sequence[str] = ("job_dir",)

    def __init__(self, *, job_dir: str, **kwargs: Any) -> None:
        super().__init__(**{"mode": "reschedule", "poke_interval": 60.0, **kwargs})
        self.job_dir = job_dir

    def poke(self, context: Context) -> bool:
        """Look once."""
        return markers.is_draining(Path(self.job_dir))


class ProofSensor(BaseSensorOperator):
    """Wait until a series is proven at every destination: for a DAG that works on what is safely stored.

    :param series_id: its number in the ledger. (templated)
    """

    template_fields: Sequence[str] = ("series_id",)

    def __init__(self, *, series_id: int | str, **kwargs: Any) -> None:
        super().__init__(**{"mode": "reschedule", "poke_interval": 60.0, **kwargs})
        self.series_id = series_id

    def poke(self, context: Context) -> bool:
        """Ask the ledger."""
        with faults_as_outcomes():
            series = load(open_ledger(), int(self.series_id))
        self.log.info("%s: %s", series.item, series.state)
        return series.state in {SeriesState.PROVEN, SeriesState.CLEAN}
