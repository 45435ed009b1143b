"""Is a directory a sane DVO database? Every table walks as FITS, and the row counts of a region agree.

What dvoverify checks by reading headers alone: header and padded data of all units make up the file exactly; NSTARS,
NMEAS and NSECFILT of a region's ``.cpt`` are the rows of its tables.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from custody.minidvodb.codes import CopyFault, FaultCode
from custody.minidvodb.manifest import FILE, Snapshot, join, printable

BLOCK = 2880
HOST_TABLE = b"HostTable.dat"
REQUIRED = (b"SkyTable.fits",)
_CARD = 80
_SUFFIXES = (b".cpt", b".cpm", b".cps", b".cpn", b".cpx", b".cpy", b".cpz", b".cpq")
_TOP_LEVEL = (b"Images.dat", b"Photcodes.dat", b"SkyTable.fits")
_END = b"END     "
_END_CARD = _END + b" " * 72
_WANTED = (
    b"NAXIS",
    b"BITPIX",
    b"GCOUNT",
    b"PCOUNT",
    b"NSTARS",
    b"NMEAS",
    b"NSECFILT",
    b"NLENS",
    b"NSTARPAR",
    b"NGALPHOT",
)
_WINDOW_BYTES = 3 * BLOCK
_MAX_HEADER_BYTES = 1000 * BLOCK
_OPTIONAL = {b".cpx": "NLENSING", b".cpy": "NLENSOBJ", b".cpz": "NSTARPAR", b".cpq": "NGALPHOT"}
_MAX_UNITS = 1000
_MOST_COMPLAINTS = 5


@dataclass(frozen=True)
class Unit:
    """One header-and-data unit: its keywords that matter, as text, and the bytes of its padded data."""

    keywords: dict[str, str]
    data_bytes: int

    def number(self, name: str, default: int | None = None) -> int:
        """An integer keyword. ValueError where it is none."""
        if name not in self.keywords and default is not None:
            return default
        return int(self.keywords.get(name) or "missing")


class NotFits(ValueError):
    """A file that does not walk as FITS; the message says where."""


def walk(path: bytes, size_bytes: int) -> list[Unit]:
    """Every unit of a file, by its headers alone. NotFits where they do not make up the file exactly."""
    if size_bytes == 0:
        raise NotFits("is empty")
    units: list[Unit] = []
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        window = os.pread(descriptor, _WINDOW_BYTES, 0)
        position = 0
        while position < size_bytes:
            content = window[position:]
            if _END_CARD not in content:  # an ordinary table has all its headers in the first read
                content = os.pread(descriptor, _MAX_HEADER_BYTES, position)
            keywords, header_bytes = _read_header(content, first=not units)
            try:
                data_bytes = _data_bytes(keywords)
            except ValueError as error:
                raise NotFits(f"unit {len(units)} has no readable size ({error})") from error
            position += header_bytes + data_bytes
            units.append(Unit(keywords, data_bytes))
            if len(units) > _MAX_UNITS:
                raise NotFits("has too many units")
    finally:
        os.close(descriptor)
    if position != size_bytes:
        raise NotFits(f"is {size_bytes} bytes long, and its headers speak of {position}")
    return units


def _read_header(content: bytes, *, first: bool) -> tuple[dict[str, str], int]:
    """Keywords and length of the header that begins ``content``."""
    if not content.startswith(b"SIMPLE  =" if first else b"XTENSION="):
        raise NotFits("is no FITS file" if first else "has bytes behind its last table")
    keywords: dict[str, str] = {}
    for start in range(0, len(content) - _CARD + 1, _CARD):
        card = content[start : start + _CARD]
        if card.startswith(_END):
            header_bytes = (start // BLOCK + 1) * BLOCK
            if header_bytes > len(content):
                raise NotFits("ends within a header")
            return keywords, header_bytes
        if card.startswith(_WANTED) and card[8:9] == b"=":
            value = card[9:].partition(b"/")[0].strip().strip(b"'").strip()
            keywords.setdefault(card[:8].rstrip().decode("ascii"), value.decode("ascii", "replace"))
    raise NotFits("has a header without an end")


def _data_bytes(keywords: dict[str, str]) -> int:
    unit = Unit(keywords, 0)
    axes = unit.number("NAXIS")
    if axes == 0:
        return 0
    elements = 1
    for axis in range(1, axes + 1):
        elements *= unit.number(f"NAXIS{axis}")
    bits = abs(unit.number("BITPIX"))
    size = bits // 8 * unit.number("GCOUNT", 1) * (unit.number("PCOUNT", 0) + elements)
    if size < 0:
        raise ValueError("negative")
    return -(-size // BLOCK) * BLOCK


def check(root: Path, entries: Snapshot) -> None:
    """Look at a whole database.

    Faults: SOURCE_INVALID for a file that is no sane table, for counts that disagree, for a missing SkyTable, and for
    a database that is spread over machines (HostTable.dat): this directory alone is not all of it.
    """
    if HOST_TABLE in entries and (names := _foreign_hosts(root, entries)):
        raise CopyFault(
            FaultCode.SOURCE_INVALID,
            str(root),
            f"is only a part of a database: HostTable.dat names {names}",
            next_command="copy the parts of each machine under names of their own, or merge them first",
        )
    complaints = [f"{printable(name)} is missing" for name in REQUIRED if name not in entries]
    for complaint in _complaints(root, entries):
        complaints.append(complaint)
        if len(complaints) >= _MOST_COMPLAINTS:
            break
    if complaints:
        raise CopyFault(
            FaultCode.SOURCE_INVALID,
            str(root),
            "; ".join(complaints),
            next_command="mend the database (dvoverify), then custody minidvodb revert --fault SOURCE_INVALID",
        )


def _foreign_hosts(root: Path, entries: Snapshot) -> str:
    """The machines that hold parts of it; a table without any is no hindrance."""
    lines = (root / os.fsdecode(HOST_TABLE)).read_bytes()[: 1 << 20].decode("utf-8", "replace").splitlines()
    words = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return ", ".join(sorted({word[1] for word in words if len(word) >= 2})[:5])


def _complaints(root: Path, entries: Snapshot) -> Iterable[str]:
    top = os.fsencode(root)
    rows: dict[bytes, int] = {}
    heads: dict[bytes, Unit] = {}
    broken: set[bytes] = set()
    for path, entry in entries.items():
        if entry.kind != FILE or not (path in _TOP_LEVEL or path.endswith(_SUFFIXES)):
            continue
        try:
            units = walk(join(top, path), entry.size_bytes)
            rows[path] = sum(unit.number("NAXIS2", 0) for unit in units[1:2])
        except (NotFits, ValueError) as error:
            broken.add(path)
            yield f"{printable(path)} {error}"
        except OSError as error:
            broken.add(path)
            yield f"{printable(path)} cannot be read ({error.strerror})"
        else:
            if path.endswith(b".cpt"):
                heads[path] = units[0]
    for path, head in heads.items():
        yield from _region_complaints(path, head, rows, broken)


def _region_complaints(path: bytes, head: Unit, rows: Mapping[bytes, int], broken: Container[bytes]) -> Iterable[str]:
    """Whether the tables of a region hold as many rows as its .cpt says; one that is not there holds none."""
    try:
        stars = head.number("NSTARS")
        expected = {b".cpt": stars, b".cpm": head.number("NMEAS", 0), b".cps": stars * head.number("NSECFILT", 0)}
        for suffix, keyword in _OPTIONAL.items():
            if keyword in head.keywords:
                expected[suffix] = head.number(keyword)
    except ValueError:
        yield f"{printable(path)} does not say how many objects it holds"
        return
    stem = path.removesuffix(b".cpt")
    for suffix, wanted in expected.items():
        sibling = stem + suffix
        if sibling not in broken and rows.get(sibling, 0) != wanted:
            yield f"{printable(sibling)} holds {rows.get(sibling, 0)} rows, and {printable(path)} speaks of {wanted}"
