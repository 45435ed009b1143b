"""A node on another machine, over ssh, with nothing but a shell and coreutils over there."""

from __future__ import annotations

import shlex
import subprocess
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from custody import gate
from custody.bitarchive.names import check_name, is_name
from custody.bitarchive.nodes import ATTICDIR, FILEDIR, MIN_SPACE_AFTER, TEMPDIR, Listing, attic_name
from custody.digests import Fixity
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.host import Completed, SshHost, classify_ssh

_TIMEOUT_S = 60.0
_NO_DIRECTORY, _NO_FILE, _IN_USE = 71, 72, 73

_LIST = 'test -d "$1" || exit 71; exec find "$1" -mindepth 1 -maxdepth 1 -printf "%y %s %f\\0"'
_SIZE = 'test -d "$1" || exit 71; test -f "$2" && ! test -L "$2" || exit 72; exec stat -c %s -- "$2"'
_DIGEST = 'test -f "$1" || exit 72; stat -c %s -- "$1" && md5sum -b <"$1" && sha256sum -b <"$1"'
_TAKE = 'mkdir -p -- "$1" "$2" && umask 022 && cat >"$3" && sync -- "$3"'
_PUBLISH = 'test -e "$2" && exit 73; ln -- "$1" "$2" || exit 73; rm -f -- "$1"; sync -- "$3"'
_RETIRE = (
    'test -f "$1" || exit 72; mkdir -p -- "$3"; ln -- "$1" "$2" || exit 73; sync -- "$3" && rm -f -- "$1"; sync "$4"'
)
_IDENTITY = (
    'cd -- "$1" 2>/dev/null || cd -- "$2" || exit 71; '
    "cat /proc/sys/kernel/random/boot_id 2>/dev/null || hostname; exec stat -c %d:%i ."
)


