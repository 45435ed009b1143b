"""Names of any bytes as text that a database, a page and a terminal can hold, and back."""

from __future__ import annotations

import re

_ESCAPE = re.compile(rb"\\(?:([abfnrtv\\])|([0-7]{3}))")
_LETTERS = {7: "a", 8: "b", 12: "f", 10: "n", 13: "r", 9: "t", 11: "v", 92: "\\"}
_CODES = {letter.encode(): bytes([code]) for code, letter in _LETTERS.items()}


def escape(name: bytes) -> str:
    r"""Write a name as GNU tar lists it: ``\n`` and the like, ``\\``, and ``\ooo`` for what is no printable UTF-8."""
    text = name.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_sign(sign) for sign in text)


def _sign(sign: str) -> str:
    code = ord(sign)
    if code in _LETTERS:
        return "\\" + _LETTERS[code]
    if sign.isprintable():
        return sign
    return "".join(f"\\{byte:03o}" for byte in sign.encode("utf-8", "surrogateescape"))


def unescape(text: str) -> bytes:
    """The bytes that :func:`escape` was given. ValueError where a backslash begins nothing known."""
    raw = text.encode("utf-8")
    if b"\\" not in raw:
        return raw
    parts = raw.split(b"\\\\")
    if any(_ESCAPE.sub(b"", part).find(b"\\") >= 0 for part in parts):
        raise ValueError(f"{text!r} holds a backslash that begins no escape")
    return _ESCAPE.sub(lambda found: _CODES[found[1]] if found[1] else bytes([int(found[2], 8)]), raw)
