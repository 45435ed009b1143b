"""Named configurations: one file each, in the directory of its room; checked whole before anything is touched."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from custody.faults import Fault, FaultKind

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Shelf:
    """Where the configurations of one room lie.

    :param room: name of the directory.
    :param suffix: how the files end.
    :param called: what a configuration of this room is, in a message: configuration, archive, farm.
    """

    room: str
    suffix: str = ".yml"
    called: str = "configuration"

    @property
    def directory(self) -> Path:
        """``$CUSTODY_CONFIG_DIR/ROOM``, or include/config/ROOM."""
        root = os.environ.get("CUSTODY_CONFIG_DIR")
        return (Path(root) if root else Path(__file__).parents[1] / "config") / self.room

    def names(self) -> list[str]:
        """Every configuration there is, by name; the examples (``example-*``) are none."""
        names = (path.stem for path in self.directory.glob(f"*{self.suffix}"))
        return sorted(name for name in names if not name.startswith((".", "example-")))

    def path(self, name: str) -> Path:
        """The file of the configuration ``name``. Faults: CONFIG where that is no name."""
        if not _NAME.fullmatch(name):
            raise Fault(FaultKind.CONFIG, f"{self.called} {name!r}", "is no name of a configuration")
        return self.directory / f"{name}{self.suffix}"

    def read(self, name: str, path: Path | None = None) -> tuple[str, Path]:
        """The text of a configuration, and its file: the one of that name, or ``path``.

        Faults: CONFIG, naming the configurations there are where it is not among them.
        """
        path = path or self.path(name)
        try:
            return path.read_text("utf-8"), path
        except FileNotFoundError as error:
            known = ", ".join(self.names()) or f"none in {self.directory}"
            raise Fault(FaultKind.CONFIG, f"{self.called} {name}", f"is not there; there are: {known}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise Fault(FaultKind.CONFIG, str(path), f"cannot be read ({error})") from error

    def read_yaml(self, name: str, path: Path | None = None) -> tuple[dict[str, Any], Path]:
        """The keys and values of a YAML configuration, and its file. Faults: CONFIG, naming the file."""
        text, path = self.read(name, path)
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise Fault(FaultKind.CONFIG, str(path), f"is no YAML ({' '.join(str(error).split())})") from error
        if not isinstance(content, dict):
            raise Fault(FaultKind.CONFIG, str(path), "is no list of `key: value` lines")
        return content, path


def check(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Check values that came from ``where``. Faults: CONFIG, with every key that is wrong and what is wrong with it."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        complaints = "; ".join(_complaint(detail) for detail in error.errors(include_url=False))
        raise Fault(FaultKind.CONFIG, where, complaints) from error


def _complaint(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "configuration"
    if detail["type"] == "extra_forbidden":
        return f"{key}: no such key"
    return f"{key}: {detail['msg'].removeprefix('Value error, ')}"
