"""Wait until somebody's lock has grown stale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseSensorOperator, Context

from custody.wiki_dump import claim, farm_config, lockfile
from custody.wiki_dump.farm import farm_of
from custody.wiki_dump.layout import Places
from custody_airflow.operators.common import faults_as_outcomes


class StaleLockSensor(BaseSensorOperator):
    """Wait until a lock of a farm has not been touched for ``reporting.staleage``: a worker has died somewhere.

    :param farm: name of the farm. (templated)
    """

    template_fields: Sequence[str] = ("farm",)

    def __init__(self, *, farm: str, **kwargs: Any) -> None:
        super().__init__(**{"mode": "reschedule", "poke_interval": 60.0, **kwargs})
        self.farm = farm

    def poke(self, context: Context) -> bool:
        """Look at every lock once."""
        with faults_as_outcomes():
            conf = claim.read_conf(farm_config.load(self.farm))
            for wiki in farm_of(conf).wikis:
                settings = conf.of(wiki.name)
                for lock in lockfile.find(Places.of(wiki, settings).private):
                    if lock.age_s() > settings.staleage:
                        self.log.info("%s: %s, not touched for %.0f s", lock.path, lock.owner, lock.age_s())
                        return True
        return False
