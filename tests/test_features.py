"""The feature pages: every row of the spec's table once, and every test they name is really collected."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from side_by_side import SEEN

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "features"
ROWS = {"drain": 58, "wiki_dump": 27, "tape_backup": 40, "bitarchive_batch": 28, "minidvodb_copy": 35}
"""How many rows the feature table of a room has, for the rooms that are built."""

_ROW = re.compile(r"\| *(\d+) *\| *([^|]+?) *\| *(.+?) *\|")
_TEST = re.compile(r"(tests/[\w/.-]+\.py)::\w+")
_NOT_DONE = re.compile(r"not done: \S.{9,}")


@dataclass(frozen=True)
class Row:
    """One line of a feature page: the tests that show it, or why there are none."""

    number: int
    name: str
    shown_by: str

    @property
    def tests(self) -> list[str]:
        """The node ids, without the back quotes around them."""
        if self.shown_by.startswith("not done"):
            return []
        return [part.strip().strip("`") for part in self.shown_by.split("<br>")]


@cache
def read_rows(room: str) -> tuple[Row, ...]:
    """Every line of the table of a feature page."""
    lines = (PAGES / f"{room}.md").read_text("utf-8").splitlines()
    found = (_ROW.fullmatch(line.strip()) for line in lines)
    return tuple(Row(int(row[1]), row[2], row[3]) for row in found if row)


@cache
def collected(files: tuple[str, ...]) -> frozenset[str]:
    """The tests pytest finds in these files, without their parameters."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"pytest could not collect {' '.join(files)}:\n{done.stdout[-3000:]}{done.stderr}"
    return frozenset(line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line)


def all_tests() -> Iterator[str]:
    return (test for room in ROWS for row in read_rows(room) for test in row.tests)


def test_every_built_room_has_a_page() -> None:
    rooms = {path.stem for path in PAGES.glob("*.md")}
    assert rooms == set(ROWS)


@pytest.mark.parametrize("room", ROWS)
def test_every_row_of_the_spec_is_there_once_and_in_order(room: str) -> None:
    assert [row.number for row in read_rows(room)] == list(range(1, ROWS[room] + 1))


@pytest.mark.parametrize("room", ROWS)
def test_a_row_names_tests_or_says_why_not(room: str) -> None:
    wrong = {}
    for row in read_rows(room):
        if row.shown_by.startswith("not done"):
            if not _NOT_DONE.fullmatch(row.shown_by):
                wrong[row.number] = row.shown_by
        elif bad := [test for test in row.tests if not _TEST.fullmatch(test)]:
            wrong[row.number] = ", ".join(bad)
    assert not wrong, f"neither a test nor `not done: why` in docs/features/{room}.md: {wrong}"


@pytest.mark.parametrize("room", ROWS)
def test_no_row_names_a_test_twice(room: str) -> None:
    assert not {row.number: row.tests for row in read_rows(room) if len(set(row.tests)) != len(row.tests)}


def test_every_named_test_is_collected(request: pytest.FixtureRequest) -> None:
    named = sorted(set(all_tests()))
    files = tuple(sorted({test.partition("::")[0] for test in named}))
    missing = [file for file in files if not (ROOT / file).is_file()]
    assert not missing, f"feature pages name test files that are not there: {missing}"
    unseen = set(named) - request.config.stash[SEEN]  # where all files are collected anyway, that is not done again
    unknown = sorted(unseen and unseen - collected(files))
    assert not unknown, f"feature pages name tests that are not there: {unknown}"


def test_the_check_sees_a_test_that_is_not_there() -> None:
    own = "tests/test_features.py"
    assert f"{own}::test_the_check_sees_a_test_that_is_not_there" in collected((own,))
    assert f"{own}::test_nobody_wrote" not in collected((own,))
