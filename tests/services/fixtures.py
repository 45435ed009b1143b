"""Pytest fixtures of real servers: started once a session when first asked for, ended by their own process ids."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from custody_demo.object_store import RcloneS3
from services.ceph import CephRgw, run_ceph_rgw
from services.databases import DatabaseServer, run_mariadb, run_postgresql
from services.ias3 import Archive, run_ias3
from services.ssh import SshServer, run_sshd


@contextmanager
def _short_home(name: str) -> Iterator[Path]:
    """A directory for a server: a socket's path may have no more than 107 bytes, which pytest's own would break."""
    home = Path(tempfile.mkdtemp(prefix=f"custody-{name}-", dir="/tmp"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[RcloneS3]:
    """`rclone serve s3` with keys; its folder shows every object as a plain file."""
    with _short_home("s3") as home, RcloneS3(home / "store") as server:
        yield server


@pytest.fixture(scope="session")
def anonymous_s3_server() -> Iterator[RcloneS3]:
    """`rclone serve s3` without keys: it takes archive.org's LOW login."""
    with _short_home("s3") as home, RcloneS3(home / "store", anonymous=True) as server:
        yield server


@pytest.fixture(scope="session")
def ceph_rgw() -> Iterator[CephRgw]:
    """A Ceph object gateway."""
    with _short_home("rgw") as home, run_ceph_rgw(home) as server:
        yield server


@pytest.fixture(scope="session")
def sshd() -> Iterator[SshServer]:
    """An sshd that lets the current user in."""
    with _short_home("sshd") as home, run_sshd(home) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[DatabaseServer]:
    """A PostgreSQL; ask `new_database()` for an empty database."""
    with _short_home("pg") as home, run_postgresql(home) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[DatabaseServer]:
    """A MariaDB; ask `new_database()` for an empty database."""
    with _short_home("maria") as home, run_mariadb(home) as server:
        yield server


@pytest.fixture(scope="session")
def ias3_stand_in() -> Iterator[Archive]:
    """The stand-in for archive.org, once a session."""
    with run_ias3() as archive:
        yield archive


@pytest.fixture
def ias3_server(ias3_stand_in: Archive) -> Archive:
    """The stand-in for archive.org: empty and honest at the start of each test."""
    ias3_stand_in.reset()
    return ias3_stand_in
