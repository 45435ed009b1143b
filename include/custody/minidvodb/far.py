"""All that is ever run on the machine that takes a copy.

A copy is built in ``PATH/.incoming/NAME.NUMBER`` and becomes visible as ``PATH/NAME`` by one rename. Its manifest
lies in ``PATH/.custody``. The machine needs sh, rsync, GNU coreutils and findutils, and tar for the stream. Every
command is a fixed script; names travel as its arguments or on its standard input.
"""

from __future__ import annotations

import os
import shlex
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

from custody.faults import Fault, FaultKind
from custody.host import Completed, Host
from custody.minidvodb import far_scripts as scripts
from custody.minidvodb.codes import CopyFault, FaultCode, classify_saying, from_ssh
from custody.minidvodb.far_answers import mark_of, parse_digests_of_rsync, parse_digests_of_sha256sum, parse_list
from custody.minidvodb.far_scripts import INCOMING, PRIVATE
from custody.minidvodb.manifest import TOP, Snapshot, chunks
from custody.minidvodb.ssh import SharedSshHost

COMMAND_TIMEOUT_S = 120.0
READ_FLOOR_BYTES_S = 5e6
TOOLS = ("rsync", "tar", "xxh128")
_CUT_SHORT = frozenset({11, 12})  # rsync: error in file IO, error in the protocol stream


@dataclass(frozen=True)
class Space:
    """A file system: sizes as it counts them. ``available`` is what an ordinary user may still take."""

    block_bytes: int
    total_bytes: int
    used_bytes: int
    available_bytes: int
    total_inodes: int
    free_inodes: int

    @property
    def used_pct(self) -> float:
        """Share in use as df counts it: 0 to 100."""
        whole = self.used_bytes + self.available_bytes
        return 100.0 * self.used_bytes / whole if whole else 100.0

    def as_json(self) -> dict[str, float]:
        """For the ledger."""
        return {
            "total_bytes": self.total_bytes,
            "available_bytes": self.available_bytes,
            "used_pct": round(self.used_pct, 2),
            "free_inodes": self.free_inodes,
        }


@dataclass(frozen=True)
class Look:
    """What was found over there. ``tools``: of rsync, tar and xxh128 those that are there; only a probe looks for them.

    ``target``: none, directory, link or other; ``inode`` tells which directory it is, as device:inode. ``staged`` is
    what lies in the staging directory.
    """

    machine: str
    filesystem: str
    space: Space
    tools: frozenset[str]
    target: str
    inode: str
    staged: Snapshot


@dataclass(frozen=True)
class Proof:
    """A directory over there, read whole: its fingerprint, its entries, and a digest of every file.

    ``manifest`` is the text that lies beside it, empty where there is none; nobody vouches for it.
    """

    fingerprint: str
    entries: Snapshot
    digests: dict[bytes, str]
    manifest: bytes


class Published(Enum):
    """What came of an attempt to publish."""

    RENAMED = "renamed"
    ALREADY = "already"  # it has its name: the very same directory
    TAKEN = "taken"  # something else has the name
    CHANGED = "changed"  # the staged directory is not the one that was verified
    GONE = "gone"  # it is neither staged nor published


_REFUSALS = {
    scripts.GONE: Published.GONE,
    scripts.TAKEN: Published.TAKEN,
    scripts.CHANGED: Published.CHANGED,
}
"""By the status that the script ends with."""


