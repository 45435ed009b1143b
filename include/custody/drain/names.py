"""What WARC files and items are called, and what their names say.

A naming is a pattern of ``{fields}``; draintasker's 1 and 2 keep their numbers, the crawlers of today have theirs by
name. File names are restricted to characters that every shell, S3 server and md5sum list carries unharmed; what else
lies on a disk is listed, never touched.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from functools import cache

from custody.faults import Fault, FaultKind

NAMINGS = {
    "1": "{prefix}-{timestamp}-{serial}-{host}",
    "2": "{prefix}-{timestamp}-{serial}-{pid}~{host}~{port}",
    "heritrix1": "{prefix}-{timestamp}-{serial}-{host}",
    "heritrix2": "{prefix}-{timestamp}-{serial}-{host}",
    "heritrix3": "{prefix}-{timestamp}-{serial}-{pid}~{host}~{port}",
    "zeno": "{prefix}-{timestamp}-{serial}-{host}",
    "warcprox": "{prefix}-{timestamp}-{serial}-{random}",
    "browsertrix": "{prefix}-{random}-{timestamp}-{serial}",
}

SUFFIXES = (".arc", ".arc.gz", ".arc.zst", ".warc", ".warc.gz", ".warc.zst", ".wacz")
IN_PROGRESS = (".open", ".tmp", ".part", ".bad", ".lock")

MAX_NAME_BYTES = 220

_FIELDS = {
    "prefix": r"[A-Za-z0-9][A-Za-z0-9._=+,@%-]*?",
    "timestamp": r"[0-9]{12,17}",
    "serial": r"[0-9]+",
    "pid": r"[0-9]+",
    "host": r"[A-Za-z0-9][A-Za-z0-9._-]*?",
    "port": r"[0-9]+",
    "random": r"[A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)*?",
}
_PORTABLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~=+,@%-]*")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,99}")
_DERIVED = ("timestamp14", "shost", "lasttimestamp", "lasttimestamp14", "lastserial", "lasthost", "lastshost")


@dataclass(frozen=True)
class WarcName:
    """A file name taken apart. Fields that its pattern does not have are empty."""

    name: str
    suffix: str
    prefix: str = ""
    timestamp: str = ""
    serial: str = ""
    pid: str = ""
    host: str = ""
    port: str = ""
    random: str = ""

    @property
    def timestamp14(self) -> str:
        """The time to the second, as archives write it."""
        return self.timestamp[:14].ljust(14, "0")

    @property
    def shost(self) -> str:
        """The host up to its first dot."""
        return self.host.partition(".")[0]

    @property
    def group(self) -> tuple[str, str]:
        """Files of one crawl by one crawler: what may share an item."""
        return self.prefix, self.host

    @property
    def compact(self) -> str:
        """The short name: prefix, time to the second, serial."""
        return f"{self.prefix}-{self.timestamp14}-{self.serial}{self.suffix}"


class Naming:
    """One way to name WARC files.

    :param pattern: a key of NAMINGS or a pattern of ``{fields}``. Faults: CONFIG for an unknown field.
    :param suffixes: which endings count.
    """

    def __init__(self, pattern: str, suffixes: tuple[str, ...] = SUFFIXES) -> None:
        self.pattern = NAMINGS.get(pattern, pattern)
        parts = re.split(r"\{(\w+)\}", self.pattern)
        self.fields = tuple(parts[1::2])
        for field in self.fields:
            if field not in _FIELDS:
                known = ", ".join(_FIELDS)
                raise Fault(FaultKind.CONFIG, f"WARC_naming {pattern!r}", f"no field {{{field}}}; there are {known}")
        if "timestamp" not in self.fields or "serial" not in self.fields or "prefix" not in self.fields:
            raise Fault(FaultKind.CONFIG, f"WARC_naming {pattern!r}", "needs {prefix}, {timestamp} and {serial}")
        body = "".join(
            f"(?P<{part}>{_FIELDS[part]})" if index % 2 else re.escape(part) for index, part in enumerate(parts)
        )
        endings = "|".join(re.escape(suffix) for suffix in sorted(suffixes, key=len, reverse=True))
        self._expression = re.compile(f"{body}(?P<suffix>{endings})")

    def parse(self, name: str) -> WarcName | None:
        """Take a name apart; None where it is not of this kind."""
        found = self._expression.fullmatch(name)
        return WarcName(name, **found.groupdict()) if found else None


_FIND_OPERATORS = {r"\(": "(", r"\)": ")", r"\|": "|", "(": r"\(", ")": r"\)", "|": r"\|", "{": r"\{", "}": r"\}"}


@cache
def ending_filter(suffix_re: str) -> re.Pattern[str]:
    """Draintasker's ``suffix_re``: a regular expression as find(1) reads it, for the ending of a file name.

    ValueError where it is none.
    """
    words = re.findall(r"\\.|.", suffix_re)
    try:
        return re.compile("".join(_FIND_OPERATORS.get(word, word) for word in words))
    except re.error as error:
        raise ValueError(f"{suffix_re!r} is no regular expression ({error})") from error


@cache
def naming(pattern: str) -> Naming:
    """The naming of a pattern, made once."""
    return Naming(pattern)


def suffix_of(name: str) -> str:
    """The ending that says what a file is, of SUFFIXES; empty for none of them."""
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")


def is_portable(name: str) -> bool:
    """Whether a file name is safe everywhere it will have to go, with ``.tombstone`` and the like behind it."""
    return len(name) <= MAX_NAME_BYTES and _PORTABLE.fullmatch(name) is not None


def item_name(first: WarcName, last: WarcName, *, compact: bool, template: str | None = None, number: int = 0) -> str:
    """The identifier of the item that holds the files from ``first`` to ``last``.

    :param number: tells items apart that would share a name; 0 adds nothing. It follows the time in a compact name.
    Faults: CONFIG where the result is no legal identifier (3 to 100 of ``A-Za-z0-9._-``, first a letter or digit).
    """
    copy = f"-{number}" if number else ""
    if template is None and compact:
        template, copy = f"{{prefix}}-{{timestamp14}}{copy}-{{shost}}", ""
    elif template is None:
        template = "{prefix}-{timestamp}-{serial}-{lastserial}-{shost}"
    fields = {field: getattr(first, field) for field in (*_FIELDS, "timestamp14", "shost")}
    fields |= {
        f"last{field}": getattr(last, field) for field in ("timestamp", "timestamp14", "serial", "host", "shost")
    }
    try:
        item = template.format_map(fields).strip("-") + copy
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        known = ", ".join((*_FIELDS, *_DERIVED))
        raise Fault(
            FaultKind.CONFIG, f"item_naming {template!r}", f"cannot be filled ({error}); fields: {known}"
        ) from error
    check_identifier(item)
    return item


def check_template(template: str, kind: Naming) -> None:
    """Refuse an item_naming that file names of this kind cannot fill, or that makes no identifier. Faults: CONFIG."""
    available = {*kind.fields, *(field for field in _DERIVED if field.removeprefix("last") in kind.fields)}
    available |= {"timestamp14", "lasttimestamp14"}
    if "host" in kind.fields:
        available |= {"shost", "lastshost"}
    sample = WarcName("", "", **{field: "20260102030405" if field == "timestamp" else "1" for field in kind.fields})
    item_name(sample, sample, compact=False, template=template)
    for _, field, _, _ in string.Formatter().parse(template):
        if field is not None and field not in available:
            known = ", ".join(sorted(available))
            raise Fault(FaultKind.CONFIG, f"item_naming {template!r}", f"no {{{field}}} in WARC_naming; known: {known}")


def is_identifier(item: str) -> bool:
    """Whether an archive takes this as an identifier."""
    return _IDENTIFIER.fullmatch(item) is not None


def check_identifier(item: str) -> None:
    """Refuse what no archive takes as an identifier. Faults: CONFIG."""
    if not is_identifier(item):
        rule = "an identifier has 3 to 100 of A-Z a-z 0-9 . _ - and starts with a letter or digit"
        raise Fault(FaultKind.CONFIG, f"item {item!r}", rule, next_command="change item_naming in the configuration")
