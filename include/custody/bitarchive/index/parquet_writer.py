"""Run by a Python that has pyarrow, and nothing of Custody: a sorted CDXJ in, Parquet on standard output.

One row for each line, in its order: ``urlkey`` and ``timestamp`` as they stand there, ``captured_at`` (UTC, null where
the timestamp is none), and the values by their names, ``status``, ``length`` and ``offset`` as numbers; what has no
column of its own is in ``more``, as JSON. The same lines give the same bytes.
"""

import json
import sys
from datetime import UTC, datetime
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

ROWS = 100_000
TEXTS = ("url", "mime", "mime-detected", "digest", "filename")
NUMBERS = ("status", "length", "offset")


def main(source: Path) -> int:
    """Write; memory does not grow with the index."""
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    schema = arrow.schema(
        [
            ("urlkey", arrow.string()),
            ("timestamp", arrow.string()),
            ("captured_at", arrow.timestamp("ms", tz="UTC")),
            *((_column(name), arrow.string()) for name in TEXTS),
            ("status", arrow.int32()),
            ("length", arrow.int64()),
            ("offset", arrow.int64()),
            ("more", arrow.string()),
        ]
    )
    sink = arrow.PythonFile(sys.stdout.buffer, mode="w")
    with source.open("rb") as lines, parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        while block := list(islice(lines, ROWS)):
            writer.write_table(arrow.Table.from_pylist([row_of(line) for line in block], schema))
    return 0


def row_of(line: bytes) -> dict[str, Any]:
    """The columns of one line. Raises ValueError where it is none of a CDXJ."""
    key, timestamp, text = line.decode("utf-8", "backslashreplace").rstrip("\n").split(" ", 2)
    values = json.loads(text)
    row: dict[str, Any] = {"urlkey": key, "timestamp": timestamp, "captured_at": _time_of(timestamp)}
    row |= {_column(name): _text(values.pop(name, None)) for name in TEXTS}
    for name in NUMBERS:
        value = values.pop(name, None)
        row[name] = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else None
        if value is not None and row[name] is None:
            values[name] = value
    row["more"] = json.dumps(values, sort_keys=True) if values else None
    return row


def _column(name: str) -> str:
    return name.replace("-", "_")


def _text(value: Any) -> str | None:
    """Text that is sure to be UTF-8: a URL may hold any bytes."""
    return None if value is None else str(value).encode("utf-8", "backslashreplace").decode()


def _time_of(timestamp: str) -> datetime | None:
    try:
        return datetime.strptime(timestamp, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
