"""Rows of MariaDB and MySQL as bytes, as they come over the wire.

PyMySQL's own row reader takes most of a dump's time: it builds an object for every packet and decodes field by field.
Here a row is cut out of its packet in one go, and a query may be sent while the answer to the one before it is still
read, so that the server is never waited for. It leans on the driver's inner names, which its pinned version has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any

_BUFFER_BYTES = 1 << 18
_FULL_PACKET = 0xFFFFFF
_COM_QUERY = 3
_OK, _NULL, _TWO_BYTES, _END, _ERROR = 0x00, 0xFB, 0xFC, 0xFE, 0xFF
_MOST_BYTES_AHEAD = 16_000
"""Of a query that is sent while an answer is read: it has to find room on its way, or both sides wait for ever."""
_head = Struct("<I").unpack

Row = tuple[Any, ...]


class Wire:
    """A connection on which queries are asked and answered in their order.

    :param connection: PyMySQL's, on which nothing is under way.
    :param fault: what is raised for an error of the driver or the protocol.
    """

    def __init__(self, connection: Any, fault: Callable[[Exception], Exception]) -> None:
        from pymysql.err import MySQLError

        self.errors = (MySQLError, OSError, EOFError, ValueError, LookupError)
        self.fault = fault
        self._connection = connection
        self._stream = connection._sock.makefile("rb", _BUFFER_BYTES)
        self._read = self._stream.read
        connection._rfile = None  # two buffers on one socket would take each other's bytes
        self._asked: deque[Answer] = deque()

    def ask(self, sql: str) -> Answer:
        """Send a query; its rows are read when they are wanted."""
        statement = sql.encode()
        if len(statement) > _MOST_BYTES_AHEAD:
            self._gather(None)
        try:
            self._connection._execute_command(_COM_QUERY, statement)
        except self.errors as error:
            raise self.fault(error) from error
        answer = Answer(self)
        self._asked.append(answer)
        return answer

    def run(self, sql: str) -> None:
        """Run a statement whose rows nobody wants."""
        for _ in self.ask(sql):
            pass

    def close(self) -> None:
        """End the connection, whatever is under way on it."""
        self._connection._force_close()
        self._stream.close()

    def _gather(self, until: Answer | None) -> None:
        """Read the answers before one (or all of them) into memory: they come first on the wire."""
        while self._asked and self._asked[0] is not until:
            self._asked[0].gather()

    def _packet(self) -> bytes:
        head = self._read(4)
        if len(head) < 4:
            raise self._lost()
        size = _head(head)[0] & _FULL_PACKET
        data: bytes = self._read(size)
        if len(data) < size:
            raise self._lost()
        return data if size < _FULL_PACKET else data + self._packet()

    def _lost(self) -> BaseException:
        from pymysql.err import OperationalError

        self._connection._force_close()
        error: BaseException = OperationalError(2013, "Lost connection to MySQL server during query")
        return error


class Answer:
    """The rows of one query. Leaving early reads the rest away, so that the next answer can follow."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._rows: Iterator[Row] = self._received()
        self._gathered: deque[Row] | None = None
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[Row]:
        """The rows as they come."""
        wire = self._wire
        try:
            if self._gathered is None:
                wire._gather(self)
            if self._gathered is None:
                yield from self._rows
        except wire.errors as error:
            raise wire.fault(error) from error
        while self._gathered:
            yield self._gathered.popleft()
        if self._error is not None:
            raise wire.fault(self._error) from self._error

    def gather(self) -> None:
        """Read the rest of it into memory. What is wrong with it is raised where it is read."""
        self._gathered = deque()
        try:
            self._gathered.extend(self._rows)
        except self._wire.errors as error:
            self._error = error

    def _received(self) -> Iterator[Row]:
        wire, read = self._wire, self._wire._read
        ended = True
        try:
            fields = self._fields()
            ended = not fields
            while not ended:
                head = read(4)
                size = _head(head)[0] & _FULL_PACKET if len(head) == 4 else -1
                data = read(size) if size >= 0 else b""
                if len(data) != size:
                    raise wire._lost()
                if size == _FULL_PACKET:
                    data += wire._packet()
                if data[0] >= _END and (ended := _ends(data)):
                    _refuse(data)
                    return
                yield _row(data, fields)
        finally:
            wire._asked.remove(self)
            while not ended and wire._connection.open:
                ended = _ends(wire._packet())

    def _fields(self) -> int:
        """How many fields the rows have; 0 where there are none."""
        first = self._wire._packet()
        _refuse(first)
        if first[0] == _OK:
            return 0
        fields, _ = _number_at(first, 0)
        for _ in range(fields + 1):  # their descriptions, and the packet that ends them
            self._wire._packet()
        return fields


def _ends(data: bytes) -> bool:
    """Whether a packet is the last one of an answer."""
    return data[0] == _ERROR or (data[0] == _END and len(data) < 9)


def _refuse(data: bytes) -> None:
    """Raise the driver's own error where a packet says one."""
    if data[0] == _ERROR:
        from pymysql.err import raise_mysql_exception

        raise_mysql_exception(data)


def _number_at(data: bytes, at: int) -> tuple[int, int]:
    """A length in the protocol's own form, and where it ends."""
    size = data[at]
    if size < _NULL:
        return size, at + 1
    end = at + 1 + {252: 2, 253: 3, 254: 8}[size]
    return int.from_bytes(data[at + 1 : end], "little"), end


def _row(data: bytes, fields: int) -> Row:
    values: list[bytes | None] = []
    add = values.append
    at = 0
    for _ in range(fields):
        size = data[at]
        at += 1
        if size < _NULL:
            end = at + size
        elif size == _NULL:
            add(None)
            continue
        elif size == _TWO_BYTES:  # most texts
            size = data[at] | data[at + 1] << 8
            at += 2
            end = at + size
        else:
            size, at = _number_at(data, at - 1)
            end = at + size
        add(data[at:end])
        at = end
    if at != len(data):
        raise ValueError("a row is shorter or longer than it says")
    return tuple(values)
