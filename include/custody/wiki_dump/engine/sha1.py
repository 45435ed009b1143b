"""SHA-1 as MediaWiki writes it: base 36, 31 characters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_DIGITS = b"0123456789abcdefghijklmnopqrstuvwxyz"
_empty = hashlib.sha1(usedforsecurity=False)  # a copy of it is made faster than a new one


def sha1_base36(data: bytes) -> bytes:
    """The digest of some bytes."""
    number = int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest(), "big")
    digits = bytearray()
    while number:
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return bytes(reversed(digits)).rjust(31, b"0")


def digest_of(data: bytes) -> int:
    """The digest of some bytes as a number, which is had and compared faster than its digits."""
    engine = _empty.copy()
    engine.update(data)
    return int.from_bytes(engine.digest(), "big")


def stated_digest(digits: bytes) -> int:
    """The number of a digest on record; -1 where it is none."""
    try:
        return int(digits, 36)
    except ValueError:
        return -1


def equals(data: bytes, stated: bytes) -> bool:
    """Whether some bytes have this digest."""
    return digest_of(data) == stated_digest(stated)


def combined(slots: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The digest of a revision with several slots: by role name, each folded into the last."""
    found: bytes | None = None
    for _, sha1 in sorted(slots):
        found = sha1 if found is None else sha1_base36(found + sha1)
    return found or b""
