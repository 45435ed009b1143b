"""Wait for a disk: until there is room on it, or until it has filled up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseSensorOperator, Context

from custody.host import LocalHost
from custody.units import format_size
from custody_airflow.operators.common import faults_as_outcomes


class DiskSpaceSensor(BaseSensorOperator):
    """Wait until a file system has room, or (``at_least_used_pct``) until it needs emptying.

    It looks at the disk of the worker it runs on: give it the queue of the machine that owns the disk.

    :param path: any path on the file system. (templated)
    :param min_free_bytes: enough room is this much.
    :param at_least_used_pct: it needs emptying from this share in use on, 0 to 100, as df counts.
    """

    template_fields: Sequence[str] = ("path",)

    def __init__(
        self, *, path: str, min_free_bytes: int = 0, at_least_used_pct: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**{"mode": "reschedule", "poke_interval": 60.0, **kwargs})
        self.path = path
        self.min_free_bytes = min_free_bytes
        self.at_least_used_pct = at_least_used_pct

    def poke(self, context: Context) -> bool:
        """Look once."""
        with faults_as_outcomes():
            usage = LocalHost().disk_usage(Path(self.path))
        self.log.info("%s: %.1f %% used, %s free", self.path, usage.used_pct, format_size(usage.free_bytes))
        full_enough = self.at_least_used_pct is None or usage.used_pct >= self.at_least_used_pct
        return full_enough and usage.free_bytes >= self.min_free_bytes
