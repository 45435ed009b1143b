"""PHP's serialised values, as far as MediaWiki keeps old text in them: read, never written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class PhpObject:
    """An object: its class in lower case and its properties."""

    name: str
    properties: dict[Any, Any] = field(default_factory=dict)


MAX_DEPTH = 32


def unserialize(data: bytes) -> Any:
    """A value: bytes, int, float, bool, None, dict for arrays, :class:`PhpObject`. ValueError where it is none."""
    return _read(data, 0, 0)[0]


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deep")
    kind = data[at : at + 2]
    if kind == b"N;":
        return None, at + 2
    if kind in {b"i:", b"b:", b"d:"}:
        end = data.index(b";", at)
        text = data[at + 2 : end]
        value: Any = float(text) if kind == b"d:" else int(text)
        return (bool(value) if kind == b"b:" else value), end + 1
    if kind == b"s:":
        content, at = _sized(data, at + 2)
        if data[at : at + 1] != b";":
            raise ValueError("a string does not end")
        return content, at + 1
    if kind == b"a:":
        return _entries(data, at + 2, depth)
    if kind == b"O:":
        name, at = _sized(data, at + 2)
        if data[at : at + 1] != b":":
            raise ValueError("an object has no properties")
        properties, at = _entries(data, at + 1, depth)
        return PhpObject(name.decode("latin-1").lower(), properties), at
    raise ValueError("is no serialised value")


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    colon = data.index(b":", at)
    size = int(data[at:colon])
    content = data[colon + 2 : colon + 2 + size]
    if len(content) != size or data[colon + 1 : colon + 2] != b'"' or data[colon + 2 + size : colon + 3 + size] != b'"':
        raise ValueError("a string is cut")
    return content, colon + 3 + size


def _entries(data: bytes, at: int, depth: int) -> tuple[dict[Any, Any], int]:
    colon = data.index(b":", at)
    count = int(data[at:colon])
    if data[colon + 1 : colon + 2] != b"{" or count > len(data):
        raise ValueError("an array has no entries")
    at, found = colon + 2, {}
    for _ in range(count):
        key, at = _read(data, at, depth + 1)
        value, at = _read(data, at, depth + 1)
        found[key.rpartition(b"\0")[2] if isinstance(key, bytes) else key] = value
    if data[at : at + 1] != b"}":
        raise ValueError("an array does not end")
    return found, at + 1
