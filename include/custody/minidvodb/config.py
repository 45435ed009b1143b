"""A machine that holds databases: the name by which they know it, and where its tasks run.

One YAML file each, in ``minidvodb/`` below the directory of configurations. ``queue``, ``pool`` and ``executor`` are
read by the Airflow layer's queue policy.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from custody import configs

_SHELF = configs.Shelf("minidvodb")


class MachineConfig(BaseModel):
    """One machine. ``machine`` is the ``minidvodb_host`` of its databases."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    machine: str
    queue: str | None = None
    pool: str | None = None
    executor: str | None = None


def load(name: str) -> MachineConfig:
    """Read NAME.yml. Faults: CONFIG, naming the file, the key and what is wrong with it."""
    content, path = _SHELF.read_yaml(name)
    return configs.check(MachineConfig, content, str(path))
