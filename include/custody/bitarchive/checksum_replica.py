"""A replica that keeps checksums only: a text file of lines ``name##md5``; lines are added and never changed."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from custody.bitarchive.config import Replica
from custody.bitarchive.names import check_name
from custody.bitarchive.signatures import Signatures, write_all
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.ledger.store import disk_place
from custody.publish import fsync_directory

_LINE = re.compile(r"(\S+)##([0-9a-f]{32})")


@dataclass(frozen=True)
class Checksums:
    """What is in the file: md5 by name, and what was torn off at its end."""

    md5: dict[str, str]
    torn: str = ""


class ChecksumReplica:
    """See the module.

    :param path: the file; made where it is not there yet.
    :param signing_key: its lines are signed with it, in ``FILE.sig``; None: they are not.
    """

    def __init__(self, path: Path, signing_key: Path | None = None) -> None:
        self.path = path
        self._signatures = Signatures(path, signing_key) if signing_key else None

    @classmethod
    def of(cls, replica: Replica) -> ChecksumReplica:
        """That of a configured replica. Faults: CONFIG where its key cannot be read."""
        assert replica.file is not None
        return cls(replica.file, replica.signing_key)

    def read(self) -> Checksums:
        """Every checksum. Faults: DATA where one name has two, or a line is unsigned; CONFIG where there is no file."""
        with os_errors_as_faults(str(self.path)):
            content = self.path.read_bytes()
        return self._checked(content)

    def _checked(self, content: bytes) -> Checksums:
        if self._signatures:
            self._signatures.check(content)
        return self._parse(content.decode("utf-8", "backslashreplace"))

    def sign(self, md5_of: Callable[[str], str | None]) -> int:
        """Sign the list as it stands, if every line agrees with the catalogue; returns how many lines there are.

        Faults: CONFIG where it has no key, DATA where a line is not that of the catalogue.
        """
        if self._signatures is None:
            raise Fault(FaultKind.CONFIG, str(self.path), "has no signing_key", next_command="set it in the replica")
        with os_errors_as_faults(str(self.path)), self._alone():
            content = self.path.read_bytes()
            found = self._parse(content.decode("utf-8", "backslashreplace"))
            for name, md5 in found.md5.items():
                if md5_of(name) != md5:
                    reason = f"says that the md5 of {name} is {md5}, and the catalogue does not; nothing was signed"
                    raise Fault(FaultKind.DATA, str(self.path), reason, next_command="take the line out by hand")
            self._signatures.sign(content)
        return len(found.md5)

    def _parse(self, text: str) -> Checksums:
        found: dict[str, str] = {}
        torn = ""
        lines = text.split("\n")
        for number, line in enumerate(lines, 1):
            match = _LINE.fullmatch(line.removesuffix("\r"))
            if not match:
                if number < len(lines):
                    reason = f"line {number} is no NAME##MD5; nothing is read from such a list"
                    raise Fault(FaultKind.DATA, str(self.path), reason, next_command=f"look at line {number} by hand")
                torn = line[:200]  # what a power cut left of a line: that put was never answered
            elif found.setdefault(match[1], match[2]) != match[2]:
                reason = f"has two checksums for {match[1]}"
                raise Fault(FaultKind.DATA, str(self.path), reason, next_command="look at both lines by hand")
        return Checksums(found, torn)

    def put(self, name: str, md5: str) -> None:
        """Add a checksum, durably; the same again is done already. Faults: CONFLICT where the name has another."""
        check_name(name)
        with os_errors_as_faults(str(self.path)), self._alone() as descriptor:
            content = self.path.read_bytes()
            found = self._checked(content)
            known = found.md5.get(name)
            if known == md5:
                return
            if known is not None:
                raise Fault(FaultKind.CONFLICT, f"{self.path}: {name}", f"is on record with md5 {known}, not {md5}")
            line = f"{name}##{md5}\n".encode()
            if found.torn:
                content = content[: content.rfind(b"\n") + 1]
                os.ftruncate(descriptor, len(content))
            elif content and not content.endswith(b"\n"):
                line = b"\n" + line
            if self._signatures:
                self._signatures.sign(content + line)
            write_all(descriptor, line)
            os.fsync(descriptor)

    @contextmanager
    def _alone(self) -> Iterator[int]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
            fsync_directory(self.path.parent)
        finally:
            os.close(descriptor)

    def place(self, name: str) -> str:
        """Where a checksum is, as the ledger names places."""
        return f"{disk_place(self.path)}#{name}"
