"""Several chapters on one terminal at once: what each says stands behind its name; a line each shows how far it is.

Where there is no terminal, these lines come as lines, now and then.
"""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from custody_demo.airflow_api import TaskInstance

_COLOURS = ("cyan", "magenta", "yellow", "blue", "green")
_PLAIN_EVERY_S = 15.0
_OVER = ("success", "skipped", "failed", "upstream_failed", "removed")


@dataclass
class _Row:
    """How far a chapter is; `good` is None as long as it runs."""

    colour: str
    began: float = field(default_factory=lambda: time.monotonic())
    ended: float | None = None
    text: str = "waiting for Airflow"
    good: bool | None = None
    said: str = ""
    said_at: float = float("-inf")

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.began


class Board:
    """Give every chapter its console (`console_for`) and its line (`show`); a context manager.

    :param titles: of the chapters, in the order of their lines
    """

    def __init__(self, console: Console, titles: Sequence[str]) -> None:
        self._console = console
        self._rows = {title: _Row(_COLOURS[number % len(_COLOURS)]) for number, title in enumerate(titles)}
        self._width = max(map(len, titles), default=0)
        self._lock = threading.Lock()
        self._live = Live(self, console=console, refresh_per_second=2, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __rich__(self) -> Table:
        """Draw the lines."""
        table = Table.grid(padding=(0, 2))
        for title, row in self._rows.items():
            mark = {None: "…", True: "✓", False: "✗"}[row.good]
            shown = Text(row.text, no_wrap=True, overflow="ellipsis")
            table.add_row(Text(f"{mark} {title}", row.colour), f"{row.seconds:4.0f} s", shown)
        return table

    def console_for(self, title: str) -> Console:
        """A console for one chapter: whatever is printed on it stands behind the chapter's name."""
        width = max(40, self._console.width - self._width - 3)
        return Console(file=_Lines(self, title), width=width, force_terminal=self._console.is_terminal)

    def show(self, title: str, text: str) -> None:
        """Say in one line how far a chapter is."""
        row = self._rows[title]
        row.text = text
        if self._live is None and text != row.said and time.monotonic() - row.said_at > _PLAIN_EVERY_S:
            row.said, row.said_at = text, time.monotonic()
            self.put(title, [f"{row.seconds:.0f} s: {text}"])

    def end(self, title: str, *, good: bool) -> None:
        """Note that a chapter is over."""
        row = self._rows[title]
        row.ended, row.good = time.monotonic(), good
        row.text = "every file is where it should be" if good else "something is not where it should be"

    def put(self, title: str, lines: Sequence[str]) -> None:
        """Print some lines of a chapter, together."""
        name = Text(f"{title:<{self._width}} │ ", self._rows[title].colour)
        texts = [Text.assemble(name, Text.from_ansi(line)) for line in lines]
        with self._lock:
            self._console.print(Text("\n").join(texts), soft_wrap=True, highlight=False)


class _Lines(io.StringIO):
    """The file behind a chapter's console; rich writes what one call prints in one piece."""

    def __init__(self, board: Board, title: str) -> None:
        super().__init__()
        self._board, self._title, self._rest = board, title, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._board.put(self._title, lines)
        return len(text)


def watch(show: Callable[[str], None], facts: Callable[[], Mapping[str, int]]) -> Callable[[list[TaskInstance]], None]:
    """Make the `on_progress` of AirflowStack.wait that shows tasks and facts in one line.

    :param facts: asked at every look; what the ledger counts by state
    """

    def on_progress(tasks: list[TaskInstance]) -> None:
        states = Counter(task.state for task in tasks)
        parts = [f"{sum(states[state] for state in _OVER)} of {len(tasks)} tasks done"]
        parts += [f"{states[state]} {state}" for state in ("running", "failed") if states[state]]
        known = ", ".join(f"{count} {name}" for name, count in facts().items() if count)
        show(", ".join(parts) + (f"; {known}" if known else ""))

    return on_progress
