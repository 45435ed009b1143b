"""What one tape file is: read once, and held against its own manifest."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from custody.digests import Fixity, Match, read_file
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.tape.close import CATALOG_MEMBER
from custody.tape.content import Content, Facts, Verdict
from custody.tape.drives import Drive
from custody.tape.label import Label
from custody.tape.members import Member, MemberKind
from custody.tape.names import escape, unescape
from custody.tape.records import without_ours
from custody.tape.stream.compose import OPENING_FORMAT
from custody.tape.stream.read import Read, read_tape_file
from custody.tape.stream.spool import ManifestSpool

_LONGEST_SOURCE = 191


@dataclass(frozen=True)
class ReadFile:
    """How a tape file is to be read, and where notes are taken meanwhile."""

    drive: Drive
    number: int
    block_bytes: int
    digests: Sequence[str]
    directory: Path
    progress: Callable[[int], None] | None
    stop: threading.Event | None

    @property
    def subject(self) -> str:
        """For faults."""
        return f"{self.drive.name}, file {self.number}"


class _ToFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def write_at(self, offset_bytes: int, piece: memoryview) -> None:
        """See ContentSink."""
        with os_errors_as_faults(str(self._path)), self._path.open("r+b" if self._path.exists() else "w+b") as stream:
            stream.seek(offset_bytes)
            stream.write(piece)


def examine(place: ReadFile, label: Label | None, tape_label: str) -> Content | None:
    """Read the tape file at the head and say what it is; None where nothing is recorded any more.

    Faults: those of the drive but for read errors, CANCELLED when a stop is asked for.
    """
    catalog = place.directory / "catalog.jsonl"
    with ManifestSpool.create(place.directory / "found") as found:
        try:
            read = read_tape_file(
                place.drive,
                found.add,
                limit_bytes=None,
                block_bytes=place.block_bytes,
                algorithms=sorted({*place.digests, "md5", "sha256"}),
                manifest_path=place.directory / "manifest.jsonl",
                sink_for=lambda member: _ToFile(catalog) if member.name == CATALOG_MEMBER.encode() else None,
                subject=place.subject,
                progress=place.progress,
                stop=place.stop,
            )
        except Fault as fault:
            if fault.kind is not FaultKind.DATA:
                raise
            return Content(Verdict.DAMAGED, fault.reason)
    if not read.size_bytes and not read.ended_at_filemark:
        return None
    base = Content(Verdict.NEW, read=read, members=read.members, size_bytes=read.size_bytes)
    opening = _opening(read)
    base = replace(base, opening=opening)
    if not read.size_bytes:
        return replace(base, verdict=Verdict.UNKNOWN, reason="is empty")
    if read.damage:
        return _damaged(base, read, opening)
    if not read.ended_at_filemark:
        return replace(base, verdict=Verdict.UNFINISHED, reason="has no filemark behind it")
    if catalog.exists():
        return _catalog(base, catalog)
    if opening is None:
        return _without_opening(base, found, label)
    return _with_opening(base, place, found, opening, label)


def _opening(read: Read) -> dict[str, Any] | None:
    try:
        facts = json.loads(read.opening) if read.opening else None
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None


def _damaged(base: Content, read: Read, opening: dict[str, Any] | None) -> Content:
    assert read.damage is not None
    is_cut = read.damage.reason.startswith("ends ") and opening is not None
    facts = None
    if opening is not None:
        try:
            facts = _facts(opening)
        except ValueError:
            is_cut = False
    verdict = Verdict.UNFINISHED if is_cut else Verdict.DAMAGED
    return replace(base, verdict=verdict, reason=read.damage.reason, facts=facts)


def _catalog(base: Content, path: Path) -> Content:
    targets: dict[int, str] = {}
    try:
        with path.open("rb") as stream:
            for line in map(json.loads, stream):
                if "target" in line:
                    targets[int(line["file_number"])] = str(line["target"])
    except (ValueError, KeyError, TypeError) as error:
        return replace(base, verdict=Verdict.DAMAGED, reason=f"the catalogue on the tape cannot be read ({error!r})")
    return replace(base, verdict=Verdict.CATALOG, reason=f"names {len(targets)} targets", targets=targets)


def _without_opening(base: Content, found: ManifestSpool, label: Label | None) -> Content:
    """An archive of another program: on a tape of the old system, a target; on ours, something strange."""
    first = next(iter(found), None)
    if label is not None or first is None:
        holds = f"begins with {escape(first.name)}" if first else "holds nothing"
        return replace(base, verdict=Verdict.UNKNOWN, reason=f"is no tape file of Custody's: it {holds}")
    below = first.name + b"/"
    strange = next((one.name for one in found if one.name != first.name and not one.name.startswith(below)), None)
    if strange is not None:
        reason = f"holds more than one tree: {escape(first.name)} and {escape(strange)}"
        return replace(base, verdict=Verdict.UNKNOWN, reason=reason)
    facts = Facts("", "/" + escape(first.name), (), None)
    return replace(base, facts=facts, manifest=found)


def _with_opening(
    base: Content, place: ReadFile, found: ManifestSpool, opening: dict[str, Any], label: Label | None
) -> Content:
    version = opening.get("format")
    if isinstance(version, int) and version > OPENING_FORMAT:
        return replace(base, verdict=Verdict.UNKNOWN, reason="was written by a later Custody: update this one")
    try:
        facts = _facts(opening)
    except ValueError as error:
        return replace(base, verdict=Verdict.DAMAGED, reason=f"its first member cannot be understood ({error})")
    base = replace(base, facts=facts)
    tape = opening.get("tape")
    if label is None or not isinstance(tape, dict) or tape.get("uuid") != label.uuid:
        reason = f"was written to another tape: {tape.get('name') if isinstance(tape, dict) else tape}"
        return replace(base, verdict=Verdict.UNKNOWN, reason=reason)
    if opening.get("file_number") != place.number:
        return replace(base, verdict=Verdict.UNKNOWN, reason=f"was written as file {opening.get('file_number')}")
    assert base.read is not None
    manifest = base.read.manifest
    if manifest is None:
        return replace(base, verdict=Verdict.DAMAGED, reason="its manifest is not on the tape")
    try:
        complaints = tuple(_differences(without_ours(found), without_ours(manifest)))
        digest = read_file(manifest.path, ["sha256"]).fixity.digests["sha256"]
    except Fault as fault:
        if fault.kind is not FaultKind.DATA:
            raise
        return replace(base, verdict=Verdict.DAMAGED, reason=f"its manifest: {fault.reason}")
    base = replace(base, manifest=manifest, facts=replace(facts, manifest_sha256=digest), complaints=complaints)
    if not complaints:
        return base
    more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
    return replace(base, verdict=Verdict.DAMAGED, reason=complaints[0] + more)


def _facts(opening: dict[str, Any]) -> Facts:
    """What the opening member says; ValueError where it makes no sense."""
    source, target, excludes = opening.get("source"), opening.get("target"), opening.get("excludes", [])
    if not isinstance(target, str) or not unescape(target).startswith(b"/"):
        raise ValueError(f"target {target!r}")
    if not isinstance(source, str) or not 0 < len(source) <= _LONGEST_SOURCE:
        raise ValueError(f"source {source!r}")
    if not isinstance(excludes, list) or not all(isinstance(one, str) for one in excludes):
        raise ValueError(f"excludes {excludes!r}")
    return Facts(source, target, tuple(excludes), None)


def _differences(found: Iterable[Member], written: Iterable[Member]) -> Iterator[str]:
    """How the members that were read differ from the manifest, a line each."""
    for one, other in zip_longest(found, written):
        if one is None or other is None:
            name = (one or other).name
            yield f"{escape(name)} is {'on the tape and not in' if one else 'not on the tape, but in'} its manifest"
        elif replace(one, digests={}) != replace(other, digests={}):
            yield f"{escape(other.name)} is not as its manifest says"
        elif one.kind is MemberKind.FILE:
            match = Fixity(one.size_bytes, one.digests).compare(Fixity(other.size_bytes, other.digests))
            if match is not Match.EQUAL:
                yield f"{escape(other.name)}: its content is {match.value} against its manifest"
