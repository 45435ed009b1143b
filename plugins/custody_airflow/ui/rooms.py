"""The rooms that have a page: one module each in this package, found by its name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from typing import Any, Protocol

from fastapi import APIRouter

from custody.ledger import Ledger
from custody_airflow.ui.metrics import Gauge
from custody_airflow.ui.next_step import NextStep

NAMES = ("drain", "wiki_dump", "minidvodb", "bitarchive", "tape")


@dataclass(frozen=True)
class Attention:
    """Something that does not go on, and what to do about it.

    :param path: its page, below the root of the pages.
    :param patience: why it can wait; empty where it needs a person.
    """

    title: str
    path: str
    state: str
    kind: str
    since: datetime | None
    step: NextStep
    patience: str = ""

    @property
    def needs_you(self) -> bool:
        """Whether a person has to do something."""
        return not self.patience

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "needs_you": self.needs_you}


class Status(Protocol):
    """Where a room stands at one moment."""

    @property
    def needs_you(self) -> Sequence[Attention]:
        """What waits for a person, worst first."""
        ...

    @property
    def running_count(self) -> int:
        """How many things are worked on."""
        ...

    def as_json(self) -> Mapping[str, Any]:
        """All of it, for programs."""
        ...


@dataclass(frozen=True)
class Room:
    """What a room gives to the pages: a module says ``ROOM = Room(...)``.

    :param router: its own pages, below ``/NAME`` (and ``/api/NAME`` for programs).
    :param read: where it stands, for the front page and ``/api/status``.
    :param template: the part of the front page that shows it, given as ``status``.
    :param gauges: its numbers for ``/api/metrics``, from what ``read`` returned and the time.
    """

    name: str
    title: str
    router: APIRouter
    read: Callable[[Ledger], Status]
    template: str
    gauges: Callable[[Any, datetime], Iterable[Gauge]]


@cache
def rooms() -> tuple[Room, ...]:
    """Every room that exists, in the order of the house."""
    modules = [f"{__package__}.{name}" for name in NAMES]
    return tuple(importlib.import_module(name).ROOM for name in modules if importlib.util.find_spec(name))
