"""A missing server skips on a laptop and fails in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from custody_demo.airflow_stack import PROJECT

TESTS = """
import pytest
from services.need import need

@pytest.mark.service
def test_marked(): need("no-such-server", package="its-package")

def test_plain(): pytest.skip("for another reason")

@pytest.fixture
def sshd(): need("no-such-server")

def test_user_of_a_server(sshd): pass
"""


def _run(tmp_path: Path, **environment: str) -> str:
    shutil.copy(PROJECT / "tests/conftest.py", tmp_path / "conftest.py")
    (tmp_path / "test_inner.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    service: needs a server\n")
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{PROJECT}/include:{PROJECT}/tests", **environment}
    argv = [sys.executable, "-m", "pytest", "-q", "-rsfE", "-p", "no:cacheprovider", str(tmp_path)]
    return subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120).stdout


def test_on_a_laptop_it_skips_and_names_the_package(tmp_path: Path) -> None:
    output = _run(tmp_path)
    assert "3 skipped" in output
    assert "needs no-such-server: apt-get install its-package" in output


def test_in_ci_it_fails_and_other_skips_stay(tmp_path: Path) -> None:
    output = _run(tmp_path, CUSTODY_REQUIRE_SERVICES="1")
    closing = output.strip().splitlines()[-1]
    assert "1 skipped" in closing
    assert "1 failed" in closing
    assert "1 error" in closing
    assert "needs no-such-server" in output
