"""Rows of MariaDB and MySQL as bytes, as they come over the wire.

PyMySQL's own row reader takes most of a dump's time: it builds an object for every packet and decodes field by field.
Here a row is cut out of its packet in one go. It leans on the driver's inner names, which its pinned version has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_BUFFER_BYTES = 1 << 18
_FULL_PACKET = 0xFFFFFF
_COM_QUERY = 3


def widen(connection: Any) -> None:
    """Read the socket in large pieces; nothing may be under way on the connection."""
    connection._rfile = connection._sock.makefile("rb", _BUFFER_BYTES)


def stream_rows(connection: Any, sql: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a query, one after another. Leaving early reads the rest away, so that the next query can follow."""
    connection._execute_command(_COM_QUERY, sql)
    first = connection._read_packet()
    if first.is_ok_packet():
        return
    fields = first.read_length_encoded_integer()
    for _ in range(fields + 1):  # their descriptions, and the packet that ends them
        connection._read_packet()
    read = connection._rfile.read
    done = False
    try:
        while True:
            data = _packet(connection, read)
            if data[0] == 0xFE and len(data) < 9:
                done = True
                return
            if data[0] == 0xFF:
                done = True
                connection._next_seq_id = 0
                from pymysql.err import raise_mysql_exception

                raise_mysql_exception(data)
            yield _row(data, fields)
    finally:
        while not done and connection.open:
            data = _packet(connection, read)
            done = (data[0] == 0xFE and len(data) < 9) or data[0] == 0xFF


def _packet(connection: Any, read: Any) -> bytes:
    head = read(4)
    if len(head) < 4:
        raise _lost(connection)
    size = head[0] | head[1] << 8 | head[2] << 16
    data: bytes = read(size)
    if len(data) < size:
        raise _lost(connection)
    if size < _FULL_PACKET:
        return data
    return data + _packet(connection, read)


def _lost(connection: Any) -> BaseException:
    from pymysql.err import OperationalError

    connection._force_close()
    error: BaseException = OperationalError(2013, "Lost connection to MySQL server during query")
    return error


def _row(data: bytes, fields: int) -> tuple[Any, ...]:
    values: list[bytes | None] = []
    at = 0
    for _ in range(fields):
        size = data[at]
        if size < 251:
            end = at + 1 + size
            values.append(data[at + 1 : end])
            at = end
            continue
        if size == 251:
            values.append(None)
            at += 1
            continue
        width = {252: 2, 253: 3, 254: 8}[size]
        start = at + 1 + width
        end = start + int.from_bytes(data[at + 1 : start], "little")
        values.append(data[start:end])
        at = end
    return tuple(values)
