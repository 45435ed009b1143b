"""The image: linted, of the pinned Airflow, and fed by what .dockerignore lets through."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
TOOLS = {"rsync", "openssh-client", "mt-st", "tar", "bubblewrap", "lbzip2", "isal", "7zip", "postgresql-client"}


def airflow_pin():
    (version,) = re.findall(r"^apache-airflow==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    return version


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_image_is_of_the_pinned_airflow():
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == [f"apache/airflow:{airflow_pin()}-python3.12"]
    compose = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
    images = {service["image"] for service in compose["services"].values() if "build" in service}
    pin = airflow_pin()
    assert images == {
        f"${{CUSTODY_{part}IMAGE:-custody{tag}:airflow-{pin}}}" for part, tag in (("", ""), ("VIEWER_", "-viewer"))
    }


def test_only_the_lock_is_installed_and_with_its_hashes():
    installs = re.findall(r"pip install (.*)", DOCKERFILE)
    assert installs == ["--no-cache-dir --require-hashes -r /requirements.txt"]
    lock = (ROOT / "requirements.txt").read_text().replace("\\\n", " ")
    requirements = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(requirements) > 100
    assert [line for line in requirements if "--hash=sha256:" not in line] == []


def test_the_tools_of_the_workers_are_there():
    (packages,) = re.findall(r"--no-install-recommends((?:\s+\\?\s*[\w.-]+)+?)\s*\\?\s*&&", DOCKERFILE)
    assert set(packages.replace("\\", " ").split()) == TOOLS


def test_it_does_not_run_as_root():
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)[-1] == "50000:0"


@pytest.mark.parametrize("source", re.findall(r"^COPY (?:--\S+ )*(\S+) ", DOCKERFILE, re.MULTILINE))
def test_what_is_copied_exists_and_passes_the_ignore_file(source):
    assert (ROOT / source).exists()
    assert f"!{source}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_nothing_else_reaches_the_build():
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule for rule in rules if rule.startswith("!")} == {"!requirements.txt", "!include", "!plugins", "!dags"}
    assert "**/.env" in rules
