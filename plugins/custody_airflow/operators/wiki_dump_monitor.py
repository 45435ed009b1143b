"""The operators of wiki_dump_monitor."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from custody.wiki_dump import farm_config, monitor
from custody_airflow.hooks.ledger import open_ledger
from custody_airflow.operators.common import CustodyOperator, run_of
from custody_airflow.operators.wiki_dump import ALL, refuse_unknown_keys
from custody_airflow.params.wiki_dump import MONITOR_PARAMS


class SweepOperator(CustodyOperator):
    """One look of the monitor at one farm.

    :param farm: its name. (templated)
    """

    template_fields = ("farm",)

    def __init__(self, *, farm: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.farm = farm

    def work(self, context: Context) -> dict[str, int]:
        """Sweep."""
        context["unit"] = self.farm  # type: ignore[typeddict-unknown-key] # for map_index_template
        found = monitor.sweep(open_ledger(), farm_config.load(self.farm), who=run_of(context))
        for name in found.aborted:
            self.log.warning("%s: dump aborted, its lock is removed", name)
        for name in found.broken:
            self.log.error("%s", name)
        if found.broken:
            raise AirflowFailException(f"{len(found.broken)} wikis cannot be looked at; first {found.broken[0]}")
        return {"wikis": found.wikis, "running": found.running, "aborted": len(found.aborted)}


class FarmsToWatchOperator(CustodyOperator):
    """The farms that a sweep looks at: one, or all."""

    def work(self, context: Context) -> list[str]:
        """List their names."""
        refuse_unknown_keys(context, MONITOR_PARAMS)
        name = context["params"]["config"]
        return farm_config.config_names() if name == ALL else [name]
