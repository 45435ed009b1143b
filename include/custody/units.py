"""Sizes as people write them."""

from __future__ import annotations

import re

_UNITS = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Bytes of ``10GiB``, ``400 KB``, ``512``. ValueError for an unknown unit or a size below 1."""
    found = _SIZE.fullmatch(text)
    if not found or found[2].lower() not in _UNITS:
        raise ValueError(f"{text!r} is no size; write it as 10GiB, 400MB or a number of bytes")
    size_bytes = int(float(found[1]) * _UNITS[found[2].lower()])
    if size_bytes < 1:
        raise ValueError(f"{text!r} is below one byte")
    return size_bytes


def format_size(size_bytes: float) -> str:
    """A size for people: three digits and a unit of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 999.5:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.4g} TB"
