"""Show a running DAG: its tasks by state and what the ledger counts; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from custody_demo.airflow_api import TaskInstance

_STATES = ("success", "running", "failed", "skipped")
_COLOURS = {"success": "green", "running": "cyan", "failed": "red", "skipped": "dim", "other": "yellow"}
_PLAIN_EVERY_S = 10.0


class RunProgress:
    """Hand `show` to AirflowStack.wait as its `on_progress`.

    :param facts: asked at every look; what the ledger counts by state
    """

    def __init__(self, console: Console, title: str, facts: Callable[[], Mapping[str, int]]) -> None:
        self._console, self._title, self._facts = console, title, facts
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._said, self._said_at = "", float("-inf")
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, tasks: list[TaskInstance]) -> None:
        """Draw what is known now."""
        facts = {name: count for name, count in self._facts().items() if count}
        if self._live:
            self._live.update(Group(self._table(tasks), _sentence("series", facts)))
            return
        line = f"{_sentence('tasks', Counter(task.state for task in tasks))}; {_sentence('series', facts)}"
        if line != self._said and time.monotonic() - self._said_at > _PLAIN_EVERY_S:
            self._console.print(f"{time.monotonic() - self._began:5.0f} s  {line}", soft_wrap=True, highlight=False)
            self._said, self._said_at = line, time.monotonic()

    def _table(self, tasks: list[TaskInstance]) -> Table:
        table = Table(title=f"{self._title}, {time.monotonic() - self._began:.0f} s", min_width=60)
        table.add_column("task")
        for state in (*_STATES, "other"):
            table.add_column(state if state != "other" else "waiting", justify="right", style=_COLOURS[state])
        by_task: dict[str, Counter[str]] = {}
        for task in sorted(tasks, key=lambda each: each.started or "waiting"):
            state = task.state if task.state in _STATES else "other"
            by_task.setdefault(task.task_id, Counter())[state] += 1
        for task_id, counts in by_task.items():
            table.add_row(task_id, *(str(counts[state] or "") for state in (*_STATES, "other")))
        return table


def _sentence(what: str, counts: Mapping[str, int]) -> str:
    return f"{what}: " + (", ".join(f"{count} {state}" for state, count in counts.items()) or "none yet")