class Far:
    """The directory that takes databases, on its machine, for one copy.

    :param host: the machine.
    :param path: absolute; it must exist: what is not mounted is not made up on another disk.
    :param name: of the database.
    :param number: of the copy.
    :param place: the name under which people know the machine; default: its address.
    """

    def __init__(self, host: Host, path: str, name: str, number: int, *, place: str | None = None) -> None:
        self.host = host
        self.place = place or host.name
        self.path = PurePosixPath(path)
        self.name = name
        self.number = number
        self.stage = f"{name}.{number}"
        check_path(path)
        check_name(name)

    def over(self, host: Host) -> Far:
        """The same by another connection."""
        return Far(host, str(self.path), self.name, self.number, place=self.place)

    @property
    def where(self) -> str:
        """The final name, for people."""
        return f"{self.place}:{self.path / self.name}"

    @property
    def staging(self) -> PurePosixPath:
        """The directory the copy is built in."""
        return self.path / INCOMING / self.stage

    def see(self) -> Look:
        """Look only: nothing is made or changed over there. Faults: DEST_MISSING, ssh's."""
        return self._look(scripts.SEE)

    def probe(self, original: tuple[str, str] = ("", "")) -> Look:
        """Look at place, room and what is there.

        :param original: machine-id and device:inode of the database; a place inside of it is refused untouched.

        Faults: DEST_MISSING, DEST_READONLY, NO_SPACE, NO_INODES, CONFIG, ssh's.
        """
        return self._look(scripts.PROBE, *original)

    def open_staging(self) -> Look:
        """End a writer that was left over, make the staging directory, and look."""
        return self._look(scripts.OPEN)

    def _look(self, script: str, *more: str) -> Look:
        head, _, listing = self.run(script, *more).stdout.partition(b"\n.\n")
        facts = dict(line.partition("=")[::2] for line in head.decode("utf-8", "replace").splitlines())
        try:
            block, total, free, available, inodes, free_inodes = (int(word) for word in facts["space"].split())
            space = Space(block, total * block, (total - free) * block, available * block, inodes, free_inodes)
            if facts["staging"] == "link":
                raise CopyFault(FaultCode.CONFIG, f"{self.place}:{self.staging}", "is a symbolic link")
            filesystem = facts["filesystem"] if facts["filesystem"].strip("0") else facts.get("source", "")
            tools = frozenset(name for name in TOOLS if name in facts)
            return Look(
                facts["machine"], filesystem, space, tools, facts["target"], facts.get("inode", ""), parse_list(listing)
            )
        except (KeyError, ValueError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> CopyFault:
        return CopyFault(
            FaultCode.TRANSFER,
            self.where,
            f"answers what nobody understands ({error})",
            next_command="see whether the login over there prints anything (ssh HOST true)",
        )

    def end_writer(self) -> None:
        """End whatever still writes for this copy; harmless where the machine is out of reach."""
        try:
            self.run(scripts.END, timeout_s=30)
        except Fault:
            return  # the next one that writes ends it first

    def remove_staged(self, paths: Iterable[bytes]) -> None:
        """Remove entries of the staging directory, nothing outside of it."""
        names = [path for path in paths if path != TOP and not path.startswith(b"/") and b".." not in path.split(b"/")]
        if names:
            self.run(scripts.REMOVE, stdin=b"".join(chunks(b"./" + name for name in names)))

    def save_manifest(self, text: bytes, *, published: bool = False) -> None:
        """Lay the manifest down beside the data, of the staged copy or of the published one."""
        self.run(scripts.SAVE, self.name if published else self.stage, stdin=text)

    def read_manifest(self) -> bytes:
        """The manifest that lies beside the data, of the staged copy or else of the published; empty: there is none."""
        return self.run(scripts.READ).stdout

    def prove(self, size_bytes: int, algorithm: str, *, published: bool = False) -> Proof | None:
        """Read every byte of the staged or the published directory over there; None where there is no such directory.

        Faults: VERIFY where it changed meanwhile.
        """
        script = scripts.PROVE.replace("@digests@", {"xxh128": scripts.XXH128, "sha256": scripts.SHA256}[algorithm])
        directory = f"./{self.name}" if published else f"{INCOMING}/{self.stage}"
        timeout_s = COMMAND_TIMEOUT_S * 5 + size_bytes / READ_FLOOR_BYTES_S
        done = self.run(script, directory, timeout_s=timeout_s, allow=(scripts.GONE,))
        if done.returncode == scripts.GONE:
            return None
        try:
            return self._proof(done.stdout, algorithm)
        except ValueError as error:
            raise self._unreadable(error) from error

    def _proof(self, told_in_all: bytes, algorithm: str) -> Proof:
        length, _, rest = told_in_all.partition(b"\n")
        manifest, rest = rest[: int(length)], rest[int(length) :]
        listing, _, rest = rest.partition(b"\0= 0 0 0 \0\0")  # no link target can look like this
        told, _, after = rest.rpartition(b"\0")
        mark = mark_of(listing + b"\0")
        if mark != after.strip().decode():
            raise CopyFault(FaultCode.VERIFY, self.where, "changed while it was read", next_command="it is tried again")
        read = parse_digests_of_rsync if algorithm == "xxh128" else parse_digests_of_sha256sum
        return Proof(mark, parse_list(listing + b"\0"), read(told), manifest)

    def glance(self) -> str | None:
        """The fingerprint of the published copy, without reading a file; None where there is none."""
        return self.begin_glance()()

    def begin_glance(self) -> Callable[[], str | None]:
        """The same in two halves: what is returned waits for the answer, so that something else is done meanwhile."""
        wait = self._begin(scripts.GLANCE, timeout_s=3600, allow=(scripts.GONE,))

        def answer() -> str | None:
            done = wait()
            return None if done.returncode == scripts.GONE else done.stdout.decode().strip()

        return answer

    def publish(self, fingerprint: str, *, replace: bool) -> Published:
        """Let the verified copy appear under its name, if it is still the one with this fingerprint.

        :param replace: whether what has the name may be set aside.
        """
        word = "replace" if replace else "keep"
        done = self.run(scripts.PUBLISH, fingerprint, word, timeout_s=3600, allow=tuple(_REFUSALS))
        if done.returncode == 0:
            return Published.ALREADY if done.stdout.rstrip().endswith(b"already") else Published.RENAMED
        return _REFUSALS[done.returncode]

    def taken(self) -> CopyFault:
        """The fault of something else under the final name."""
        return CopyFault(
            FaultCode.VERIFY,
            self.where,
            "something else is there under its name, and is not written over",
            kind=FaultKind.NEEDS_HUMAN,
            next_command=f"look at it; move it away and revert, or set it aside by custody minidvodb revert --copy "
            f"{self.number} --replace",
        )

    def clear(self) -> None:
        """Remove the staging directory and all that belongs to it."""
        self.run(scripts.CLEAR, timeout_s=3600)

    def writer(self, argv: list[str]) -> list[str]:
        """The argument vector over there of a program that writes; it runs in the staging directory."""
        arguments = ["custody", str(self.path), self.name, self.stage]
        return ["sh", "-c", scripts.C_LOCALE + scripts.WRITER, *arguments, *argv]

    def writer_line(self, argv: list[str]) -> str:
        """The same for rsync, which hands it to the login shell over there: on one line, for csh has no others."""
        _, _, script, _, *arguments = self.writer(argv)
        plain = set(b' -./=_"$' + string.ascii_letters.encode() + string.digits.encode())
        encoded = "".join(chr(sign) if sign in plain else f"\\0{sign:03o}" for sign in script.encode())
        return shlex.join(["sh", "-c", 'eval "$(printf %b "$0")"', encoded, *arguments])

    def run(
        self,
        script: str,
        *more: str,
        stdin: bytes = b"",
        timeout_s: float = COMMAND_TIMEOUT_S,
        allow: tuple[int, ...] = (),
    ) -> Completed:
        """Run one of our scripts. Faults: what its end means, but for the statuses that are allowed; ssh's."""
        try:
            done = self.host.run(self._argv(script, more), stdin=stdin, timeout_s=timeout_s)
        except Fault as fault:
            raise from_ssh(fault) from fault
        return self._checked(done, allow)

    def _begin(
        self, script: str, *more: str, timeout_s: float = COMMAND_TIMEOUT_S, allow: tuple[int, ...] = ()
    ) -> Callable[[], Completed]:
        """Start a script, and come back for its end; where that cannot be, it is run when it is asked for."""
        if not isinstance(self.host, SharedSshHost):
            return lambda: self.run(script, *more, timeout_s=timeout_s, allow=allow)
        try:
            end = self.host.start(self._argv(script, more), timeout_s=timeout_s)
        except Fault as fault:
            raise from_ssh(fault) from fault

        def answer() -> Completed:
            try:
                return self._checked(end(), allow)
            except Fault as fault:
                raise from_ssh(fault) from fault

        return answer

    def _argv(self, script: str, more: Sequence[str]) -> list[str]:
        return ["sh", "-c", scripts.C_LOCALE + script, "custody", str(self.path), self.name, self.stage, *more]

    def _checked(self, done: Completed, allow: tuple[int, ...]) -> Completed:
        if done.returncode == 0 or done.returncode in allow:
            return done
        raise self.fault_of(done.returncode, done.stderr_tail)

    def fault_of(self, status: int, text: str) -> CopyFault:
        """What the end of one of our scripts means."""
        subject = f"{self.place}:{self.path}"
        revert = f"custody minidvodb revert --copy {self.number}"
        if status == scripts.MISSING:
            said = (text.strip().splitlines() or ["no such directory"])[-1]
            return CopyFault(
                FaultCode.DEST_MISSING,
                subject,
                f"is not to be reached ({said})",
                next_command=f"mount its disk or make the directory on {self.place}, then {revert}",
                exit_status=status,
                stderr_tail=text,
            )
        if status == scripts.FOREIGN:
            return CopyFault(
                FaultCode.CONFIG,
                subject,
                f"{INCOMING} or {PRIVATE} there is a symbolic link, somebody else's or on another disk",
                next_command=f"look at it and remove it, then {revert}",
                exit_status=status,
                stderr_tail=text,
            )
        if status == scripts.INSIDE:
            return CopyFault(
                FaultCode.CONFIG,
                subject,
                "lies inside of the database itself; nothing was made there",
                next_command=f"custody minidvodb update --copy {self.number} --set-path OTHER, then {revert}",
            )
        fault = classify_saying(subject, text, exit_status=status)
        return self.sharpen(fault)

    def sharpen(self, fault: CopyFault) -> CopyFault:
        """Tell no space from no inodes, which programs do not."""
        if fault.code is not FaultCode.NO_SPACE:
            return fault
        try:
            script = 'stat -f -c "%c %d" -- "$1"'
            done = self.host.run(["sh", "-c", script, "custody", str(self.path)], timeout_s=30)
            inodes, free = (int(word) for word in done.stdout.split())
        except (Fault, ValueError):
            return fault
        if inodes and not free:
            return CopyFault(
                FaultCode.NO_INODES,
                fault.subject,
                "has no inodes left",
                next_command="remove files there; it is tried again",
                exit_status=fault.exit_status,
                stderr_tail=fault.stderr_tail,
            )
        return fault

    def blame_room(self, fault: CopyFault, size_bytes: int) -> CopyFault:
        """Look whether the disk is full where a receiver was cut short: what it says of it can get lost on the way."""
        if fault.code is not FaultCode.TRANSFER or fault.exit_status not in _CUT_SHORT:
            return fault
        try:
            usage = self.host.disk_usage(Path(self.path))
        except Fault:
            return fault
        if usage.free_bytes >= min(size_bytes, 1 << 20) and (usage.free_inodes or not usage.total_inodes):
            return fault
        full = CopyFault(
            FaultCode.NO_SPACE,
            fault.subject,
            f"the disk is full ({usage.free_bytes} bytes free)",
            next_command="free space there; it is tried again",
            exit_status=fault.exit_status,
            stderr_tail=fault.stderr_tail,
        )
        return self.sharpen(full)


def check_path(path: str) -> None:
    """A directory for databases is absolute, and is not the whole machine. Faults: CONFIG."""
    parts = PurePosixPath(path).parts
    if not path.startswith("/") or ".." in parts or "\0" in path:
        raise CopyFault(FaultCode.CONFIG, f"path {path!r}", "is no absolute path")
    if len(parts) == 1:
        raise CopyFault(FaultCode.CONFIG, f"path {path!r}", "is the root of the machine, no directory for databases")


def check_name(name: str) -> None:
    """A database's name is one path component that is not ours. Faults: CONFIG."""
    ours = {INCOMING, PRIVATE, ".", "..", ""}
    if name in ours or "/" in name or "\0" in name or len(os.fsencode(name)) > 200:
        raise CopyFault(FaultCode.CONFIG, f"minidvodb {name!r}", "cannot be the name of a directory over there")
