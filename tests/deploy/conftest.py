"""The compose file as Compose resolves it."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from deploy.composed import COMPOSE, PROFILES, ROOT, VIEWER, filled, tool


@pytest.fixture(scope="session")
def resolve(tmp_path_factory):
    """Return a function that resolves compose files with given variables: (exit code, document, complaints)."""
    folder = tmp_path_factory.mktemp("podman")
    stub = folder / "podman"
    stub.write_text("#!/bin/sh\necho podman version 5.0.0\n")
    stub.chmod(0o755)

    def call(values, *files):
        dotenv = folder / "dotenv"
        dotenv.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        command = [tool("podman-compose"), "--env-file", str(dotenv)]
        for file in files or (COMPOSE,):
            command += ["-f", str(file)]
        for profile in (*PROFILES, *VIEWER):
            command += ["--profile", profile]
        env = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(folder)}
        done = subprocess.run([*command, "config"], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)
        return done.returncode, yaml.safe_load(done.stdout) if done.returncode == 0 else None, done.stderr

    return call


@pytest.fixture(scope="session")
def values():
    return filled()


@pytest.fixture(scope="session")
def services(resolve, values):
    code, document, complaints = resolve(values)
    assert code == 0, complaints
    return document["services"]
