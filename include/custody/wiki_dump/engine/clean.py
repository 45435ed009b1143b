"""What may stand in XML: text cleaned as MediaWiki cleans it, and escaped.

Bytes that are no UTF-8 and characters that XML forbids become U+FFFD, and the rest is brought to NFC.
"""

from __future__ import annotations

import codecs
import re
from unicodedata import is_normalized, normalize

_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]")
_CONTROLS = bytes(sign for sign in range(32) if sign not in b"\t\n\r")
_PLAIN = bytes(sign for sign in range(0xCC) if sign not in _CONTROLS)
"""Bytes of characters below U+0300, which are NFC in any order: one pass that takes them away tells whether all are."""
_REPLACEMENT = "\ufffd".encode()


def clean(raw: bytes) -> bytes:
    """Text that XML can hold; the very same object where nothing had to change."""
    unusual = raw.translate(None, _PLAIN)
    if not unusual and raw.isascii():
        return raw
    if b"\xef" in unusual or unusual.translate(None, _CONTROLS) != unusual:
        raw = _FORBIDDEN.sub(_REPLACEMENT, raw)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "mediawiki")
        return normalize("NFC", text).encode()
    return raw if not unusual or is_normalized("NFC", text) else normalize("NFC", text).encode()


def escape(text: bytes) -> bytes:
    """Escape what stands between tags; quotes stay, as MediaWiki leaves them."""
    return text.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b">", b"&gt;")


def attribute(text: bytes) -> bytes:
    """Escape what stands in an attribute."""
    text = escape(text).replace(b'"', b"&quot;").replace(b"'", b"&#039;")
    return text.replace(b"\n", b"&#10;").replace(b"\r", b"&#13;").replace(b"\t", b"&#9;")


def element(name: bytes, content: bytes, attributes: bytes = b"") -> bytes:
    """``<name attributes>content</name>``, cleaned and escaped; short where it is empty."""
    if not content:
        return b"<%b%b />" % (name, attributes)
    return b"<%b%b>%b</%b>" % (name, attributes, escape(clean(content)), name)


def _tails(head: int) -> int:
    for limit, tails in ((0xC0, 0), (0xE0, 1), (0xF0, 2), (0xF8, 3), (0xFC, 4), (0xFE, 5)):
        if head < limit:
            return tails
    return 0


def _replace_sequence(error: UnicodeError) -> tuple[str, int]:
    """One U+FFFD for a whole broken or forbidden sequence, as MediaWiki counts them."""
    assert isinstance(error, UnicodeDecodeError)
    data, start = error.object, error.start
    end = start + 1
    for _ in range(_tails(data[start])):
        if end < len(data) and 0x80 <= data[end] < 0xC0:
            end += 1
        else:
            break
    return "\ufffd", end


codecs.register_error("mediawiki", _replace_sequence)
