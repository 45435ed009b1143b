"""The text of a revision, by its address: flags taken off in MediaWiki's order, external stores asked.

What cannot be had is a :class:`Lost`, never an empty text.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from custody.faults import Fault
from custody.wiki_dump.engine.php import PhpObject, unserialize
from custody.wiki_dump.engine.rows import Row, Rows

ADDRESSES_A_QUERY = 300
MAX_TEXT_BYTES = 1 << 30
_MAX_STUB_DEPTH = 4
_UNREADABLE = (ValueError, zlib.error, LookupError, TypeError)
_STORE = re.compile(rb"DB://([^/]+)/([0-9]+)(?:/([0-9A-Za-z]+))?")


@dataclass(frozen=True)
class Lost:
    """A text that cannot be had, and why."""

    why: str


@dataclass(frozen=True)
class KnownLost:
    """A text that the wiki itself knows to be lost (``bad:``): it is empty, and that is no failure."""

    why: str


Found = bytes | Lost | KnownLost
Cluster = Callable[[str], Rows]


class TextSource:
    """Fetches texts by address, many at a time.

    :param cluster: opens the database of an external store; raises a Fault where it is not known.
    :param legacy_encoding: of texts without the flag utf-8; None where the wiki has none.
    """

    def __init__(self, rows: Rows, *, cluster: Cluster | None = None, legacy_encoding: str | None = None) -> None:
        self._rows = rows
        self._cluster = cluster
        self._legacy = legacy_encoding
        self._select = f"SELECT {rows.number('old_id')}, old_text, old_flags FROM text WHERE old_id IN "  # noqa: S608

    def fetch(self, addresses: Iterable[bytes]) -> dict[bytes, Found]:
        """Text by address; every address is in the answer. Faults: TRANSIENT where the wiki's own database is gone."""
        found: dict[bytes, Found] = {}
        wanted = list(addresses)
        for start in range(0, len(wanted), ADDRESSES_A_QUERY):
            found.update(self.ask(wanted[start : start + ADDRESSES_A_QUERY]))
        return found

    def ask(self, addresses: Iterable[bytes]) -> Iterator[tuple[bytes, Found]]:
        """As :meth:`fetch`, of at most ``ADDRESSES_A_QUERY``: asked for now, each with its text as it comes."""
        numbers: list[bytes] = []
        others: list[bytes] = []
        for address in addresses:
            if address[:3] == b"tt:" and (number := address[3:]).isdigit() and number[:1] != b"0":
                numbers.append(number)
            else:
                others.append(address)
        rows = self._rows.ask(f"{self._select}({b','.join(numbers).decode()})") if numbers else iter(())
        return self._answered(rows, numbers, others)

    def _answered(
        self, rows: Iterator[Row], numbers: list[bytes], others: list[bytes]
    ) -> Iterator[tuple[bytes, Found]]:
        answered = []
        for row in rows:
            answered.append(row[0])
            yield b"tt:" + row[0], self._decode(row)
        if len(answered) < len(numbers):
            for number in set(numbers).difference(answered):
                yield b"tt:" + number, Lost(f"text {number.decode()} is not in the table")
        for address in others:
            yield address, self._unusual(address)

    def _unusual(self, address: bytes) -> Found:
        if address.startswith(b"tt:"):
            number = address[3:].partition(b"?")[0].lstrip(b"0")
            return self.fetch([b"tt:" + number])[b"tt:" + number] if number.isdigit() else _unknown(address)
        if address.startswith(b"es:"):
            return self._external_address(address)
        if address.startswith(b"bad:"):
            return KnownLost(f"{address.decode('utf-8', 'replace')} is known to be lost")
        return _unknown(address)

    def _decode(self, row: Row) -> Found:
        _, text, flags = row
        if flags == b"utf-8" and text is not None:
            return text  # type: ignore[no-any-return]
        try:
            return self.expand(text or b"", flags or b"", 0)
        except Fault as fault:
            return Lost(str(fault))
        except _UNREADABLE as error:
            return Lost(
                f"text {row[0].decode()} with flags {(flags or b'').decode('latin-1')!r} cannot be read ({error})"
            )

    def expand(self, text: bytes, flags: bytes, depth: int = 0) -> Found:
        """Take the flags off. ValueError, zlib.error and the like where that fails; Lost where the wiki says so."""
        marks = _marks(flags)
        if b"error" in marks:
            return Lost("its flags say that it is lost (error)")
        if b"external" in marks:
            stored = self._external(text, depth)
            if not isinstance(stored, bytes):
                return stored
            text = stored
        if b"gzip" in marks and not (b"external" in marks and b"object" in marks and text[:1] in {b"O", b"C"}):
            text = inflate(text)
        if b"object" in marks:
            resolved = self._object(unserialize(text), depth)
            if not isinstance(resolved, bytes):
                return resolved
            text = resolved
        if self._legacy and not marks & {b"utf-8", b"utf8"}:
            return text.decode(self._legacy, "replace").encode()
        return text

    def _object(self, value: object, depth: int) -> Found:
        if isinstance(value, bytes):
            return value
        if not isinstance(value, PhpObject):
            raise ValueError("no object is in it")
        if value.name == "concatenatedgziphistoryblob":
            items = _items(value)
            key = _as_bytes(value.properties.get(b"mDefaultHash"))
            return _as_bytes(items[key])
        if value.name == "historyblobstub":
            return self._blob_stub(value, depth)
        if value.name == "historyblobcurstub":
            return Lost("it points into a table (cur) that MediaWiki gave up in version 1.5")
        return Lost(f"it is kept as {value.name}, which only MediaWiki itself reads: use engine: mediawiki")

    def _blob_stub(self, stub: PhpObject, depth: int) -> Found:
        """An entry of a blob that another text row holds."""
        if depth >= _MAX_STUB_DEPTH:
            return Lost("its blob points to a blob, again and again")
        number, key = stub.properties[b"mOldId"], stub.properties[b"mHash"]
        select = f"{self._select}({int(number)})"
        for row in list(self._rows.query(select)):
            _, text, flags = row
            if b"external" in _marks(flags):
                stored = self._external_raw(text)
                if not isinstance(stored, bytes):
                    return stored
                text = stored
            blob = unserialize(_inflated_object(text))
            return _as_bytes(_items(blob)[key])
        return Lost(f"its blob, text {int(number)}, is not in the table")

    def _external_address(self, address: bytes) -> Found:
        place, _, query = address[3:].partition(b"?")
        flags = b""
        for pair in query.split(b"&"):
            name, _, value = pair.partition(b"=")
            if name == b"flags":
                flags = value.replace(b"%2C", b",").replace(b"%2c", b",")
        try:
            return self.expand(place, flags + b",external")
        except Fault as fault:
            return Lost(str(fault))
        except _UNREADABLE as error:
            return Lost(f"{address[:80]!r} cannot be read ({error})")

    def _external(self, place: bytes, depth: int) -> Found:
        parsed = _STORE.fullmatch(place)
        stored = self._external_raw(place)
        if not isinstance(stored, bytes) or parsed is None or parsed[3] is None:
            return stored
        blob = unserialize(_inflated_object(stored))
        if not isinstance(blob, PhpObject) or blob.name != "concatenatedgziphistoryblob":
            return self._object(blob, depth)
        return _as_bytes(_items(blob)[parsed[3]])

    def _external_raw(self, place: bytes) -> Found:
        parsed = _STORE.fullmatch(place)
        if parsed is None:
            return Lost(f"its external address {place[:80]!r} is none")
        if self._cluster is None:
            return Lost(f"its external store {parsed[1].decode('utf-8', 'replace')} is not configured")
        rows = self._cluster(parsed[1].decode("utf-8", "replace"))
        for row in list(rows.query(f"SELECT blob_text FROM blobs WHERE blob_id = {int(parsed[2])}")):  # noqa: S608
            return bytes(row[0])
        return Lost(f"external blob {place.decode('utf-8', 'replace')} is not there")


