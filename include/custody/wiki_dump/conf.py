"""Reading ``wikidump.conf``: strictly, with per-wiki sections and an override section.

Look-up of a key a wiki may have its own value of: ``[dbname]``, then the override section (``path:section``), then the
key's own section. A key or section nobody knows is an error that names the nearest known one.
"""

from __future__ import annotations

import configparser
import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from custody.faults import Fault, FaultKind
from custody.wiki_dump.settings import Settings, by_section

SECTIONS = by_section()
_FIELDS = {each.name: each for each in fields(Settings)}
_BY_KEY = {key: name for keys in SECTIONS.values() for key, name in keys.items()}
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off", ""}
DB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Conf:
    """A read and checked ``wikidump.conf``: for :meth:`of` a wiki its settings."""

    path: Path
    override: str | None
    sections: Mapping[str, Mapping[str, str]]

    def of(self, wiki: str | None = None) -> Settings:
        """The settings of one wiki, or the common ones. Faults: CONFIG."""
        values: dict[str, Any] = {}
        for name, each in _FIELDS.items():
            text = self._text(name, each.metadata["section"], wiki if each.metadata.get("star") else None)
            if text is not None:
                values[name] = self.value(name, text)
        settings = Settings(**values)
        _check(settings, self.path)
        return settings

    def _text(self, name: str, section: str, wiki: str | None) -> str | None:
        key = name.lower()
        for place in (wiki, self.override, section):
            if place is not None and key in self.sections.get(place, {}):
                return self.sections[place][key].strip()
        return None

    def value(self, name: str, text: str) -> Any:
        """A value out of its text. Faults: CONFIG."""
        each = _FIELDS[name]
        try:
            return _parse(text, each.default, each.metadata["kind"])
        except ValueError as error:
            shown = "" if each.metadata["kind"] == "secret" else f" {text!r}"
            subject = f"{self.path}: {each.metadata['section']}.{name}"
            raise Fault(FaultKind.CONFIG, subject, f"its value{shown} {error}") from error


def load(path: Path, override: str | None = None) -> Conf:
    """Read a file. Faults: CONFIG, for whatever is not as it should be, before anything is touched."""
    parser = configparser.RawConfigParser(strict=True, default_section="\0none", empty_lines_in_values=False)
    try:
        parser.read_string(path.read_text("utf-8-sig"), str(path))
    except OSError as error:
        raise Fault(FaultKind.CONFIG, str(path), f"cannot be read ({error.strerror})") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        raise Fault(FaultKind.CONFIG, str(path), " ".join(str(error).split())) from error
    sections = {name: dict(parser.items(name)) for name in parser.sections()}
    if override is not None and override not in sections:
        raise Fault(FaultKind.CONFIG, str(path), f"has no section [{override}]")
    for name, content in sections.items():
        _check_section(path, name, content)
    conf = Conf(path, override, sections)
    for content in sections.values():
        for key, text in content.items():
            conf.value(_BY_KEY[key], text.strip())
    conf.of()
    for name in sections:
        if name not in SECTIONS:
            conf.of(name)  # a bad value is found now, not when that wiki's turn comes
    return conf


def parse_place(text: str) -> tuple[Path, str | None]:
    """``path`` or ``path:section``."""
    path, colon, section = text.rpartition(":")
    return (Path(path), section) if colon and path and "/" not in section else (Path(text), None)


def digest_of(frozen: Mapping[str, Any]) -> str:
    """The sha256 by which a frozen configuration is told from another."""
    return hashlib.sha256(json.dumps(frozen, sort_keys=True).encode()).hexdigest()


def _check_section(path: Path, name: str, content: Mapping[str, str]) -> None:
    known = SECTIONS.get(name)
    if known is None:
        if not DB_NAME.fullmatch(name):
            raise Fault(FaultKind.CONFIG, f"{path}: [{name}]", f"is no section and no db name{_near(name, SECTIONS)}")
        if near := difflib.get_close_matches(name, SECTIONS, n=1, cutoff=0.8):
            raise Fault(FaultKind.CONFIG, f"{path}: [{name}]", f"is no section; did you mean [{near[0]}]?")
    for key in content:
        if known is not None and key not in known:
            hint = _near(key, known)
            if key in _BY_KEY:
                hint = f"; it belongs to [{_FIELDS[_BY_KEY[key]].metadata['section']}]"
            raise Fault(FaultKind.CONFIG, f"{path}: {name}.{key}", f"is not known{hint}")
        if known is None and key not in _BY_KEY:
            raise Fault(FaultKind.CONFIG, f"{path}: {name}.{key}", f"is not known{_near(key, _BY_KEY)}")


def _near(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _parse(text: str, default: Any, kind: str) -> Any:
    if kind == "octal":
        return _octal(text)
    if kind == "ints":
        return tuple(count for part in text.split(",") if part.strip() for count in (_number(part),) if count)
    if kind == "tool":
        return _tool(text)
    if isinstance(default, bool):
        return _switch(text)
    if isinstance(default, int):
        return _number(text)
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if "\0" in text or "\n" in text:
        raise ValueError("is more than one line")
    return text


def _octal(text: str) -> int:
    if not re.fullmatch(r"(0o?)?[0-7]{3}", text):
        raise ValueError("is no mode like 0o640")
    return int(text.removeprefix("0o"), 8)


def _tool(text: str) -> str:
    if text and (not text.startswith("/") or text.endswith(",") or "\0" in text):
        raise ValueError("is no absolute path")  # upstream's own defaults once held `/bin/php,`
    return text


def _switch(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("is neither 0 nor 1")


def _number(text: str) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,18}\s*", text):
        raise ValueError("is no whole number from 0 on")
    return int(text)


def _check(settings: Settings, path: Path) -> None:
    """What must hold between keys."""
    trees = {name: Path(getattr(settings, name)) for name in ("public", "private", "temp")}
    for name, tree in trees.items():
        if not tree.is_absolute():
            raise Fault(FaultKind.CONFIG, f"{path}: output.{name}", f"{str(tree)!r} is no absolute path")
    real = {name: tree.resolve() for name, tree in trees.items()}
    for one, other in (("private", "public"), ("temp", "public"), ("temp", "private")):
        if real[one] == real[other] or real[other] in real[one].parents or real[one] in real[other].parents:
            raise Fault(FaultKind.CONFIG, f"{path}: output.{one}", f"lies within output.{other} or around it")
    _check_numbers(settings, path)


def _check_numbers(settings: Settings, path: Path) -> None:
    if settings.keep < 1:
        raise Fault(FaultKind.CONFIG, f"{path}: cleanup.keep", "is below 1: the last good dump is never let go")
    if settings.revsPerJob < 1 or settings.maxrevbytes < 1 or settings.maxrevs < 1:
        raise Fault(FaultKind.CONFIG, f"{path}: chunks", "revsPerJob, maxrevbytes and stubs.maxrevs are at least 1")
    if not settings.fileperms & 0o400:
        raise Fault(FaultKind.CONFIG, f"{path}: output.fileperms", "would leave files that we cannot read back")
    if settings.chunksEnabled and not settings.pagesPerChunkHistory and not settings.checkpointTime:
        reason = "is on, but neither pagesPerChunkHistory nor checkpointTime says how to divide"
        raise Fault(FaultKind.CONFIG, f"{path}: chunks.chunksEnabled", reason)
    for pair in settings.jobsperbatch:
        if not re.fullmatch(r"[a-z0-9]+=[1-9][0-9]*", pair):
            raise Fault(FaultKind.CONFIG, f"{path}: chunks.jobsperbatch", f"{pair!r} is not job=number, from 1 on")