class SshNode:
    """See :class:`~custody.bitarchive.nodes.ArchiveNode`.

    :param command: the ``custody`` program over there, for batch jobs.
    """

    def __init__(self, name: str, directory: Path, host: SshHost, command: Sequence[str] = ("custody",)) -> None:
        self.name = name
        self.directory = directory
        self.host = host
        self.command = tuple(command)

    def path(self, name: str) -> Path:
        """Where a file of this name would lie over there. Faults: CONFIG for what is no name."""
        return self.directory / FILEDIR / check_name(name)

    def list_files(self) -> Listing:
        """See :class:`~custody.bitarchive.nodes.ArchiveNode`."""
        done = self._sh(_LIST, str(self.directory / FILEDIR), timeout_s=3600)
        sizes: dict[str, int] = {}
        strangers = []
        for entry in done.stdout.split(b"\0")[:-1]:
            kind, size, name = entry.split(b" ", 2)
            text = name.decode("utf-8", "backslashreplace")
            if kind == b"f" and is_name(text):
                sizes[text] = int(size)
            else:
                strangers.append(text)
        return Listing(sizes, tuple(sorted(strangers)))

    def size_of(self, name: str) -> int | None:
        """See :class:`~custody.bitarchive.nodes.ArchiveNode`."""
        done = self._sh(_SIZE, str(self.directory / FILEDIR), str(self.path(name)), may_be_absent=True)
        return None if done.returncode else int(done.stdout)

    def digest(self, name: str) -> Fixity:
        """See :class:`~custody.bitarchive.nodes.ArchiveNode`."""
        return self._digest(self.path(name))

    def _digest(self, path: Path) -> Fixity:
        done = self._sh(_DIGEST, str(path), timeout_s=86400)
        size, md5, sha256 = (line.split()[0].decode() for line in done.stdout.splitlines())
        return Fixity(int(size), {"md5": md5, "sha256": sha256})

    def open(self, name: str, start: int = 0) -> AbstractContextManager[IO[bytes]]:
        """See :class:`~custody.bitarchive.nodes.ArchiveNode`."""
        return self.host.stream(["tail", "-c", f"+{start + 1}", "--", str(self.path(name))])

    def put(self, source: Path, name: str, expected: Fixity) -> None:
        """See :class:`~custody.bitarchive.nodes.ArchiveNode`."""
        target = self.path(name)
        if self.size_of_any(name) is not None:
            raise Fault(FaultKind.CONFLICT, self.place(name), "is there already; nothing was overwritten")
        if self.free_bytes() - expected.size_bytes < MIN_SPACE_AFTER:
            raise Fault(FaultKind.CAPACITY, self.place(name), "there is no room for it", next_command="free space")
        temporary = self.directory / TEMPDIR / f"{name[:200]}.{uuid.uuid4().hex}"
        try:
            self._send(source, [str(self.directory / TEMPDIR), str(self.directory / FILEDIR), str(temporary)])
            verdict = gate.may_record_proof(expected, self._digest(temporary))
            if not verdict.allowed:
                raise Fault(FaultKind.DATA, self.place(name), f"reads back differently: {verdict}")
            self._sh(_PUBLISH, str(temporary), str(target), str(target.parent))
        finally:
            self.host.run(["rm", "-f", "--", str(temporary)], timeout_s=_TIMEOUT_S)

    def size_of_any(self, name: str) -> int | None:
        """The size of whatever lies under this name; a directory that is not there yet holds nothing."""
        done = self.host.run(["stat", "-c", "%s", "--", str(self.path(name))], timeout_s=_TIMEOUT_S)
        return None if done.returncode else int(done.stdout)

    def retire(self, name: str) -> str:
        """See :class:`~custody.bitarchive.nodes.ArchiveNode`."""
        aside = attic_name(name)
        attic = self.directory / ATTICDIR
        self._sh(_RETIRE, str(self.path(name)), str(attic / aside), str(attic), str(self.directory / FILEDIR))
        return aside

    def free_bytes(self) -> int:
        """See :class:`~custody.bitarchive.nodes.ArchiveNode`."""
        return self.host.disk_usage(self.directory).free_bytes

    def place(self, name: str) -> str:
        """See :class:`~custody.bitarchive.nodes.ArchiveNode`."""
        return f"ssh://{self.host.name}{self.path(name)}"

    def identity(self) -> str:
        """See :class:`~custody.bitarchive.nodes.ArchiveNode`."""
        done = self._sh(_IDENTITY, str(self.directory / FILEDIR), str(self.directory))
        return " ".join(done.stdout.decode("utf-8", "replace").split())

    def _sh(
        self, script: str, *arguments: str, timeout_s: float = _TIMEOUT_S, may_be_absent: bool = False
    ) -> Completed:
        done = self.host.run(["sh", "-c", script, "custody", *arguments], timeout_s=timeout_s)
        if done.returncode == 0 or (may_be_absent and done.returncode == _NO_FILE):
            return done
        where = f"{self.host.name}:{arguments[0]}"
        if done.returncode == _NO_DIRECTORY:
            raise Fault(FaultKind.TRANSIENT, where, "is not there", next_command="mount its disk")
        if done.returncode == _NO_FILE:
            raise Fault(FaultKind.CONFIG, where, "there is no such file", next_command="check the name")
        if done.returncode == _IN_USE:
            raise Fault(FaultKind.CONFLICT, f"{self.host.name}:{arguments[1]}", "is there already")
        raise Fault(FaultKind.TRANSIENT, where, done.stderr_tail or f"ended with status {done.returncode}")

    def _send(self, source: Path, arguments: list[str]) -> None:
        command = shlex.join(["sh", "-c", _TAKE, "custody", *arguments])
        argv = [*self.host.ssh_command(), self.host.name, "--", command]
        with os_errors_as_faults(str(source)), source.open("rb") as stream:
            done = subprocess.run(argv, stdin=stream, capture_output=True, check=False)
        if done.returncode == 255:
            raise classify_ssh(self.host.name, done.stderr.decode("utf-8", "replace"))
        if done.returncode:
            complaint = done.stderr.decode("utf-8", "replace").strip()
            kind = FaultKind.CAPACITY if "No space" in complaint else FaultKind.TRANSIENT
            raise Fault(kind, f"{self.host.name}:{arguments[2]}", complaint or "could not be written")
