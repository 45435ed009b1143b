"""What a wiki says of itself: its name, its address, its namespaces; as the API's ``meta=siteinfo`` tells it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from custody.faults import Fault, FaultKind
from custody.wiki_dump.engine.clean import attribute, clean, escape

API_TIMEOUT_S = 60.0
API_QUERY = "action=query&meta=siteinfo&siprop=general%7Cnamespaces%7Cnamespacealiases%7Cmagicwords&format=json"
_MAX_ANSWER_BYTES = 16 << 20

_ENGLISH = {
    **{-2: "Media", -1: "Special", 0: "", 1: "Talk", 2: "User", 3: "User talk", 6: "File", 7: "File talk"},
    **{8: "MediaWiki", 9: "MediaWiki talk", 10: "Template", 11: "Template talk", 12: "Help", 13: "Help talk"},
    **{14: "Category", 15: "Category talk"},
}


@dataclass(frozen=True)
class SiteInfo:
    """The head of a document. ``namespaces``: number, then name and case."""

    sitename: str
    dbname: str
    base: str
    generator: str
    case: str
    language: str
    namespaces: Mapping[int, tuple[str, str]]

    def header(self) -> bytes:
        """The document up to and with ``</siteinfo>``."""
        lines = [
            '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" '
            'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
            'xsi:schemaLocation="http://www.mediawiki.org/xml/export-0.11/ '
            'http://www.mediawiki.org/xml/export-0.11.xsd" version="0.11" '
            f'xml:lang="{_attribute(self.language)}">',
            "  <siteinfo>",
            f"    <sitename>{_text(self.sitename)}</sitename>",
            f"    <dbname>{_text(self.dbname)}</dbname>",
            f"    <base>{_text(self.base)}</base>",
            f"    <generator>{_text(self.generator)}</generator>",
            f"    <case>{_text(self.case)}</case>",
            "    <namespaces>",
            *(_namespace(number, *self.namespaces[number]) for number in self.namespaces),
            "    </namespaces>",
            "  </siteinfo>",
        ]
        return "\n".join(lines).encode() + b"\n"

    def prefixes(self) -> dict[bytes, bytes]:
        """Namespace number in digits, then ``Name:`` before a title; nothing for the main one."""
        return {str(n).encode(): f"{name}:".encode() if name else b"" for n, (name, _) in self.namespaces.items()}


FOOTER = b"</mediawiki>\n"


def _namespace(number: int, name: str, case: str) -> str:
    start = f'      <namespace key="{number}" case="{_attribute(case)}"'
    return f"{start}>{_text(name)}</namespace>" if name else f"{start} />"


def _text(value: str) -> str:
    return escape(clean(value.encode("utf-8", "surrogateescape"))).decode()


def _attribute(value: str) -> str:
    return attribute(clean(value.encode("utf-8", "surrogateescape"))).decode()


def plain(wiki: str, language: str = "en") -> SiteInfo:
    """The namespaces of a new English wiki, where nothing else is known."""
    names = _ENGLISH | {4: "Project", 5: "Project talk"}
    spaces = {number: (names[number], "first-letter") for number in sorted(names)}
    return SiteInfo(wiki, wiki, "", "Custody", "first-letter", language, spaces)


def from_api(content: Any, wiki: str) -> SiteInfo:
    """Out of the API's answer, formatversion 1 or 2. Faults: DATA where it is none."""
    try:
        general, spaces = content["query"]["general"], content["query"]["namespaces"]
        namespaces = {
            int(space["id"]): (str(space.get("*", space.get("name", ""))), str(space["case"]))
            for space in spaces.values()
        }
        return SiteInfo(
            str(general["sitename"]),
            wiki,
            str(general["base"]),
            str(general["generator"]),
            str(general["case"]),
            str(general.get("lang", "en")),
            dict(sorted(namespaces.items())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Fault(FaultKind.DATA, f"siteinfo of {wiki}", f"is no answer of the API ({error})") from error


def read_file(path: Path, wiki: str) -> tuple[SiteInfo, bytes]:
    """Out of a stored answer; with its bytes. Faults: CONFIG, DATA."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Fault(FaultKind.CONFIG, str(path), f"cannot be read ({error.strerror})") from error
    return parse(raw, wiki, str(path)), raw


def fetch(url: str, wiki: str, *, formatversion: int = 1) -> tuple[SiteInfo, bytes]:
    """Ask a wiki's api.php. Faults: TRANSIENT for an error page or no answer, DATA for an answer that is none."""
    import urllib.error
    import urllib.request

    if not url.startswith(("http://", "https://")):
        raise Fault(FaultKind.CONFIG, f"api of {wiki}", "is no http address")
    request = urllib.request.Request(  # noqa: S310 - checked above
        f"{url}?{API_QUERY}&formatversion={formatversion}", headers={"User-Agent": "custody-wiki-dump"}
    )
    try:
        with urllib.request.urlopen(request, timeout=API_TIMEOUT_S) as answer:  # noqa: S310
            raw: bytes = answer.read(_MAX_ANSWER_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise Fault(FaultKind.TRANSIENT, url, f"answers {error.code} {error.reason}") from error
    except (OSError, urllib.error.URLError) as error:
        raise Fault(FaultKind.TRANSIENT, url, f"does not answer ({error})") from error
    if len(raw) > _MAX_ANSWER_BYTES:
        raise Fault(FaultKind.DATA, url, "answers with more than any siteinfo has")
    return parse(raw, wiki, url), raw


def parse(raw: bytes, wiki: str, subject: str) -> SiteInfo:
    """Parse and check an answer. Faults: DATA."""
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise Fault(FaultKind.DATA, subject, "is no JSON") from error
    if isinstance(content, dict) and "error" in content:
        raise Fault(FaultKind.DATA, subject, f"is an error of the API: {str(content['error'])[:200]}")
    return from_api(content, wiki)


_HEADER_VALUE = re.compile(r"<(sitename|dbname|base|generator|case)>([^<]*)</")
_HEADER_SPACE = re.compile(r'<namespace key="(-?\d+)" case="([^"]+)"(?: />|>([^<]*)</)')


def from_header(header: bytes, wiki: str) -> SiteInfo:
    """Out of the head of an XML dump. Faults: DATA."""
    from html import unescape

    text = header.decode("utf-8", "replace")
    values = {found[1]: unescape(found[2]) for found in _HEADER_VALUE.finditer(text)}
    spaces = {int(f[1]): (unescape(f[3] or ""), f[2]) for f in _HEADER_SPACE.finditer(text)}
    if not spaces or "sitename" not in values:
        raise Fault(FaultKind.DATA, f"siteinfo of {wiki}", "there is none in the head of the document")
    language = re.search(r'xml:lang="([^"]*)"', text)
    return SiteInfo(
        values["sitename"],
        wiki,
        values.get("base", ""),
        values.get("generator", ""),
        values.get("case", "first-letter"),
        language[1] if language else "en",
        spaces,
    )
