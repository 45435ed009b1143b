"""A wiki's database as rows of bytes: SQLite, MariaDB and MySQL behind one small interface.

Every value comes as bytes or None, numbers too: nothing is decoded that is only written out again.
"""

from __future__ import annotations

import configparser
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from custody.faults import Fault, FaultKind
from custody.wiki_dump.engine.mysql_rows import Wire

Row = tuple[Any, ...]
"""Of bytes and None."""

FETCH = 2000
_PATIENCE_S = 3600
"""How long the server waits for us to take an answer: what we write to may stand still."""


@dataclass(frozen=True)
class Address:
    """How to reach a wiki's database: a SQLite file, or a database of a server.

    :param socket: instead of host and port.
    """

    database: str
    sqlite: Path | None = None
    host: str = "localhost"
    port: int = 3306
    user: str = ""
    password: str = field(default="", repr=False)
    socket: str | None = None


class Rows(Protocol):
    """An open database."""

    dialect: str

    def query(self, sql: str) -> Iterator[Row]:
        """Rows as they come; the memory they take does not grow with their number."""
        ...

    def ask(self, sql: str) -> Iterator[Row]:
        """As :meth:`query`, but sent now: a server works on it while something else is done here."""
        ...

    def number(self, column: str) -> str:
        """SQL that gives a number's digits."""
        ...

    def snapshot(self) -> dict[str, str]:
        """Begin to see the database as it is at this moment; returns what is known of that moment."""
        ...

    def columns(self, table: str) -> list[str]:
        """The columns of a table; none where there is no such table."""
        ...

    def tables(self) -> list[str]:
        """The names of all tables."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


@contextmanager
def opened(address: Address) -> Iterator[Rows]:
    """Open a database. Faults: CONFIG, AUTH, TRANSIENT where it does not answer or goes away."""
    rows: Rows = SqliteRows(address) if address.sqlite else MysqlRows(address)
    try:
        yield rows
    finally:
        rows.close()


class SqliteRows:
    """A wiki in a SQLite file, opened to read."""

    dialect = "sqlite"

    def __init__(self, address: Address) -> None:
        assert address.sqlite is not None
        self.name = str(address.sqlite)
        if not address.sqlite.is_file():
            raise Fault(FaultKind.CONFIG, self.name, "is no SQLite file", next_command="check the path")
        quoted = str(address.sqlite.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        self._connection = sqlite3.connect(f"file:{quoted}?mode=ro", uri=True, isolation_level=None, timeout=60)
        self._connection.text_factory = bytes

    def query(self, sql: str) -> Iterator[Row]:
        """See :class:`Rows`."""
        try:
            cursor = self._connection.execute(sql)
            while rows := cursor.fetchmany(FETCH):
                yield from rows
        except sqlite3.Error as error:
            raise Fault(_sqlite_kind(error), self.name, f"cannot be read ({error})") from error

    def ask(self, sql: str) -> Iterator[Row]:
        """See :class:`Rows`."""
        return self.query(sql)

    def number(self, column: str) -> str:
        """See :class:`Rows`."""
        return f"CAST({column} AS TEXT)"

    def snapshot(self) -> dict[str, str]:
        """See :class:`Rows`."""
        self._connection.execute("BEGIN")
        version = next(self.query("SELECT count(*) FROM sqlite_master"))
        return {"engine": "sqlite", "tables": str(version[0])}

    def columns(self, table: str) -> list[str]:
        """See :class:`Rows`."""
        return [row[1].decode() for row in self.query(f"PRAGMA table_info({quoted(table)})")]

    def tables(self) -> list[str]:
        """See :class:`Rows`."""
        sql = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        return [row[0].decode() for row in self.query(sql) if not row[0].startswith(b"sqlite_")]

    def close(self) -> None:
        """See :class:`Rows`."""
        self._connection.close()


def _sqlite_kind(error: sqlite3.Error) -> FaultKind:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return FaultKind.DATA
    return FaultKind.CONFIG if str(error).startswith("no such ") else FaultKind.TRANSIENT


class MysqlRows:
    """A wiki on a MariaDB or MySQL server."""

    dialect = "mysql"

    def __init__(self, address: Address) -> None:
        import pymysql

        self.name = f"{address.socket or f'{address.host}:{address.port}'}/{address.database}"
        where: dict[str, Any] = (
            {"unix_socket": address.socket} if address.socket else {"host": address.host, "port": address.port}
        )
        try:
            self._connection = pymysql.connect(
                **where,
                user=address.user,
                password=address.password,
                database=address.database,
                charset="utf8mb4",
                use_unicode=False,
                conv={},
                connect_timeout=20,
                read_timeout=600,
                init_command="SET SESSION TRANSACTION READ ONLY",
            )
            self._wire = Wire(self._connection, self._fault)
            self._wire.run("SET NAMES binary")
            self._wire.run(f"SET SESSION net_write_timeout = {_PATIENCE_S}")
        except pymysql.err.MySQLError as error:
            raise self._fault(error) from error

    def _fault(self, error: Exception) -> Fault:
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        said = str(error.args[1]) if len(error.args) > 1 else str(error)
        if code in {1044, 1045, 1142, 1698}:
            return Fault(FaultKind.AUTH, self.name, f"refuses us ({said})", next_command="check user and password")
        if code in {1049, 1054, 1146, 1064}:
            return Fault(FaultKind.CONFIG, self.name, said)
        return Fault(FaultKind.TRANSIENT, self.name, f"does not answer ({said})")

    def query(self, sql: str) -> Iterator[Row]:
        """See :class:`Rows`."""
        yield from self._wire.ask(sql)

    def ask(self, sql: str) -> Iterator[Row]:
        """See :class:`Rows`."""
        return iter(self._wire.ask(sql))

    def number(self, column: str) -> str:
        """See :class:`Rows`."""
        return column

    def snapshot(self) -> dict[str, str]:
        """See :class:`Rows`. The position in the binary log is noted where the server tells it."""
        self._wire.run("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        self._wire.run("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        position = {}
        for name, value in self.query("SHOW STATUS LIKE 'binlog_snapshot_%'"):
            position[name.decode()] = value.decode()
        version = next(self.query("SELECT VERSION()"))[0].decode()
        return {"engine": version, **position}

    def columns(self, table: str) -> list[str]:
        """See :class:`Rows`."""
        if table not in self.tables():
            return []
        return [row[0].decode() for row in self.query(f"SHOW COLUMNS FROM {quoted(table)}")]

    def tables(self) -> list[str]:
        """See :class:`Rows`."""
        return [row[0].decode() for row in self.query("SHOW FULL TABLES") if row[1] == b"BASE TABLE"]

    def close(self) -> None:
        """See :class:`Rows`."""
        from contextlib import suppress

        with suppress(Exception):  # it may have gone already, which was said where it mattered
            self._wire.close()


def quoted(name: str) -> str:
    """A name of a table as both databases take it."""
    return "`" + name.replace("`", "``") + "`"


def in_list(numbers: Sequence[bytes]) -> str:
    """The inside of ``IN (...)``, of digits only."""
    return ",".join(str(int(number)) for number in numbers)


def read_client_file(path: Path) -> dict[str, str]:
    """``[client]`` of a defaults-extra-file: user, password, host, port, socket. Faults: CONFIG."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        parser.read_string(path.read_text(), str(path))
    except OSError as error:
        raise Fault(FaultKind.CONFIG, str(path), f"cannot be read ({error.strerror})") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        raise Fault(FaultKind.CONFIG, str(path), "is no file of client options") from error
    found = dict(parser.items("client")) if parser.has_section("client") else {}
    return {key: (value or "").strip().strip("'\"") for key, value in found.items()}
