"""Bringing the ledger's schema up to date (Alembic)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

VERSION_TABLE = "custody_version"
HEAD = "0006"
"""The revision this program knows: the last of migrations/versions, as a test makes sure."""

_MIGRATIONS = Path(__file__).parent / "migrations"


def version_of(connection: Connection) -> str | None:
    """The revision of the schema, None without one. One query: Alembic is only loaded to change a schema."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    version = sa.table(VERSION_TABLE, sa.column("version_num"))
    found = connection.scalar(sa.select(sa.func.max(version.c.version_num)))
    return None if found is None else str(found)


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
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    with _alone(connection):
        command.upgrade(config, "head")
