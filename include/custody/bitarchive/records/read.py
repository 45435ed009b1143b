"""One way to read the records of a file, whatever its kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from custody.bitarchive.names import is_arc
from custody.bitarchive.records.arc import read_arc
from custody.bitarchive.records.model import Damage, Record
from custody.bitarchive.records.warc import read_warc


def read_records(path: Path, *, name: str | None = None, start_bytes: int = 0) -> Iterator[Record | Damage]:
    """Every record and every damage, in the order of the file; the kind is told by the name.

    A content must be read before the next record is asked for. A :class:`Damage` at the offset of the record before it
    takes that record back. Faults: DATA where the file is not of its kind at all.

    :param name: the name that tells the kind, where the path's own does not.
    :param start_bytes: begin here: the start of a record.
    """
    reader = read_arc if is_arc(name or path.name) else read_warc
    return reader(path, start_bytes=start_bytes)


def whole_records(path: Path) -> int:
    """How many records are whole; what is damaged or taken back is not counted."""
    whole, last = 0, -1
    for item in read_records(path):
        if isinstance(item, Damage):
            whole -= item.offset_bytes == last
            last = -1
        else:
            whole += 1
            last = item.offset_bytes
    return whole