def _unknown(address: bytes) -> Lost:
    return Lost(f"its address {address[:80]!r} is of no kind we know")


@lru_cache(maxsize=256)
def _marks(flags: bytes) -> frozenset[bytes]:
    return frozenset(mark.strip() for mark in flags.split(b","))


def inflate(data: bytes) -> bytes:
    """Raw deflate. ValueError where it is cut or inflates without bounds."""
    engine = zlib.decompressobj(-15)
    text = engine.decompress(data, MAX_TEXT_BYTES)
    if not engine.eof:
        raise ValueError("is cut, or larger than any text")
    return text


def _inflated_object(data: bytes) -> bytes:
    if data[:2] in {b"O:", b"C:"}:
        return data
    return inflate(data)


def _items(blob: object) -> Mapping[bytes, object]:
    if not isinstance(blob, PhpObject) or blob.name != "concatenatedgziphistoryblob":
        raise ValueError("its blob is of a kind that only MediaWiki itself reads")
    items = blob.properties[b"mItems"]
    if isinstance(items, bytes):  # compressed as a whole
        with suppress(ValueError):
            return _map(unserialize(items))
        items = unserialize(inflate(items))
    return _map(items)


def _map(value: object) -> Mapping[bytes, object]:
    if not isinstance(value, dict):
        raise ValueError("its blob holds no map")
    return value


def _as_bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("its blob holds something else")
    return value
