"""Five chapters on one terminal: every line says whose it is, a table stays whole, one that fails stops no other."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from custody.faults import Fault, FaultKind
from custody_demo import progress
from custody_demo.__main__ import show_all
from custody_demo.airflow_api import TaskInstance
from custody_demo.progress import Board, watch
from custody_demo.workspace import Outcome, Workspace, prepare


def printed(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.fixture
def plain() -> Console:
    return Console(file=io.StringIO(), width=80)


def test_every_line_says_whose_it_is(plain: Console) -> None:
    with Board(plain, ["tape", "wiki dump"]) as board:
        tape, wiki = board.console_for("tape"), board.console_for("wiki dump")
        tape.print("one, and", end=" ")
        wiki.print("two\nthree")
        tape.print("four [not markup]", markup=False)
        tape.print("long " * 40, soft_wrap=True)
    lines = printed(plain)
    assert lines[:3] == ["wiki dump │ two", "wiki dump │ three", "tape      │ one, and four [not markup]"]
    assert len(lines) == 4 and lines[3].startswith("tape      │ long long"), "an address must not be broken"


def test_a_table_stays_whole_and_fits(plain: Console) -> None:
    def speak(console: Console) -> None:
        table = Table(title="a table", width=console.width)
        for heading in "abc":
            table.add_column(heading)
        for number in range(20):
            table.add_row(*[str(number)] * 3)
        for _ in range(5):
            console.print(table)

    with Board(plain, ["drain", "tape"]) as board:
        threads = [threading.Thread(target=speak, args=(board.console_for(title),)) for title in ("drain", "tape")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = printed(plain)
    assert max(map(len, lines)) <= 80
    starts = [number for number, line in enumerate(lines) if "a table" in line]
    assert len(starts) == 10
    assert all(len({line[:5] for line in lines[start : start + 25]}) == 1 for start in starts)


def test_without_a_terminal_the_state_comes_now_and_then(plain: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Board(plain, ["tape"]) as board:
        for second in range(40):
            clock[0] = 100.0 + second
            board.show("tape", f"{second // 10} tasks")
    assert printed(plain) == ["tape │ 0 s: 0 tasks", "tape │ 16 s: 1 tasks", "tape │ 32 s: 3 tasks"]


def test_on_a_terminal_each_chapter_has_its_line() -> None:
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True, color_system=None)
    with Board(console, ["drain", "tape"]) as board:
        board.show("drain", "3 of 7 tasks done")
        board.end("tape", good=False)
        console.print(board)
    shown = [line.rstrip() for line in printed(console)]
    assert any(line.endswith("… drain     0 s  3 of 7 tasks done") for line in shown)
    assert any(line.endswith("✗ tape      0 s  something is not where it should be") for line in shown)


def test_tasks_and_facts_in_one_line() -> None:
    said: list[str] = []
    states = ["success", "skipped", "running", "failed", "waiting"]
    tasks = [TaskInstance(str(number), -1, "", state, 1, "") for number, state in enumerate(states)]
    watch(said.append, lambda: {"copies full": 2, "copies new": 0})(tasks)
    watch(said.append, dict)(tasks[:1])
    assert said == ["3 of 5 tasks done, 1 running, 1 failed; 2 copies full", "1 of 1 tasks done"]


@dataclass
class Told:
    """A chapter that does what it is told."""

    TITLE: str
    raises: BaseException | None = None

    def run(self, stack: Any, workspace: Workspace) -> Outcome:
        workspace.console.print("here I am")
        workspace.show("at work")
        if self.raises:
            raise self.raises
        return Outcome(self.TITLE)


def test_a_chapter_that_fails_stops_no_other(tmp_path: Path, plain: Console) -> None:
    workspace = prepare(tmp_path / "demo", plain)
    fault = Fault(FaultKind.DATA, "a tape is not what it was", "look at it")
    outcomes = show_all(None, workspace, [Told("drain"), Told("tape", fault), Told("wiki dump")])  # type: ignore[arg-type]
    assert [(one.title, bool(one.problems)) for one in outcomes] == [
        ("drain", False),
        ("tape", True),
        ("wiki dump", False),
    ]
    assert "a tape is not what it was" in outcomes[1].problems[0]
    assert {line.partition(" │")[0].strip() for line in printed(plain)} == {"drain", "tape", "wiki dump"}
    with pytest.raises(ZeroDivisionError):
        show_all(None, workspace, [Told("drain"), Told("tape", ZeroDivisionError())])  # type: ignore[arg-type]
