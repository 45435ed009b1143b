"""What a target holds before it is archived: every member with its digest, by one command on the machine that has it.

The command is a shell script that needs find, sort, cut, xargs, stat and sha256sum or md5sum of GNU, and gets all names
as arguments. Files of several names come first, so that each is read once; then everything, in portions: what the file
system says, the digests, and what it says afterwards, by which a file that changed meanwhile is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from custody.faults import Fault, FaultKind
from custody.host import Host, classify_ssh
from custody.tape.members import Member, MemberKind
from custody.tape.names import escape
from custody.tape.stream.source import CLEAN_ENVIRONMENT, STATUS, name_in_archive

_PIECE_BYTES = 1 << 18
_PROGRAMS = {"sha256": "sha256sum", "md5": "md5sum"}
_FACTS = "%y %s %m %U %G %T@ %C@ %D:%i %n %b"
_STATE = r"A%s %T@ %C@ %D:%i\0%p\0"
_LINKED = rf"""program=$1; shift
find "$@" -maxdepth 0 -printf 'L{_FACTS}\0%p\0\0'
"$program" -z -b -- "$@"
find "$@" -maxdepth 0 -printf '{_STATE}'
printf 'E\0'"""
_PORTION = rf"""program=$1; shift
find "$@" -maxdepth 0 -printf 'M{_FACTS}\0%p\0%l\0' || failed=1
find "$@" -maxdepth 0 -type f -links 1 -print0 | xargs -0 -r "$program" -z -b -- || failed=1
find "$@" -maxdepth 0 '(' -type b -o -type c ')' -print0 | xargs -0 -r stat --printf='D%t %T\0%n\0' --
find "$@" -maxdepth 0 -type f -printf '{_STATE}' || failed=1
printf 'E\0'
exit ${{failed:-0}}"""
_SCRIPT = r"""program=$1 target=$2 linked=$3 portion=$4; shift 4
command -v "$program" >/dev/null || exit 127
find "$target" "$@" -type f -links +1 -printf '%D:%i %p\0' | sort -z -u -t ' ' -k 1,1 | cut -z -d ' ' -f 2- |
xargs -0 -r sh -c "$linked" custody "$program"
find "$target" "$@" -exec sh -c "$portion" custody "$program" {} +"""
_KINDS = {
    b"f": MemberKind.FILE,
    b"d": MemberKind.DIRECTORY,
    b"l": MemberKind.SYMLINK,
    b"p": MemberKind.FIFO,
    b"c": MemberKind.CHARACTER,
    b"b": MemberKind.BLOCK,
}
_GLOB = str.maketrans({sign: f"\\{sign}" for sign in "\\*?["})
_NAMED_AT_MOST = 5


@dataclass(frozen=True)
class Problem:
    """A file of which no digest could be made that is worth something."""

    name: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class _Found:
    """One member as find printed it. ``state`` is what must not change while it is read."""

    kind: bytes
    state: tuple[bytes, ...]  # size, mtime, ctime, device and inode
    mode: bytes
    uid: bytes
    gid: bytes
    links: bytes
    blocks: bytes
    link: bytes


class Scan:
    """The members of a target: iterate it, once, to the end.

    :param excluded: absolute paths below the target that are left out, with all they hold.
    :param algorithm: sha256 or md5.
    :ivar problems: files that could not be read or changed meanwhile; their members come without digests.

    Members come in the order of the directories, streaming; sockets, which no archive holds, are left out. Memory grows
    with the number of files of several names only. At the end of the iteration problems are a DATA fault that names
    the first of them; other faults as :class:`~custody.tape.stream.source.TarSource` has them.
    """

    def __init__(self, host: Host, target: bytes, excluded: Sequence[bytes] = (), *, algorithm: str = "sha256") -> None:
        if algorithm not in _PROGRAMS:
            raise Fault(FaultKind.CONFIG, algorithm, "is no digest of a scan: sha256 or md5")
        self.problems: list[Problem] = []
        self._host = host
        self._path = b"/" + name_in_archive(target)
        self._excluded = [b"/" + name_in_archive(child) for child in excluded]
        self._algorithm = algorithm
        self._first_names: dict[bytes, bytes] = {}
        self._linked: dict[bytes, tuple[tuple[bytes, ...], str]] = {}
        self._any = False

    @property
    def _subject(self) -> str:
        return f"{self._host.name}:{escape(self._path)}"

    def argv(self) -> list[str]:
        """The argument vector of the one command."""
        argv = [*CLEAN_ENVIRONMENT, "sh", "-c", _SCRIPT, "custody", _PROGRAMS[self._algorithm]]
        argv += [self._path.decode("utf-8", "surrogateescape"), _LINKED, _PORTION]
        for child in self._excluded:
            argv += ["-path", child.decode("utf-8", "surrogateescape").translate(_GLOB), "-prune", "-o"]
        return argv

    def __iter__(self) -> Iterator[Member]:
        """See the class."""
        try:
            with self._host.stream(self.argv()) as stream:
                yield from self._members(_fields(stream))
        except Fault as fault:
            raise self._classify(fault) from fault
        if self.problems:
            raise self._problem_fault("")

    def _members(self, fields: Iterator[bytes]) -> Iterator[Member]:
        portion = _Portion()
        for field in fields:
            mark = field[:1]
            if mark == b"E":
                yield from self._close(portion)
                portion = _Portion()
            elif mark in {b"M", b"L"}:
                portion.is_linked = mark == b"L"
                portion.add(field[1:], next(fields, b""), next(fields, b""))
            elif mark == b"A":
                portion.after[next(fields, b"")] = tuple(field[1:].split(b" "))
            elif mark == b"D":
                major, minor = (int(word, 16) for word in field[1:].split(b" "))
                portion.devices[next(fields, b"")] = (major, minor)
            else:
                digest, _, name = field.partition(b" *")
                portion.digests[name] = digest.decode()

    def _close(self, portion: _Portion) -> Iterator[Member]:
        for path, found in portion.found.items():
            if portion.is_linked:
                if portion.after.get(path) == found.state and path in portion.digests:
                    self._linked[found.state[3]] = (found.state, portion.digests[path])
            elif found.kind in _KINDS:
                self._any = True
                yield self._member(path, found, portion)

    def _member(self, path: bytes, found: _Found, portion: _Portion) -> Member:
        kind, name, link, digests = _KINDS[found.kind], path.lstrip(b"/"), found.link, {}
        size_bytes = 0
        if kind is MemberKind.FILE:
            first = self._first_names.setdefault(found.state[3], name) if found.links != b"1" else name
            if first != name:
                kind, link = MemberKind.HARDLINK, first
            else:
                size_bytes = int(found.state[0])
                digests = self._digests(path, name, found, portion)
        return Member(
            name,
            kind,
            size_bytes,
            int(found.mode, 8),
            int(found.uid),
            int(found.gid),
            int(found.state[1].partition(b".")[0]),  # find cuts a time in two as the system does, below 0 too
            link,
            portion.devices.get(path),
            kind is MemberKind.FILE and 512 * int(found.blocks) < size_bytes,
            -1,
            digests,
        )

    def _digests(self, path: bytes, name: bytes, found: _Found, portion: _Portion) -> dict[str, str]:
        if found.links == b"1":
            digest, after = portion.digests.get(path), portion.after.get(path)
        else:
            after, digest = self._linked.get(found.state[3], (found.state, None))
        if after == found.state and digest is not None:
            return {self._algorithm: digest}
        reason = "changed while it was read" if digest is not None or after != found.state else "could not be read"
        self.problems.append(Problem(name, reason))
        return {}

    def _problem_fault(self, complaint: str) -> Fault:
        named = "; ".join(f"/{escape(problem.name)} {problem.reason}" for problem in self.problems[:_NAMED_AT_MOST])
        more = len(self.problems) - _NAMED_AT_MOST
        reason = named + (f"; and {more} more" if more > 0 else "") + (f" ({complaint})" if complaint else "")
        return Fault(FaultKind.DATA, self._subject, reason, next_command="mend or exclude them, then scan again")

    def _classify(self, fault: Fault) -> Fault:
        found = STATUS.match(fault.reason)
        if found is None:
            return fault
        status, complaint = int(found[1]), found[2]
        if status == 255:
            lost = classify_ssh(self._host.name, complaint)
            return Fault(lost.kind, self._subject, f"the connection broke: {lost.reason}")
        if status == 127:
            program = _PROGRAMS[self._algorithm]
            return Fault(FaultKind.CONFIG, self._host.name, f"has no {program}", next_command="install GNU coreutils")
        if status < 0 or status > 128:
            return Fault(FaultKind.TRANSIENT, self._subject, f"the scan was ended by signal {abs(status) & 127}")
        if not self._any:
            first = complaint.partition("\n")[0]
            reason = "is not there" if "No such file" in first else first
            return Fault(FaultKind.CONFIG, self._subject, reason, next_command="check the path of the target")
        if self.problems:
            return self._problem_fault(complaint)
        return Fault(FaultKind.DATA, self._subject, complaint, next_command="mend or exclude it, then scan again")


class _Portion:
    """What was printed of some hundreds of members."""

    def __init__(self) -> None:
        self.is_linked = False
        self.found: dict[bytes, _Found] = {}
        self.digests: dict[bytes, str] = {}
        self.after: dict[bytes, tuple[bytes, ...]] = {}
        self.devices: dict[bytes, tuple[int, int]] = {}

    def add(self, facts: bytes, path: bytes, link: bytes) -> None:
        kind, size, mode, uid, gid, mtime, ctime, inode, links, blocks = facts.split(b" ")
        self.found[path] = _Found(kind, (size, mtime, ctime, inode), mode, uid, gid, links, blocks, link)


def _fields(stream: IO[bytes]) -> Iterator[bytes]:
    """What stands between the NULs. An unfinished field at the end is dropped: the command was cut short."""
    rest = b""
    while piece := stream.read1(_PIECE_BYTES):  # type: ignore[attr-defined]
        *whole, rest = (rest + piece).split(b"\0")
        yield from whole
