"""The first command a newcomer types: everything starts, drains, is checked, and is gone again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from custody_demo.airflow_stack import PROJECT

pytestmark = pytest.mark.e2e


def _processes_below(home: Path) -> list[str]:
    commands = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(home) in str((entry / "cwd").readlink()):
                    commands.append((entry / "cmdline").read_text())
            except OSError:
                continue
    return commands


@pytest.mark.timeout(1000)
def test_demo_once_proves_every_file_and_leaves_nothing_running(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "custody_demo", "--once", "--home", str(home)],
        env={**os.environ, "PYTHONPATH": f"{PROJECT}/include:{PROJECT}/plugins:{PROJECT}/dags"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "drain: every file is where it should be (26 drained, 2 open, 2 cut, 2 unmatched)" in done.stdout
    if "Second machine: left out" not in done.stdout:
        assert "minidvodb: every file is where it should be (12 copies full)" in done.stdout
    assert "tape: every file is where it should be (10 files on DEMO01, 5 files on DEMO02, 1 restored)" in done.stdout
    assert "wiki dump: every file is where it should be (" in done.stdout
    assert "bitarchive: every file is where it should be (1 damaged, 5 done)" in done.stdout
    assert len(list((home / "store/archive").rglob("*.warc.gz"))) == 20
    assert len(list((home / "archive.org").rglob("*.warc.gz"))) == 6
    assert len(list((home / "second-machine/crawls").rglob("*.warc.gz"))) == (0 if "left out" in done.stdout else 6)
    for disk in ("disk", "disk2"):
        assert not [path for path in (home / disk / "1/incoming").rglob("*.warc.gz")]
    assert _processes_below(home) == []
