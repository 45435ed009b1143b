"""Wait for what minidvodb_copy does: for a host that is on, for a copy that is proven."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseSensorOperator, Context

from custody.minidvodb import destination
from custody.minidvodb.actions import Selection, select
from custody.minidvodb.records import CopyState
from custody_airflow.hooks.ledger import open_ledger
from custody_airflow.operators.common import faults_as_outcomes


class HostEnabledSensor(BaseSensorOperator):
    """Wait until a host is on the list (add.minidvodb.host).

    :param host: its name. (templated)
    """

    template_fields: Sequence[str] = ("host",)

    def __init__(self, *, host: str, **kwargs: Any) -> None:
        super().__init__(**{"mode": "reschedule", "poke_interval": 60.0, **kwargs})
        self.host = host

    def poke(self, context: Context) -> bool:
        """Look once."""
        with faults_as_outcomes():
            return destination.find(open_ledger(), self.host).enabled


class VerifyCopySensor(BaseSensorOperator):
    """Wait until databases are full and proven on a host: for a DAG that reads them there.

    :param host: its name. (templated)
    :param group: all of this group that are queued; at least one. (templated)
    :param minidvodb_id: or this one only. (templated)
    """

    template_fields: Sequence[str] = ("host", "group", "minidvodb_id")

    def __init__(
        self, *, host: str, group: str | None = None, minidvodb_id: int | str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**{"mode": "reschedule", "poke_interval": 60.0, **kwargs})
        self.host = host
        self.group = group
        self.minidvodb_id = minidvodb_id

    def poke(self, context: Context) -> bool:
        """Ask the ledger."""
        with faults_as_outcomes():
            numbers = [int(self.minidvodb_id)] if self.minidvodb_id else []
            lines = select(open_ledger(), Selection(host=self.host, group=self.group, minidvodb_ids=numbers))
        proven = [line for line in lines if line.state == CopyState.FULL and line.verified_at]
        self.log.info("%s: %d of %d copies are proven", self.host, len(proven), len(lines))
        return bool(lines) and len(proven) == len(lines)
