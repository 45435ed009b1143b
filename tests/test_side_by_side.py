"""Two processes: a file stays in one, all that starts a whole Airflow too, and what they count is printed once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from side_by_side import unit_of

ROOT = Path(__file__).parents[1]
FILES = {"tests/e2e/test_a.py": "e2e", "tests/e2e/test_b.py": "e2e", "tests/test_c.py": "crash", "tests/test_d.py": ""}
TEST = """
import os, pathlib, pytest, time
from crash.summary import REPORTS, CrashReport

MARK = {mark!r}
pytestmark = [getattr(pytest.mark, MARK)] if MARK else []

@pytest.mark.parametrize("content", [b"%f" % time.time() * 9, b"%f" % time.perf_counter() * 9, "short"])
def test_it(content):
    with open("log", "a") as log:
        log.write(f"{{os.environ['PYTEST_XDIST_WORKER']}} {file}\\n")
    REPORTS.append(CrashReport("a step", 5, 2, 2, ("lost",) if content == "short" and MARK == "crash" else ()))
    time.sleep(0.2)
"""


@pytest.mark.slow
def test_who_stays_together_who_begins_and_what_is_printed(tmp_path: Path) -> None:
    for file, mark in FILES.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(TEST.format(mark=mark, file=file))
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n    e2e: e\n    crash: c\naddopts = --import-mode=importlib\n"
    )
    argv = [sys.executable, "-m", "pytest", "-n", "2", "-p", "side_by_side", "-p", "crash.summary", "tests"]
    path = os.pathsep.join(str(ROOT / part) for part in ("include", "tests"))
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": path}
    done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    workers = {file: {worker for worker, own in ran if own == file} for file in FILES}
    assert [len(own) for own in workers.values()] == [1, 1, 1, 1], workers
    assert workers["tests/e2e/test_a.py"] == workers["tests/e2e/test_b.py"] != workers["tests/test_c.py"]
    assert {file for _, file in ran[:2]} == {"tests/e2e/test_a.py", "tests/test_c.py"}, "the longest begin"
    assert "crash points: 24 visited over steps a step 2 of 5" in done.stdout
    assert "; 1 lost, 0 deleted without proof" in done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith("=") and "12 passed in" in done.stdout


@pytest.mark.parametrize(
    ("nodeid", "unit"),
    [
        ("tests/e2e/test_a.py::test_it[a::b]", "a whole Airflow"),
        ("tests/demo/test_demo.py::test_it", "a whole Airflow"),
        ("tests/demo/test_env.py::test_it", "tests/demo/test_env.py"),
        ("tests/test_docs.py::test_it[docs/tests/e2e/a]", "tests/test_docs.py"),
    ],
)
def test_what_a_test_stays_together_with(nodeid: str, unit: str) -> None:
    assert unit_of(nodeid) == unit
