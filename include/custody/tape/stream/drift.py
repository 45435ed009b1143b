"""How what was archived differs from what was scanned: name by name, with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from custody.digests import Fixity, Match
from custody.tape.members import Member, MemberKind
from custody.tape.names import escape
from custody.tape.stream.compose import MANIFEST_NAME, OPENING_NAME

_SHOWN = 5
_OURS = {OPENING_NAME.encode(), MANIFEST_NAME.encode()}


@dataclass
class Drift:
    """Differences between a scan and an archive.

    :ivar changed: by name, what differs: ``size 3 -> 4 bytes``, ``content sha256 … -> …``, ``mode 0644 -> 0600`` and
        the like, first as scanned, then as archived. A content that no digest vouches for counts as changed.
    :ivar new: archived, but not scanned.
    :ivar missing: scanned, but not archived.
    """

    changed: dict[bytes, list[str]] = field(default_factory=dict)
    new: list[bytes] = field(default_factory=list)
    missing: list[bytes] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.changed or self.new or self.missing)

    def __str__(self) -> str:
        lines = list(self.lines())
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        return "; ".join(lines[:_SHOWN]) + more

    def lines(self) -> Iterator[str]:
        """One line a name, as a person reads it."""
        for name, reasons in self.changed.items():
            yield f"changed: {escape(name)}: {', '.join(reasons)}"
        for name in self.new:
            yield f"new: {escape(name)}"
        for name in self.missing:
            yield f"missing: {escape(name)}"


def compare(scanned: Iterable[Member], archived: Iterable[Member]) -> Drift:
    """Compare a scan with an archive, which is read once and not kept; the members of ours in it are left out.

    Which of several hard links comes first in either does not matter, whether they are linked does.
    """
    expected, leaders = _resolve(scanned)
    contents: dict[bytes, Member] = {}  # archived, of those that the scan knows under several names
    partners: dict[bytes, bytes] = {}  # the first name of a group in the scan, and in the archive
    drift = Drift()
    for member in archived:
        if member.name in _OURS:
            continue
        before = expected.pop(member.name, None)
        if before is None:
            drift.new.append(member.name)
            continue
        first = member.link if member.kind is MemberKind.HARDLINK else member.name
        leader = leaders.get(member.name)
        is_linked = leader is not None or member.kind is MemberKind.HARDLINK
        after = member
        if member.kind is MemberKind.HARDLINK:
            content = contents.get(member.link, member)
            after = replace(member, kind=MemberKind.FILE, size_bytes=content.size_bytes, digests=content.digests)
        elif leader is not None:
            contents[member.name] = member
        reasons = list(_differences(before, after))
        if is_linked and (leader is None or partners.setdefault(leader, first) != first):
            reasons.append("hard links")
        if reasons:
            drift.changed[member.name] = reasons
    drift.missing.extend(expected)
    return drift


def _resolve(scanned: Iterable[Member]) -> tuple[dict[bytes, Member], dict[bytes, bytes]]:
    """All members by name, hard links as the files they are; and by name the first name of those of several names."""
    expected: dict[bytes, Member] = {}
    leaders: dict[bytes, bytes] = {}
    for member in scanned:
        known = member
        if member.kind is MemberKind.HARDLINK:
            leaders[member.name] = leaders[member.link] = member.link
            if (first := expected.get(member.link)) is not None:
                known = replace(member, kind=first.kind, size_bytes=first.size_bytes, digests=first.digests)
        expected[member.name] = known
    return expected, leaders


def _differences(before: Member, after: Member) -> Iterator[str]:
    if before.kind is not after.kind:
        yield f"kind {before.kind} -> {after.kind}"
        return
    if before.kind is MemberKind.FILE:
        yield from _content_differences(before, after)
    elif before.link != after.link:
        yield f"link {escape(before.link)} -> {escape(after.link)}"
    if before.device != after.device:
        yield f"device {before.device} -> {after.device}"
    if before.mode != after.mode:
        yield f"mode {before.mode:04o} -> {after.mode:04o}"
    if (before.uid, before.gid) != (after.uid, after.gid):
        yield f"owner {before.uid}:{before.gid} -> {after.uid}:{after.gid}"
    if before.mtime_s != after.mtime_s:
        yield f"mtime {_utc(before.mtime_s)} -> {_utc(after.mtime_s)}"


def _utc(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):  # of a year that no calendar has
        return f"{seconds} s"


def _content_differences(before: Member, after: Member) -> Iterator[str]:
    match = Fixity(before.size_bytes, before.digests).compare(Fixity(after.size_bytes, after.digests))
    if before.size_bytes != after.size_bytes:
        yield f"size {before.size_bytes} -> {after.size_bytes} bytes"
    elif match is Match.DIFFERENT:
        yield "content " + _digests(before, after)
    elif match is Match.UNVERIFIED:
        yield "content unverified: no digest in common"


def _digests(before: Member, after: Member) -> str:
    """The strongest digest that both have, first as scanned, then as archived."""
    name = next(name for name in ("sha256", "sha1", "md5") if before.digests.get(name) and after.digests.get(name))
    return f"{name} {before.digests[name]} -> {after.digests[name]}"
