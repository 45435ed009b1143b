"""The last lines of a test run: how many crash points were visited, and what was lost at them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import pytest


@dataclass(frozen=True)
class CrashReport:
    """What came of killing one step at its crash points.

    :param step: its name.
    :param total: how many points the step has.
    :param points: how many of them were visited; fewer than ``total`` where they were sampled.
    :param killed: at how many of those the step really died (the others ended before they came so far).
    :param losses: one text for every point after which an invariant did not hold.
    :param unproven_deletions: how many of the losses were copies that had been let go without a proof.
    """

    step: str
    total: int
    points: int
    killed: int
    losses: tuple[str, ...] = field(default=(), repr=False)
    unproven_deletions: int = 0

    def __str__(self) -> str:
        visited = f"{self.points}" if self.points == self.total else f"{self.points} of {self.total}"
        return f"{self.step} {visited}"


REPORTS: list[CrashReport] = []
"""Of every step that was killed in this test run; the harness appends."""


def total_line(reports: list[CrashReport]) -> str:
    """All reports in one line."""
    steps = ", ".join(str(report) for report in reports)
    unproven = sum(report.unproven_deletions for report in reports)
    lost = sum(len(report.losses) for report in reports) - unproven
    visited = sum(report.points for report in reports)
    return f"crash points: {visited} visited over steps {steps}; {lost} lost, {unproven} deleted without proof"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes hands its reports to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["crash_reports"] = [asdict(report) for report in REPORTS]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The one that prints takes them; a process that died has none, and its tests have failed."""
    handed = getattr(node, "workeroutput", {}).get("crash_reports", ())
    REPORTS.extend(CrashReport(**report) for report in handed)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the total where any step was killed."""
    if REPORTS:
        bad = any(report.losses for report in REPORTS)
        terminalreporter.write_line(total_line(REPORTS), red=bad, green=not bad)
