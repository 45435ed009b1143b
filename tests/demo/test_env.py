"""bin/env.sh: which Python, which environment, and what it says when it cannot go on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from custody_demo.airflow_stack import PROJECT

SHOW = 'source "$0"; echo "PYTHONPATH=$PYTHONPATH"; command -v python; env'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of its own with the real env.sh and a virtual environment that counts as installed."""
    root = tmp_path / "a project"
    (root / "bin").mkdir(parents=True)
    shutil.copy(PROJECT / "bin/env.sh", root / "bin/env.sh")
    for name in ("requirements-uv.txt", "requirements.txt"):
        (root / name).write_text(f"# {name}\n")
    return root


def _make_venv(root: Path) -> None:
    (root / ".venv/bin").mkdir(parents=True)
    (root / ".venv/bin/python").symlink_to(sys.executable)
    sums = subprocess.run(
        ["sha256sum", "--", "requirements-uv.txt", "requirements.txt"], cwd=root, capture_output=True, text=True
    ).stdout
    (root / ".venv/.installed-requirements.txt").write_text(sums)


def _tools(folder: Path, **scripts: str) -> str:
    """Return a PATH of a few system tools and the given shell scripts, without any Python."""
    folder.mkdir()
    for name in ("bash", "dirname", "sha256sum", "flock", "grep", "tail", "cut", "rm", "mv", "env", "cat"):
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    for name, body in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def _source(project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(project), **environment}
    argv = ["bash", "-c", SHOW, str(project / "bin/env.sh")]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)


def test_an_installed_environment_is_used_as_it_is(project: Path) -> None:
    _make_venv(project)
    done = _source(project)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    path, python = done.stdout.splitlines()[:2]
    assert path == f"PYTHONPATH={project}/include:{project}/plugins:{project}/dags"
    assert python == f"{project}/.venv/bin/python"


def test_nothing_of_the_callers_airflow_and_python_comes_through(project: Path) -> None:
    _make_venv(project)
    done = _source(project, AIRFLOW_HOME="/else", AIRFLOW_CONN_X="secret", PYTHONPATH="/else", PYTHONHOME="/else")
    assert done.returncode == 0, done.stderr
    assert "/else" not in done.stdout
    assert "AIRFLOW" not in done.stdout


def test_changed_requirements_are_noticed(project: Path, tmp_path: Path) -> None:
    """There is no pip in the place it would install with, so it goes on to make a new one, and finds no Python."""
    _make_venv(project)
    (project / "requirements.txt").write_text("# changed\n")
    (project / ".venv/bin/python").unlink()
    done = _source(project, PATH=_tools(tmp_path / "tools"))
    assert done.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 on the PATH" in done.stderr


def test_an_old_python_is_not_taken(project: Path, tmp_path: Path) -> None:
    path = _tools(tmp_path / "tools", python3="exit 1", **{"python3.12": "echo pyenv: not here >&2; exit 127"})
    done = _source(project, PATH=path)
    assert done.returncode == 1
    assert done.stderr == (
        "custody: no Python 3.11, 3.12 or 3.13 on the PATH; on Debian 12: apt-get install python3 python3-venv\n"
    )


def test_a_python_without_venv_names_the_package(project: Path, tmp_path: Path) -> None:
    script = 'case "$2" in *ensurepip*) exit 1;; *"%d.%d"*) echo 3.13;; esac; exit 0'
    done = _source(project, PATH=_tools(tmp_path / "tools", **{"python3.13": script}))
    assert done.returncode == 1
    assert done.stderr == "custody: python3.13 has no venv module; on Debian: apt-get install python3.13-venv\n"


@pytest.mark.slow
def test_without_a_package_index_it_says_so_and_tries_again_next_time(project: Path) -> None:
    (project / "requirements-uv.txt").write_text(f"uv==0.12.17 --hash=sha256:{'0' * 64}\n")
    nowhere = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0"}
    for _ in range(2):
        done = _source(project, **nowhere)
        assert done.returncode == 1
        assert "custody: could not install requirements-uv.txt; is there a network to the Python package" in done.stderr
        assert "install.log" in done.stderr
        assert not (project / ".venv/.installed-requirements.txt").exists()
