"""A machine that holds databases: the name by which they know it, and where its tasks run.

One YAML file each, in ``minidvodb/`` below the directory of configurations. ``queue``, ``pool`` and ``executor`` are
read by the Airflow layer's queue policy.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from custody.faults import Fault, FaultKind

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class MachineConfig(BaseModel):
    """One machine. ``machine`` is the ``minidvodb_host`` of its databases."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    machine: str
    queue: str | None = None
    pool: str | None = None
    executor: str | None = None


def config_directory() -> Path:
    """``$CUSTODY_CONFIG_DIR/minidvodb``, or include/config/minidvodb."""
    root = os.environ.get("CUSTODY_CONFIG_DIR")
    return (Path(root) if root else Path(__file__).parents[2] / "config") / "minidvodb"


def load(name: str) -> MachineConfig:
    """Read NAME.yml. Faults: CONFIG, naming the file, the key and what is wrong with it."""
    if not _NAME.fullmatch(name):
        raise Fault(FaultKind.CONFIG, f"configuration {name!r}", "is no name of a configuration")
    path = config_directory() / f"{name}.yml"
    try:
        return MachineConfig.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except FileNotFoundError as error:
        known = ", ".join(sorted(one.stem for one in path.parent.glob("*.yml"))) or "none"
        raise Fault(FaultKind.CONFIG, f"configuration {name}", f"is not there; there are: {known}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "configuration"
        raise Fault(FaultKind.CONFIG, str(path), f"{key}: {first['msg']}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Fault(FaultKind.CONFIG, str(path), f"cannot be read ({' '.join(str(error).split())})") from error
