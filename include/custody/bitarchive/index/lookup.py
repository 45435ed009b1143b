"""A URL in a sorted CDXJ: found by halving, without reading the rest."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from custody.bitarchive.index.surt import surt


@dataclass(frozen=True)
class Hit:
    """One capture of a URL."""

    key: str
    timestamp: str
    url: str
    filename: str
    offset_bytes: int
    length_bytes: int
    mime: str = ""
    status: str = ""


class Lookup:
    """A CDXJ file to look things up in; close it, or use it as a context."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("rb")
        self._size = path.stat().st_size
        self._view = mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_READ) if self._size else None

    def __enter__(self) -> Lookup:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        if self._view is not None:
            self._view.close()
        self._stream.close()

    def find(self, url: str) -> list[Hit]:
        """Every capture of a URL, oldest first."""
        try:
            key = surt(url)
        except ValueError:
            key = url.replace(" ", "%20")
        return [_hit(line) for line in self._lines(key.encode("utf-8", "surrogateescape") + b" ")]

    def _lines(self, prefix: bytes) -> Iterator[bytes]:
        view = self._view
        if view is None:
            return
        low, high = 0, self._size  # starts of lines: all before low are below the prefix, none from high on
        while low < high:
            middle = (low + high) // 2
            start = view.rfind(b"\n", 0, middle) + 1
            start = max(start, low)
            if view[start : start + len(prefix)] < prefix:
                end = view.find(b"\n", start)
                low = self._size if end < 0 else end + 1
            else:
                high = start
        while low < self._size and view[low : low + len(prefix)] == prefix:
            end = view.find(b"\n", low)
            end = self._size if end < 0 else end
            yield view[low:end]
            low = end + 1


def _hit(line: bytes) -> Hit:
    key, timestamp, text = line.decode("utf-8", "surrogateescape").split(" ", 2)
    values: dict[str, Any] = json.loads(text)
    return Hit(
        key,
        timestamp,
        values["url"],
        values["filename"],
        int(values["offset"]),
        int(values["length"]),
        values.get("mime", ""),
        values.get("status", ""),
    )
