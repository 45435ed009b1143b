"""Bringing the ledger's schema up to date (Alembic)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection, Engine

VERSION_TABLE = "custody_version"
_MIGRATIONS = Path(__file__).parent / "migrations"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def is_current(engine: Engine) -> bool:
    """Whether the schema is the one this program knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        return context.get_current_revision() == head


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Let one process at a time pass; on SQLite the write lock has done so already."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('custody ledger upgrade'))")
    if connection.dialect.name not in {"mysql", "mariadb"}:
        yield
        return
    connection.exec_driver_sql("SELECT GET_LOCK('custody ledger upgrade', 600)")
    try:
        yield
    finally:
        connection.exec_driver_sql("SELECT RELEASE_LOCK('custody ledger upgrade')")


def bring_up_to_date(connection: Connection) -> None:
    """Make or migrate the schema within a transaction; safe to call again and by two at once."""
    config = _config()
    config.attributes["connection"] = connection
    with _alone(connection):
        command.upgrade(config, "head")
