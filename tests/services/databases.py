"""Throw-away PostgreSQL and MariaDB servers."""

from __future__ import annotations

import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from custody_demo import processes
from services.need import need

_CLEAN_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"}


@dataclass(frozen=True)
class DatabaseServer:
    """A running database server; `url` is the SQLAlchemy URL of a database on it, with password."""

    url: str
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)

    def new_database(self) -> str:
        """Make an empty database of its own for one test and return its SQLAlchemy URL."""
        name = f"custody_{next(self._numbers)}"
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return sa.make_url(self.url).set(database=name).render_as_string(hide_password=False)


def _as_user(name: str, owned: Path) -> list[str]:
    """Return what to put before a command so that it runs as `name`; neither server wants to run as root."""
    if os.getuid() != 0:
        return []
    user = pwd.getpwnam(name)
    os.chown(owned, user.pw_uid, user.pw_gid)
    setpriv = need("setpriv", package="util-linux")
    return [setpriv, f"--reuid={name}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=TERM"]


@contextmanager
def _run(argv: list[str], url: str, home: Path, stop_signal: int) -> Iterator[None]:
    """Run a server until the end of the block; it is ready when it answers a query."""
    log = home / "server.log"
    process = processes.start(argv, env=_CLEAN_ENV, cwd=home, log=log)
    engine = sa.create_engine(url, poolclass=sa.NullPool)

    def answers() -> bool:
        assert process.poll() is None, f"{argv[0]} ended: {processes.last_lines(log)}"
        try:
            engine.connect().close()
        except sa.exc.OperationalError:
            return False
        return True

    try:
        assert processes.wait_until(answers, timeout_s=60), f"no answer in 60 s: {processes.last_lines(log)}"
        yield
    finally:
        process.send_signal(stop_signal)
        process.wait(timeout=60)
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def run_postgresql(home: Path) -> Iterator[DatabaseServer]:
    """Run a PostgreSQL in `home` (short path, removed at the end)."""
    postgres, initdb = need("postgres", package="postgresql"), need("initdb", package="postgresql")
    as_user = _as_user("postgres", home)
    password, port = secrets.token_hex(16), processes.free_ports(1)[0]
    password_file = home / "password"
    password_file.write_text(password)
    password_file.chmod(0o644)  # `home` itself is closed to others
    data = str(home / "data")
    argv = [*as_user, initdb, "-D", data, "-U", "custody", "-A", "scram-sha-256", "-E", "UTF8", "--no-sync"]
    subprocess.run(
        [*argv, f"--pwfile={password_file}"], env=_CLEAN_ENV, cwd=home, check=True, capture_output=True, text=True
    )
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": str(home),
        "fsync": "off",  # no machine crashes here, and the tests need not wait for a disk
    }
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    url = f"postgresql+psycopg2://custody:{password}@127.0.0.1:{port}/postgres"
    with _run([*as_user, postgres, "-D", data, *settings], url, home, signal.SIGINT):
        yield DatabaseServer(url, "127.0.0.1", port, "custody", password)


@contextmanager
def run_mariadb(home: Path) -> Iterator[DatabaseServer]:
    """Run a MariaDB in `home` (short path, removed at the end)."""
    server, install = need("mariadbd", package="mariadb-server"), need("mariadb-install-db", package="mariadb-server")
    as_user = _as_user("mysql", home)
    password, port = secrets.token_hex(16), processes.free_ports(1)[0]
    data = home / "data"
    argv = [*as_user, install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
    subprocess.run([*argv, "--skip-test-db"], env=_CLEAN_ENV, cwd=home, check=True, capture_output=True, text=True)
    first = home / "first.sql"
    first.write_text(
        f"CREATE USER custody@'127.0.0.1' IDENTIFIED BY '{password}';\n"
        "GRANT ALL ON *.* TO custody@'127.0.0.1';\nDROP USER root@localhost;\nCREATE DATABASE custody;\n"
    )
    first.chmod(0o644)  # `home` itself is closed to others
    argv = [
        *as_user,
        server,
        "--no-defaults",
        f"--datadir={data}",
        f"--socket={home}/socket",
        f"--pid-file={home}/pid",
        "--bind-address=127.0.0.1",
        f"--port={port}",
        f"--init-file={first}",
        "--skip-name-resolve",
        "--character-set-server=utf8mb4",
    ]
    url = f"mysql+pymysql://custody:{password}@127.0.0.1:{port}/custody?charset=utf8mb4"
    with _run(argv, url, home, signal.SIGTERM):
        yield DatabaseServer(url, "127.0.0.1", port, "custody", password)
