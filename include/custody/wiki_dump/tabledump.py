"""A table as SQL, in the form that readers of mysqldump's output parse; all tables of a task within one snapshot."""

from __future__ import annotations

import re
from collections.abc import Iterator

from custody.faults import Fault, FaultKind
from custody.ledger.store import now
from custody.wiki_dump.engine.rows import Row, Rows, quoted

_STATEMENT_BYTES = 1 << 20
_NUMERIC = re.compile(rb"(?:tiny|small|medium|big)?int|decimal|numeric|float|double|real", re.IGNORECASE)
_ESCAPES = {0: b"\\0", 10: b"\\n", 13: b"\\r", 26: b"\\Z", 34: b'\\"', 39: b"\\'", 92: b"\\\\"}
_SPECIAL = re.compile(rb"[\0\n\r\x1a\"'\\]")


def table_sql(rows: Rows, wiki: str, table: str) -> Iterator[tuple[bytes, int]]:
    """Chunks of the dump, each with the number of rows in it. Faults: DATA where rows are missing at the end."""
    name = quoted(table).encode()
    yield _head(wiki, table), 0
    yield b"DROP TABLE IF EXISTS %b;\n%b;\n\n" % (name, _create(rows, table)), 0
    numeric = _numeric(rows, table)
    written = 0
    parts: list[bytes] = []
    size = 0
    for row in rows.query(f"SELECT * FROM {quoted(table)}"):  # noqa: S608 - a name out of the database's own list
        parts.append(
            b"(%b)" % b",".join([_value(value, is_number) for value, is_number in zip(row, numeric, strict=True)])
        )
        size += len(parts[-1])
        if size > _STATEMENT_BYTES:
            yield b"INSERT INTO %b VALUES %b;\n" % (name, b",".join(parts)), len(parts)
            written, parts, size = written + len(parts), [], 0
    if parts:
        yield b"INSERT INTO %b VALUES %b;\n" % (name, b",".join(parts)), len(parts)
        written += len(parts)
    counted = next(rows.query(f"SELECT {rows.number('COUNT(*)')} FROM {quoted(table)}"))[0]  # noqa: S608
    if int(counted) != written:
        raise Fault(FaultKind.DATA, f"{wiki}.{table}", f"has {int(counted)} rows, but {written} were read")
    yield f"\n-- Dump completed on {now():%Y-%m-%d %H:%M:%S}\n".encode(), 0


def _head(wiki: str, table: str) -> bytes:
    return (
        f"-- MySQL dump 10.19  made by Custody\n--\n-- Host: -    Database: {wiki}\n"
        "-- ------------------------------------------------------\n"
        f"/*!40101 SET NAMES utf8mb4 */;\n\n--\n-- Table structure for table {quoted(table)}\n--\n\n"
    ).encode()


def _create(rows: Rows, table: str) -> bytes:
    if rows.dialect == "mysql":
        found: Row = next(rows.query(f"SHOW CREATE TABLE {quoted(table)}"))
        return bytes(found[1])
    literal = table.replace("'", "''")
    found = next(rows.query(f"SELECT sql FROM sqlite_master WHERE type = 'table' AND name = '{literal}'"))  # noqa: S608
    return bytes(found[0]).replace(b'"', b"`")


def _numeric(rows: Rows, table: str) -> list[bool]:
    """Which columns hold numbers, which are not quoted."""
    if rows.dialect == "sqlite":
        return [False for _ in rows.columns(table)]  # its values say it themselves
    return [bool(_NUMERIC.match(row[1])) for row in rows.query(f"SHOW COLUMNS FROM {quoted(table)}")]


def _value(value: object, is_number: bool) -> bytes:
    if value is None:
        return b"NULL"
    if isinstance(value, int | float):
        return str(value).encode()
    assert isinstance(value, bytes)
    if is_number:
        return value
    return b"'%b'" % _SPECIAL.sub(_escape, value) if _SPECIAL.search(value) else b"'%b'" % value


def _escape(found: re.Match[bytes]) -> bytes:
    return _ESCAPES[found[0][0]]
