"""The crash harness finds what a careless step loses, and counts right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crash.harness import DeletedWithoutProof, _spread, enumerate_crash_points
from crash.summary import CrashReport, total_line

pytestmark = pytest.mark.crash

OLD, NEW = b"old", b"new and longer"


@pytest.fixture(autouse=True)
def reports(monkeypatch: pytest.MonkeyPatch) -> list[CrashReport]:
    """The losses here are wanted: they do not belong into the summary of the test run."""
    kept: list[CrashReport] = []
    monkeypatch.setattr("crash.harness.REPORTS", kept)
    monkeypatch.setattr("crash.harness.ALL_POINTS", False)
    return kept


def _same(directory: Path) -> Path:
    return directory


def _one_file(directory: Path) -> Path:
    (directory / "a").write_bytes(OLD)
    return directory / "a"


def _nothing(_prepared: object) -> None: ...


def test_a_careless_write_is_a_loss(reports: list[CrashReport]) -> None:
    def write_carelessly(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(NEW)

    def is_new(path: Path) -> None:
        assert path.read_bytes() == NEW

    def is_old_or_new(path: Path) -> None:
        assert path.read_bytes() in {OLD, NEW}

    report = enumerate_crash_points(_one_file, write_carelessly, is_new, check_after_kill=is_old_or_new)
    assert (report.total, report.points, report.killed) == (2, 2, 2)
    assert len(report.losses) == 1, "dead between unlink and write: an empty file"
    assert report.losses[0].startswith("write #1: ")
    assert "AssertionError" in report.losses[0]
    assert reports == [report]


def test_a_deletion_without_proof_is_counted_apart() -> None:
    def delete_late(path: Path) -> None:
        (path.parent / "log").write_text("deleting")
        path.unlink(missing_ok=True)
        (path.parent / "log").unlink(missing_ok=True)

    def is_there(path: Path) -> None:
        if not path.exists():
            raise DeletedWithoutProof(path.name)

    report = enumerate_crash_points(_one_file, delete_late, _nothing, check_after_kill=is_there)
    assert (report.points, report.killed, len(report.losses), report.unproven_deletions) == (3, 3, 1, 1)
    assert total_line([report, report]) == (
        "crash points: 6 visited over steps delete_late 3, delete_late 3; 0 lost, 2 deleted without proof"
    )


def test_a_step_that_cannot_be_repeated_is_a_loss() -> None:
    def once_only(directory: Path) -> None:
        (directory / "mark").mkdir()
        (directory / "mark" / "done").mkdir()

    report = enumerate_crash_points(_same, once_only, _nothing)
    assert len(report.losses) == 1
    assert report.losses[0].startswith("mkdir #2: after the kill the step does not succeed")
    assert "FileExistsError" in report.losses[0]


def test_a_kill_comes_before_the_call_and_the_step_goes_no_further() -> None:
    def three(directory: Path) -> None:
        for name in ("1", "2", "3"):
            (directory / name).mkdir(exist_ok=True)
            (directory / "reached").symlink_to(name) if name == "3" else None

    def is_cut(directory: Path) -> None:
        names = sorted(path.name for path in directory.iterdir())
        assert names in ([], ["1"], ["1", "2"])

    def again(directory: Path) -> None:
        if not (directory / "reached").is_symlink():
            three(directory)

    report = enumerate_crash_points(_same, again, _nothing, check_after_kill=is_cut)
    assert (report.points, report.killed, report.losses) == (3, 3, ())


def _five_directories(directory: Path) -> None:
    for number in range(5):
        (directory / str(number)).mkdir(exist_ok=True)
        (directory / f"{number}.txt").write_text("x")


@pytest.mark.parametrize(
    ("options", "points"),
    [({}, 10), ({"every": 3}, 4), ({"limit_per_syscall": 2}, 4), ({"at_most": 3}, 3), ({"syscalls": ["mkdir"]}, 5)],
)
def test_points_are_sampled_and_the_report_says_so(options: dict[str, Any], points: int) -> None:
    report = enumerate_crash_points(_same, _five_directories, _nothing, name="five", **options)
    assert (report.points, report.killed, report.losses) == (points, points, ())
    total = 5 if "syscalls" in options else 10
    assert str(report) == ("five " + (f"{points}" if points == total else f"{points} of {total}"))


def test_a_few_points_spread_over_the_whole_step() -> None:
    for count in (1, 2, 7, 64, 100):
        assert sorted(_spread(count)) == list(range(count))
    assert {index // 25 for index in _spread(100)[:5]} == {0, 1, 2, 3}


@pytest.mark.parametrize("part", ["prepare", "step", "check"])
def test_what_fails_without_any_kill_is_an_error_of_the_test(part: str) -> None:
    def fails(_prepared: object) -> None:
        raise KeyError("broken")

    parts: dict[str, Callable[[Path], object]] = {"prepare": _same, "step": _nothing, "check": _nothing, part: fails}
    with pytest.raises(AssertionError, match="broken"):
        enumerate_crash_points(parts["prepare"], parts["step"], parts["check"])  # type: ignore[misc]


def test_what_cannot_be_handed_from_process_to_process_is_told() -> None:
    def open_file(directory: Path) -> object:
        return (directory / "a").open("wb")

    with pytest.raises(AssertionError, match="no plain data"):
        enumerate_crash_points(open_file, _nothing, _nothing)
