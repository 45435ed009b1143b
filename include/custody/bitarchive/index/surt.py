"""The key of a URL in an index: host turned round, everything that does not tell pages apart taken away.

The same key that pywb makes (that of the Wayback machine), for any URL; what is common takes a short way.
"""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from functools import lru_cache
from urllib.parse import SplitResultBytes, quote_from_bytes, unquote_to_bytes

_PLAIN = re.compile(
    r"https?://(?P<host>[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z][A-Za-z0-9-]*)"
    r"(?P<path>/[A-Za-z0-9._~!$'*+,=:@/-]*)?(?:\?(?P<query>[A-Za-z0-9._~!$'*+,=:@/&-]+))?"
)
_ODD_PATH = re.compile(r"//|/\.")
_SAFE = b"!\"$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_SCHEME = re.compile(rb"[a-zA-Z][a-zA-Z0-9+.-]*:")
_REPEATED = re.compile(rb"(https?://)+")
_PARTS = re.compile(rb"(?:([a-zA-Z][a-zA-Z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL)
_NUMBERS = re.compile(rb"[0-9]+(?:\.[0-9]+){0,3}")
_WWW = re.compile(rb"www\d*\.")
_PATH_SESSIONS = (
    re.compile(rb"(.*/)(?:\((?:[a-z]\([0-9a-z]{24}\))+\)/)([^?]+\.aspx.*)", re.IGNORECASE),
    re.compile(rb"(.*/)(?:\([0-9a-z]{24}\)/)([^?]+\.aspx.*)", re.IGNORECASE),
)
_QUERY_SESSIONS = tuple(
    re.compile(rb"(.*)" + word + rb"(?:&(.*))?", re.IGNORECASE)
    for word in (
        rb"jsessionid=[0-9a-z]{32}",
        rb"phpsessid=[0-9a-z]{32}",
        rb"sid=[0-9a-z]{32}",
        rb"aspsessionid[a-z]{8}=[a-z]{24}",
        rb"cfid=[^&]+&cftoken=[^&]+",
    )
)
_DEFAULT_PORTS = {b"http": 80, b"https": 443}


def surt(url: str) -> str:
    """The key of a URL; ``-`` for an empty one. ValueError where it has a port that is none."""
    plain = _PLAIN.fullmatch(url)
    if plain:
        path, query = plain["path"] or "/", plain["query"]
        if not _ODD_PATH.search(path):
            if query is None:
                return _host_key(plain["host"]) + _path_key(path)
            query = query.lower()
            if "sid=" not in query and "session" not in query and "cfid=" not in query:
                return f"{_host_key(plain['host'])}{_path_key(path)}?{_sorted(query) if '&' in query else query}"
    return _any(url.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


@lru_cache(maxsize=4096)
def _host_key(host: str) -> str:
    host = host.lower()
    found = _WWW.match(host.encode())
    return ",".join(reversed(host[found.end() if found else 0 :].split("."))) + ")"


def _path_key(path: str) -> str:
    path = path.lower()
    return path[:-1] if path.endswith("/") and len(path) > 1 else path


def _sorted(query: str) -> str:
    return "&".join("=".join(pair) for pair in sorted(part.split("=", 1) for part in query.split("&")))


def _any(url: bytes) -> bytes:
    """Every URL, and what only looks like one."""
    if not url:
        return b"-"
    if url.startswith(b"filedesc"):
        return url
    url = re.sub(rb"[\n\r\t]", b"", url.strip())
    if not _SCHEME.match(url):
        url = b"http://" + url
    url = _REPEATED.sub(lambda found: found[1], url, count=1) if _REPEATED.match(url) else url
    found = _PARTS.fullmatch(url)
    assert found is not None  # every part is optional
    scheme, netloc, path, query = (part or b"" for part in found.groups())
    split = SplitResultBytes(scheme, netloc.rstrip(b":"), path, query, b"")
    host, port = split.hostname or b"", split.port or None
    if scheme.startswith(b"http") and not host and path:
        host, _, rest = path.lstrip(b"/").partition(b"/")
        path = b"/" + rest
    if port == _DEFAULT_PORTS.get(scheme.lower()):
        port = None
    host = _clean_host(host)
    key = _turned(host, scheme) + (b":%d" % port if port else b"") + b")" if host else scheme + b":"
    path, query = _clean_path(path, is_directory=bool(host)), _clean_query(query)
    return key + path + (b"" if path else b"/") + b"?" + query if query else key + path


def _clean_host(host: bytes) -> bytes:
    host = _unescaped(host)
    try:
        host.decode("ascii")
    except UnicodeDecodeError:
        with suppress(UnicodeError):
            host = host.decode("utf-8", "ignore").encode("idna")
    host = host.replace(b"..", b".").strip(b".")
    return _address(host) or _escaped(host.lower())


def _address(host: bytes) -> bytes | None:
    """Numbers that mean an IP address, in its usual form."""
    try:
        if host.isdigit():
            return socket.inet_ntoa((int(host) & 0xFFFFFFFF).to_bytes(4, "big")).encode()
        return socket.inet_ntoa(socket.inet_aton(host.decode())).encode() if _NUMBERS.fullmatch(host) else None
    except OSError:
        return None


def _turned(host: bytes, scheme: bytes) -> bytes:
    found = _WWW.match(host.lower()) if scheme != b"dns" else None
    return b",".join(reversed(host.lower()[found.end() if found else 0 :].split(b".")))


def _clean_path(path: bytes, *, is_directory: bool) -> bytes:
    path = _unescaped(path)
    path = _escaped(_normal(path) if is_directory else path).lower()
    for pattern in _PATH_SESSIONS:
        if found := pattern.fullmatch(path):
            path = found[1] + found[2]
    return path[:-1] if path.endswith(b"/") and len(path) > 1 else path


def _normal(path: bytes) -> bytes:
    """Without ``.``, ``..`` and double slashes; a ``..`` that leads above the root stays."""
    kept: list[bytes] = []
    for part in path.split(b"/")[1:]:
        if part == b"." or (part == b".." and kept):
            if part == b"..":
                kept.pop()
            continue
        kept.append(part)
    return b"/" + b"/".join([part for part in kept[:-1] if part] + kept[-1:])


def _clean_query(query: bytes) -> bytes:
    if not query:
        return b""
    query = _escaped(_unescaped(query))
    for pattern in _QUERY_SESSIONS:
        if found := pattern.fullmatch(query):
            query = found[1] + (found[2] or b"")
    query = query.lower()
    if len(query) <= 1:
        return query
    return b"&".join(b"=".join(pair) for pair in sorted(part.split(b"=", 1) for part in query.split(b"&")))


def _unescaped(text: bytes) -> bytes:
    while b"%" in text and (once := unquote_to_bytes(text)) != text:
        text = once
    return text


def _escaped(text: bytes) -> bytes:
    return quote_from_bytes(text, safe=_SAFE).encode()
