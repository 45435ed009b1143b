"""All that is ever run on the machine that takes a copy.

A copy is built in ``PATH/.incoming/NAME.NUMBER`` and becomes visible as ``PATH/NAME`` by one rename. Its manifest
lies in ``PATH/.custody``. The machine needs sh, rsync, GNU coreutils and findutils, and tar for the stream. Every
command is a fixed script; names travel as its arguments or on its standard input.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

from custody.faults import Fault, FaultKind
from custody.host import Completed, Host
from custody.minidvodb.codes import CopyFault, FaultCode, classify_saying, from_ssh
from custody.minidvodb.manifest import DIRECTORY, FILE, LINK, TOP, Entry, Snapshot, chunks

COMMAND_TIMEOUT_S = 120.0
READ_FLOOR_BYTES_S = 5e6
_CUT_SHORT = frozenset({11, 12})  # rsync: error in file IO, error in the protocol stream
INCOMING, PRIVATE = ".incoming", ".custody"

_MISSING, _FOREIGN, _CHANGED, _TAKEN, _GONE = 66, 67, 68, 69, 70

# Ends whoever wrote into this staging directory before: the transfer of a worker that was killed may still run here.
# A process group that lives keeps its number from being used again, even when its leader is gone.
_END_WRITER = """
end_writer() {
  read -r group start <"$1" 2>/dev/null || return 0
  case $group in ''|0|1|*[!0-9]*) return 0 ;; esac
  if [ -e "/proc/$group/stat" ]; then
    read -r line <"/proc/$group/stat" 2>/dev/null || line=
    set -- "$1" ${line##*)}
    [ "${21:-}" = "$start" ] || return 0
  fi
  for try in 1 2 3 4 5 6 7 8 9 10; do
    kill -0 "-$group" 2>/dev/null || return 0
    if [ "$try" -lt 5 ]; then kill -TERM "-$group" 2>/dev/null; else kill -KILL "-$group" 2>/dev/null; fi
    sleep 0.2
  done
  for stat in /proc/[0-9]*/stat; do
    read -r line <"$stat" 2>/dev/null || continue
    set -- "$1" ${line##*)}
    if [ "$4" = "$group" ] && [ "$2" != Z ]; then
      echo "custody: the process group $group still writes" >&2
      exit 1
    fi
  done
}
"""

_ENTER = f"""
cd -P -- "$1" || exit {_MISSING}
for name in {INCOMING} {PRIVATE}; do
  mkdir -p -- "$name" || exit 1
  if [ -h "$name" ] || [ ! -O "$name" ]; then echo "custody: $name is a link or is not ours" >&2; exit {_FOREIGN}; fi
done
: >"{INCOMING}/.$3.probe" || exit 1
rm -f -- "{INCOMING}/.$3.probe"
"""

_LIST = r"""find . -printf '%y %s %T@ %C@ %i %m %P\0%l\0'"""
_MARK = r"""find . -mindepth 1 -printf '%y %s %T@ %C@ %i %m %P\0%l\0' | sort -z | sha256sum | cut -c1-64"""
"""The fingerprint of a directory; :func:`_mark_of` makes the same of what _LIST prints."""

_WHERE = f"""
echo "machine=$(cat /etc/machine-id 2>/dev/null || hostname)"
echo "filesystem=$(stat -f -c %i .)"
echo "source=$(df -P . 2>/dev/null | tail -n 1 | cut -d' ' -f1)"
stat -f -c 'space=%S %b %f %a %c %d' .
for tool in rsync tar; do command -v "$tool" >/dev/null && echo "$tool=yes"; done
rsync --version 2>/dev/null | grep -q xxh128 && echo xxh128=yes
if [ -h "$2" ]; then echo target=link
elif [ -d "$2" ]; then echo target=directory
elif [ -e "$2" ]; then echo target=other; else echo target=none; fi
if [ -h "{INCOMING}/$3" ]; then echo staging=link
elif [ -d "{INCOMING}/$3" ]; then echo staging=directory; else echo staging=none; fi
"""

_SEE = f"""
cd -P -- "$1" || exit {_MISSING}
{_WHERE}
echo .
"""

_PROBE = f"""{_ENTER}{_WHERE}
echo .
if [ -d "{INCOMING}/$3" ] && [ ! -h "{INCOMING}/$3" ]; then cd -- "{INCOMING}/$3" && {_LIST}; fi
"""

_OPEN = f"""{_END_WRITER}{_ENTER}
end_writer "{INCOMING}/.$3.group" || exit 1
if [ -h "{INCOMING}/$3" ]; then echo "custody: $3 is a link" >&2; exit {_FOREIGN}; fi
mkdir -p -- "{INCOMING}/$3" || exit 1
chmod u+rwx -- "{INCOMING}/$3" || exit 1
{_WHERE}
echo .
cd -- "{INCOMING}/$3" && {_LIST}
"""

_END = f"""{_END_WRITER}
cd -P -- "$1" || exit {_MISSING}
end_writer "{INCOMING}/.$3.group"
"""

# In front of whatever writes: tells which process group it is, so that it can be ended, by whom ever.
_WRITER = f"""
cd -P -- "$1" || exit {_MISSING}
stage=$3; shift 3
nth() {{ shift "$1"; echo "$1"; }}
read -r line <"/proc/$$/stat"; group=$(nth 3 ${{line##*)}})
read -r line <"/proc/$group/stat" || exit 1
echo "$group $(nth 20 ${{line##*)}})" >"{INCOMING}/.$stage.group" || exit 1
cd -- "{INCOMING}/$stage" || exit {_MISSING}
exec "$@"
"""

_REMOVE = f"""
cd -P -- "$1/{INCOMING}/$3" || exit {_MISSING}
exec xargs -0 -r rm -rf --
"""

_SAVE = f"""
cd -P -- "$1" || exit {_MISSING}
mkdir -p -- {PRIVATE} && cd -P -- {PRIVATE} || exit 1
cat >".$3.tmp" && sync -- ".$3.tmp" && mv -f -T -- ".$3.tmp" "$4.manifest"
"""

_READ = f"""
cd -P -- "$1" || exit {_MISSING}
[ -d {PRIVATE} ] || exit 0
cd -P -- {PRIVATE} || exit 1
for name in "$3.manifest" "$2.manifest"; do
  if [ -f "$name" ] && [ ! -h "$name" ]; then exec cat -- "$name"; fi
done
"""

_XXH128 = "rsync -rlnc --checksum-choice=xxh128 --out-format='%C %n' -- ./ \"$PWD/.custody-nowhere-$$/\" || exit 1"
_SHA256 = "find . -type f -print0 | sort -z | xargs -0 -r sha256sum -z"

_PROVE = f"""
cd -P -- "$1" || exit {_MISSING}
[ -d "$4" ] && [ ! -h "$4" ] || exit {_GONE}
manifest={PRIVATE}/$3.manifest
[ -f "$manifest" ] || manifest={PRIVATE}/$2.manifest
if [ -f "$manifest" ] && [ ! -h "$manifest" ]; then stat -c %s -- "$manifest"; cat -- "$manifest"; else echo 0; fi
cd -P -- "$4" || exit {_MISSING}
{_LIST}
printf '= 0 0 0 \\0\\0'
@digests@
printf '\\0'
{_MARK}
"""

_GLANCE = f"""
cd -P -- "$1" || exit {_MISSING}
[ -d "$2" ] && [ ! -h "$2" ] || exit {_GONE}
cd -P -- "./$2" && {_MARK}
"""

_PUBLISH = f"""{_END_WRITER}
cd -P -- "$1" || exit {_MISSING}
end_writer "{INCOMING}/.$3.group" || exit 1
mark() {{ (cd -P -- "$1" && {_MARK}); }}
if [ ! -d "{INCOMING}/$3" ] || [ -h "{INCOMING}/$3" ]; then
  [ -d "$2" ] && [ ! -h "$2" ] || exit {_GONE}
  [ "$(mark "./$2")" = "$4" ] || exit {_TAKEN}
  echo already
else
  [ "$(mark "{INCOMING}/$3")" = "$4" ] || exit {_CHANGED}
  sync -f -- "{INCOMING}/$3" || exit 1
  if [ -e "$2" ] || [ -h "$2" ]; then
    [ "$5" = replace ] || exit {_TAKEN}
    mv -T -- "./$2" "{PRIVATE}/$3.set-aside.$$" || exit 1
  fi
  mv -n -T -- "{INCOMING}/$3" "./$2" || exit 1
  if [ -d "{INCOMING}/$3" ]; then exit {_TAKEN}; fi
  echo renamed
fi
sync -- . {INCOMING} {PRIVATE} || exit 1
rm -f -- "{INCOMING}/.$3.group"
mv -f -T -- "{PRIVATE}/$3.manifest" "{PRIVATE}/$2.manifest" 2>/dev/null
sync -- {PRIVATE}
exit 0
"""

# A copy is taken out of sight by one rename before anything of it is deleted.
_RETIRE = f"""
cd -P -- "$1" || exit {_MISSING}
if [ -h "$2" ]; then echo "custody: $2 is a link" >&2; exit {_FOREIGN}; fi
if [ -d "$2" ]; then mv -T -- "./$2" "{PRIVATE}/$3.retired.$$" || exit 1; sync -- . {PRIVATE}; fi
for left in "{PRIVATE}/$3.retired."*; do
  if [ -d "$left" ]; then chmod -R u+rwX -- "$left" && rm -rf -- "$left" || exit 1; fi
done
rm -f -- "{PRIVATE}/$2.manifest"
"""

_CLEAR = f"""{_END_WRITER}
cd -P -- "$1" || exit {_MISSING}
end_writer "{INCOMING}/.$3.group" || exit 1
if [ -d "{INCOMING}/$3" ] && [ ! -h "{INCOMING}/$3" ]; then
  chmod -R u+rwX -- "{INCOMING}/$3" && rm -rf -- "{INCOMING}/$3" || exit 1
fi
rm -f -- "{INCOMING}/.$3.group" "{PRIVATE}/$3.manifest"
"""


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
    """What was found over there. ``target``: none, directory, link or other; ``staged``: what lies in the staging."""

    machine: str
    filesystem: str
    space: Space
    tools: frozenset[str]
    target: str
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


class Far:
    """The directory that takes databases, on its machine, for one copy.

    :param host: the machine.
    :param path: absolute; it must exist: what is not mounted is not made up on another disk.
    :param name: of the database.
    :param number: of the copy.
    """

    def __init__(self, host: Host, path: str, name: str, number: int) -> None:
        self.host = host
        self.path = PurePosixPath(path)
        self.name = name
        self.number = number
        self.stage = f"{name}.{number}"
        if not self.path.is_absolute() or ".." in self.path.parts:
            raise CopyFault(FaultCode.CONFIG, path, "is no absolute path")
        check_name(name)

    @property
    def where(self) -> str:
        """The final name, for people."""
        return f"{self.host.name}:{self.path / self.name}"

    @property
    def staging(self) -> PurePosixPath:
        """The directory the copy is built in."""
        return self.path / INCOMING / self.stage

    def see(self) -> Look:
        """Look only: nothing is made or changed over there. Faults: DEST_MISSING, ssh's."""
        return self._look(_SEE)

    def probe(self) -> Look:
        """Look at place, room and what is there. Faults: DEST_MISSING, DEST_READONLY, NO_SPACE, NO_INODES, ssh's."""
        return self._look(_PROBE)

    def open_staging(self) -> Look:
        """End a writer that was left over, make the staging directory, and look."""
        return self._look(_OPEN)

    def _look(self, script: str) -> Look:
        head, _, listing = self._run(script).stdout.partition(b"\n.\n")
        facts = dict(line.partition("=")[::2] for line in head.decode("utf-8", "replace").splitlines())
        try:
            block, total, free, available, inodes, free_inodes = (int(word) for word in facts["space"].split())
            space = Space(block, total * block, (total - free) * block, available * block, inodes, free_inodes)
            if facts["staging"] == "link":
                raise CopyFault(FaultCode.CONFIG, f"{self.host.name}:{self.staging}", "is a symbolic link")
            filesystem = facts["filesystem"] if facts["filesystem"].strip("0") else facts["source"]
            tools = frozenset(name for name in ("rsync", "tar", "xxh128") if name in facts)
            return Look(facts["machine"], filesystem, space, tools, facts["target"], _parse_list(listing))
        except (KeyError, ValueError) as error:
            raise CopyFault(FaultCode.TRANSFER, self.where, f"answers what nobody understands ({error})") from error

    def end_writer(self) -> None:
        """End whatever still writes for this copy; harmless where the machine is out of reach."""
        try:
            self._run(_END, timeout_s=30)
        except Fault:
            return  # the next one that writes ends it first

    def remove_staged(self, paths: Iterable[bytes]) -> None:
        """Remove entries of the staging directory, nothing outside of it."""
        names = [path for path in paths if path != TOP and not path.startswith(b"/") and b".." not in path.split(b"/")]
        if names:
            self._run(_REMOVE, stdin=b"".join(chunks(b"./" + name for name in names)))

    def save_manifest(self, text: bytes, *, published: bool = False) -> None:
        """Lay the manifest down beside the data, of the staged copy or of the published one."""
        self._run(_SAVE, self.name if published else self.stage, stdin=text)

    def read_manifest(self) -> bytes:
        """The manifest that lies beside the data, of the staged copy or else of the published; empty: there is none."""
        return self._run(_READ).stdout

    def prove(self, size_bytes: int, algorithm: str, *, published: bool = False) -> Proof | None:
        """Read every byte of the staged or the published directory over there; None where there is no such directory.

        Faults: VERIFY where it changed meanwhile.
        """
        script = _PROVE.replace("@digests@", {"xxh128": _XXH128, "sha256": _SHA256}[algorithm])
        directory = f"./{self.name}" if published else f"{INCOMING}/{self.stage}"
        timeout_s = COMMAND_TIMEOUT_S * 5 + size_bytes / READ_FLOOR_BYTES_S
        done = self._run(script, directory, timeout_s=timeout_s, allow=(_GONE,))
        if done.returncode == _GONE:
            return None
        length, _, rest = done.stdout.partition(b"\n")
        manifest, rest = rest[: int(length)], rest[int(length) :]
        listing, _, rest = rest.partition(b"\0= 0 0 0 \0\0")  # no link target can look like this
        told, _, after = rest.rpartition(b"\0")
        mark = _mark_of(listing + b"\0")
        if mark != after.strip().decode():
            raise CopyFault(FaultCode.VERIFY, self.where, "changed while it was read", next_command="it is tried again")
        read = _parse_rsync if algorithm == "xxh128" else _parse_sha256
        return Proof(mark, _parse_list(listing + b"\0"), read(told), manifest)

    def glance(self) -> str | None:
        """The fingerprint of the published copy, without reading a file; None where there is none."""
        done = self._run(_GLANCE, allow=(_GONE,), timeout_s=3600)
        return None if done.returncode == _GONE else done.stdout.decode().strip()

    def publish(self, fingerprint: str, *, replace: bool) -> Published:
        """Let the verified copy appear under its name, if it is still the one with this fingerprint.

        :param replace: whether what has the name may be set aside.
        """
        word = "replace" if replace else "keep"
        done = self._run(_PUBLISH, fingerprint, word, timeout_s=3600, allow=(_GONE, _TAKEN, _CHANGED))
        if done.returncode == 0:
            return Published.ALREADY if done.stdout.strip() == b"already" else Published.RENAMED
        return {_GONE: Published.GONE, _TAKEN: Published.TAKEN, _CHANGED: Published.CHANGED}[done.returncode]

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

    def remove_published(self) -> None:
        """Delete the published copy; only :mod:`custody.minidvodb.retire` calls it, once the gate has said yes."""
        self._run(_RETIRE, timeout_s=3600)

    def clear(self) -> None:
        """Remove the staging directory and all that belongs to it."""
        self._run(_CLEAR, timeout_s=3600)

    def writer(self, argv: list[str]) -> list[str]:
        """The argument vector over there of a program that writes; it runs in the staging directory."""
        arguments = ["custody", str(self.path), self.name, self.stage]
        return ["env", "LC_ALL=C", "sh", "-c", _WRITER, *arguments, *argv]

    def _run(
        self,
        script: str,
        *more: str,
        stdin: bytes = b"",
        timeout_s: float = COMMAND_TIMEOUT_S,
        allow: tuple[int, ...] = (),
    ) -> Completed:
        argv = ["env", "LC_ALL=C", "sh", "-c", script, "custody", str(self.path), self.name, self.stage, *more]
        try:
            done = self.host.run(argv, stdin=stdin, timeout_s=timeout_s)
        except Fault as fault:
            raise from_ssh(fault) from fault
        if done.returncode == 0 or done.returncode in allow:
            return done
        raise self.fault_of(done.returncode, done.stderr_tail)

    def fault_of(self, status: int, text: str) -> CopyFault:
        """What the end of one of our scripts means."""
        subject = f"{self.host.name}:{self.path}"
        if status == _MISSING:
            said = (text.strip().splitlines() or ["no such directory"])[-1]
            return CopyFault(
                FaultCode.DEST_MISSING,
                subject,
                f"is not to be reached ({said})",
                next_command=f"mount its disk or make the directory on {self.host.name}, then revert",
                exit_status=status,
                stderr_tail=text,
            )
        if status == _FOREIGN:
            return CopyFault(
                FaultCode.CONFIG,
                subject,
                f"{INCOMING} or {PRIVATE} there is a symbolic link or somebody else's",
                next_command="look at it and remove it, then revert",
                exit_status=status,
                stderr_tail=text,
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


def check_name(name: str) -> None:
    """A database's name is one path component that is not ours. Faults: CONFIG."""
    ours = {INCOMING, PRIVATE, ".", "..", ""}
    if name in ours or "/" in name or "\0" in name or len(os.fsencode(name)) > 200:
        raise CopyFault(FaultCode.CONFIG, f"minidvodb {name!r}", "cannot be the name of a directory over there")


def _parse_list(listing: bytes) -> Snapshot:
    found: Snapshot = {}
    fields = listing.split(b"\0")
    for head, target in zip(fields[0:-1:2], fields[1::2], strict=False):
        kind, size, time, _, _, mode, path = head.split(b" ", 6)
        path = path or TOP
        if kind == b"f":
            found[path] = Entry(FILE, path, int(mode, 8), int(size), _nanoseconds(time))
        elif kind == b"d":
            found[path] = Entry(DIRECTORY, path, int(mode, 8), 0, 0)
        elif kind == b"l":
            found[path] = Entry(LINK, path, 0, 0, 0, target)
        else:
            found[path] = Entry(kind.decode("ascii", "replace"), path, int(mode, 8), 0, 0)
    return found


def _mark_of(listing: bytes) -> str:
    """The fingerprint, of everything below the directory itself."""
    fields = listing.split(b"\0")[2:-1]  # the first entry is the directory
    return hashlib.sha256(b"".join(field + b"\0" for field in sorted(fields))).hexdigest()


def _nanoseconds(time: bytes) -> int:
    seconds, _, fraction = time.partition(b".")
    return int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))  # find adds it before 1970 too


_ESCAPED = re.compile(rb"\\#([0-7]{3})")
_DIGEST_LINE = re.compile(rb"([0-9a-f]{32}) (.+)")


def _parse_rsync(told: bytes) -> dict[bytes, str]:
    found = {}
    for line in told.split(b"\n"):
        if match := _DIGEST_LINE.fullmatch(line):
            found[unescape(match[2])] = match[1].decode()
    return found


def unescape(name: bytes) -> bytes:
    r"""A name as rsync prints it: ``\#012`` stands for the byte of that octal number."""
    return _ESCAPED.sub(lambda sign: bytes([int(sign[1], 8) & 255]), name)


def _parse_sha256(told: bytes) -> dict[bytes, str]:
    found = {}
    for record in told.split(b"\0"):
        digest, _, path = record.partition(b"  ")
        if path:
            found[path.removeprefix(b"./")] = digest.decode()
    return found
