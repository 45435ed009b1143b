r"""The manifest: members written down as they pass, a line each, and read back in their order.

A line is a JSON object in UTF-8. Names and link texts, which are bytes, are written as GNU tar lists them
(:mod:`custody.tape.names`): ``\n``, ``\\``, and ``\ooo`` for what is no printable UTF-8; nothing is lost by it.
``mode`` is octal text. What is 0, empty or unknown is left out. The same lines are the manifest on the tape.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.tape.members import Member, MemberKind
from custody.tape.names import escape, unescape

_BUFFER_BYTES = 1 << 20
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def to_line(member: Member) -> bytes:
    """One member as one line, with its newline."""
    facts: dict[str, Any] = {"name": escape(member.name), "kind": member.kind.value}
    if member.size_bytes or member.kind is MemberKind.FILE:
        facts["size_bytes"] = member.size_bytes
    facts["mode"] = f"{member.mode:04o}"
    facts["uid"] = member.uid
    facts["gid"] = member.gid
    facts["mtime_s"] = member.mtime_s
    if member.link:
        facts["link"] = escape(member.link)
    if member.device is not None:
        facts["device"] = member.device
    if member.is_sparse:
        facts["is_sparse"] = True
    if member.offset_bytes >= 0:
        facts["offset_bytes"] = member.offset_bytes
    if member.digests:
        facts["digests"] = member.digests
    return _encode(facts).encode() + b"\n"


def from_line(line: bytes) -> Member:
    """The member that a line was made from. ValueError, KeyError or TypeError where it is no such line."""
    facts = json.loads(line)
    if not isinstance(facts, dict):
        raise ValueError("is no object")
    device = facts.get("device")
    return Member(
        unescape(facts["name"]),
        MemberKind(facts["kind"]),
        int(facts.get("size_bytes", 0)),
        int(facts["mode"], 8),
        int(facts["uid"]),
        int(facts["gid"]),
        int(facts["mtime_s"]),
        unescape(facts.get("link", "")),
        (int(device[0]), int(device[1])) if device is not None else None,
        bool(facts.get("is_sparse", False)),
        int(facts.get("offset_bytes", -1)),
        dict(facts.get("digests", {})),
    )


class ManifestSpool:
    """A manifest in a file: written once, then read as often as wanted. Memory stays flat.

    Faults: CAPACITY on a full disk and the like as the operating system has them, DATA for a line that is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members = 0
        self._stream: IO[bytes] | None = None

    @classmethod
    def create(cls, path: Path) -> Self:
        """Begin an empty one."""
        spool = cls(path)
        with os_errors_as_faults(str(path)):
            spool._stream = path.open("wb", buffering=_BUFFER_BYTES)
        return spool

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Fault:
            if error is None:
                raise

    def add(self, member: Member) -> None:
        """Write the next member down."""
        assert self._stream is not None
        try:
            self._stream.write(to_line(member))
        except OSError:
            with os_errors_as_faults(str(self.path)):
                raise
        self.members += 1

    def close(self) -> None:
        """Bring everything to the file."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with os_errors_as_faults(str(self.path)):
                stream.close()

    def __iter__(self) -> Iterator[Member]:
        """The members in their order."""
        if self._stream is not None:
            with os_errors_as_faults(str(self.path)):
                self._stream.flush()
        with os_errors_as_faults(str(self.path)):
            stream = self.path.open("rb", buffering=_BUFFER_BYTES)
        with stream:
            for number, line in enumerate(stream, 1):
                try:
                    member = from_line(line)
                except (ValueError, KeyError, TypeError, IndexError) as error:
                    reason = f"line {number} is no line of a manifest ({error})"
                    raise Fault(FaultKind.DATA, str(self.path), reason) from error
                yield member
