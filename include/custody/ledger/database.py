"""Reaching the database that the ledger lies on; whatever goes wrong with it is one line."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from custody.faults import Fault, FaultKind, os_errors_as_faults

URL_NAME = "CUSTODY_LEDGER"
_DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg2",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}
_SQLITE_PATIENCE_S = 120
_REFUSALS = ("password authentication failed", "Access denied for user", "no pg_hba.conf entry")
_NO_RIGHT = ("readonly database", "unable to open database file")
_BROKEN = ("file is not a database", "malformed")


def default_url() -> str:
    """``$CUSTODY_LEDGER``, or a SQLite file below ``$CUSTODY_HOME`` (default ``~/.custody``)."""
    if url := os.environ.get(URL_NAME):
        return url
    home = Path(os.environ.get("CUSTODY_HOME") or Path.home() / ".custody").absolute()
    return f"sqlite:///{home / 'ledger.sqlite'}"


def parse(url: str) -> URL:
    """Read a ledger's URL; CONFIG, without its password, where no ledger can lie there."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise Fault(FaultKind.CONFIG, URL_NAME, "is no SQLAlchemy URL") from error
    driver = _DRIVERS.get(parsed.get_backend_name())
    if driver is None:
        known = ", ".join(sorted(set(_DRIVERS.values())))
        raise Fault(
            FaultKind.CONFIG, f"{URL_NAME} ({name_of(parsed)})", "is of no kind known here", next_command=f"use {known}"
        )
    if driver == "sqlite" and not (parsed.database and Path(parsed.database).is_absolute()):
        reason = "names no file by its whole path, and would be another ledger in every directory"
        where = f"sqlite:///{Path(parsed.database).absolute() if parsed.database else '/path/of/ledger.sqlite'}"
        raise Fault(FaultKind.CONFIG, f"{URL_NAME} ({name_of(parsed)})", reason, next_command=f"set it to {where}")
    return parsed.set(drivername=driver)


def name_of(url: URL) -> str:
    """A URL in a form without its password."""
    return url.render_as_string(hide_password=True)


def is_missing(engine: Engine) -> bool:
    """Whether a file that a SQLite ledger should be is not there; asking must not make it."""
    with os_errors_as_faults():
        return engine.dialect.name == "sqlite" and not Path(str(engine.url.database)).exists()


@contextmanager
def database_faults(name: str) -> Iterator[None]:
    """Turn what a database says into a fault about the ledger of this name."""
    try:
        yield
    except sa.exc.IntegrityError as error:
        raise Fault(FaultKind.CONFLICT, name, f"another run wrote the same row ({_said(error)})") from error
    except sa.exc.DatabaseError as error:
        said = _said(error)
        if any(word in said for word in _REFUSALS):
            step = "check the connection custody_ledger"
            raise Fault(FaultKind.AUTH, name, f"refuses who we are ({said})", next_command=step) from error
        if any(word in said for word in _BROKEN):
            step = "put back its last backup, or make it again (docs/operations.md)"
            raise Fault(FaultKind.DATA, name, f"is no whole SQLite database ({said})", next_command=step) from error
        if any(word in said for word in _NO_RIGHT):
            step = "give this user the right to write it and its directory: readers of SQLite write there too"
            raise Fault(FaultKind.CONFIG, name, f"cannot be opened ({said})", next_command=step) from error
        if not isinstance(error, sa.exc.OperationalError):
            raise
        raise Fault(
            FaultKind.TRANSIENT, name, f"does not answer ({said})", next_command="is it up? try again"
        ) from error


@cache
def engine_of(url: str, _process: int) -> Engine:
    """The connections of one process: a forked child must not share its parent's."""
    parsed = parse(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed, pool_pre_ping=True, pool_size=2, max_overflow=8)
    engine = sa.create_engine(parsed, connect_args={"timeout": _SQLITE_PATIENCE_S})

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves: pysqlite's own comes too late for a write lock
        cursor = connection.cursor()
        _switch_to_wal(cursor)
        cursor.execute("PRAGMA synchronous=FULL")  # a proof must be on disk before the copy it frees is deleted
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA case_sensitive_like=ON")  # as on the other databases
        cursor.close()

    return engine


def make_room(engine: Engine) -> None:
    """Make the directory of a SQLite ledger."""
    if engine.dialect.name == "sqlite":
        with os_errors_as_faults():
            Path(str(engine.url.database)).parent.mkdir(parents=True, exist_ok=True)


def _said(error: sa.exc.DBAPIError) -> str:
    return " ".join(str(error.orig).split())


def _switch_to_wal(cursor: Any) -> None:
    """Wait for others here ourselves: for a change of the journal SQLite does not, it says "locked" at once."""
    deadline = time.monotonic() + _SQLITE_PATIENCE_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
