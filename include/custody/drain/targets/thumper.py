"""A second machine ("thumper"): rsync over ssh, pushed from here or pulled from there.

An item is a directory below ``remote_dir``. A file is read and hashed here, sent to a temporary name, flushed, and
renamed where nothing else lies. What is stored is told by hashing it over there: sizes are never taken for a proof.
The machine needs sh, rsync and GNU coreutils and findutils.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePath, PurePosixPath
from typing import IO
from urllib.parse import quote

from custody import gate
from custody.digests import Fixity, Hasher, Match, Progress, read_file
from custody.drain.targets import Item, Outgoing, Receipt, rsync
from custody.drain.targets.pace import Pacing
from custody.faults import Fault, FaultKind
from custody.host import Completed, SshHost

MANIFEST_NAME = "MANIFEST.txt"
COMMAND_TIMEOUT_S = 300.0
HASH_TIMEOUT_S = 6 * 3600.0
MIN_RATE_BYTES_S = 1 << 16
STALL_S = 300.0
_NO_ROOM_BYTES = 1 << 20

_NO_DIRECTORY, _TAKEN, _CUT, _UNSTABLE = 66, 67, 68, 69

_CREATE = f"""
set -e
cd -- "$1" || exit {_NO_DIRECTORY}
mkdir -p -- "$2"
cd -- "$2"
trap 'rm -f -- ".$3.$$.tmp"' EXIT
cat >".$3.$$.tmp"
sync -- ".$3.$$.tmp"
mv -f -T -- ".$3.$$.tmp" "$3"
sync -- . ..
"""

# ln never writes over anything; where a file system has no hard links, mv -n, and a look whether it did.
_FINISH = f"""
cd -- "$1/$2" || exit {_NO_DIRECTORY}
if [ "$3" -ef "$4" ]; then rm -f -- "$4"; exit 0; fi
size=$(stat -c %s -- "$4") || exit 1
[ "$size" = "$5" ] || exit {_CUT}
sync -- "$4" || exit 1
if ! ln -T -- "$4" "$3" 2>/dev/null; then
  if [ -e "$3" ] || [ -h "$3" ]; then exit {_TAKEN}; fi
  mv -n -T -- "$4" "$3" || exit 1
  [ ! -e "$4" ] || exit {_TAKEN}
fi
sync -- . || exit 1
rm -f -- "$4"
"""

# Three lists of NUL-ended records: states ("@..."), digests, states again. A name without a file gives no record.
_LOOK = f"""
cd -- "$1" || exit {_NO_DIRECTORY}
[ -e "$2" ] || exit 0
cd -- "$2" || exit {_NO_DIRECTORY}
exec xargs -0 -r sh -c '
for name do
  shift
  if [ -f "$name" ] && [ ! -h "$name" ]; then set -- "$@" "$name"
  elif [ -e "$name" ] || [ -h "$name" ]; then printf "!%s\\0" "$name"; fi
done
[ $# -gt 0 ] || exit 0
states() {{ stat --printf="@%s %i %y/%n\\0" -- "$@"; }}
states "$@" && md5sum -z -- "$@" && states "$@"' custody
"""

_MARK = f"""
cd -- "$1" || exit {_NO_DIRECTORY}
[ -d "$2" ] || exit 0
: >"$2/$3"
"""

_UNMARK = f"""
cd -- "$1" || exit {_NO_DIRECTORY}
[ -d "$2" ] || exit 0
find "$2" -maxdepth 1 -type f -empty -name "$3*" -delete
"""

_TIDY = f"""
cd -- "$1/$2" || exit {_NO_DIRECTORY}
rm -rf -- {rsync.PARTIAL_DIR}
find . -maxdepth 1 -type f '(' -name '.*.incoming' -o -name '..*.incoming.??????' ')' -delete
"""


@dataclass(frozen=True)
class PullFrom:
    """How the second machine logs in to this one, for ``transfer: pull``: its own keys, seen from there.

    :param key_file: private key over there; None for those ssh finds itself.
    :param known_hosts: file over there that holds our host key; None for its user's own.
    """

    host: str
    user: str | None = None
    port: int = 22
    key_file: str | None = None
    known_hosts: str | None = None

    @classmethod
    def parse(cls, text: str, *, key_file: str | None = None, known_hosts: str | None = None) -> PullFrom:
        """Read ``user@host:port``; user and port may be missing. Faults: CONFIG."""
        user, at, address = text.rpartition("@")
        host, colon, port = address.rpartition(":")
        if not colon or address.endswith("]"):
            host, port = address, "22"
        host = host.removeprefix("[").removesuffix("]")
        if not host or host.startswith("-") or user.startswith("-") or not port.isdecimal() or (at and not user):
            raise Fault(FaultKind.CONFIG, f"pull_from {text!r}", "is not user@host:port")
        return cls(host, user or None, int(port), key_file, known_hosts)

    def ssh_command(self) -> list[str]:
        """The argument vector of ssh over there."""
        argv = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=15"]
        argv += ["-p", str(self.port)]
        if self.key_file:
            argv += ["-o", "IdentitiesOnly=yes", "-i", self.key_file]
        if self.known_hosts:
            argv += ["-o", f"UserKnownHostsFile={shlex.quote(self.known_hosts)}"]
        return [*argv, "-l", self.user] if self.user else argv


class ThumperTarget:
    """A directory on a second machine; every item is a directory in it.

    :param host: the machine, its host key pinned.
    :param remote_dir: absolute path over there. It must exist: what is not mounted is not made up on another disk.
    :param pull_from: where given, the machine fetches the files itself.
    :param pacing: cap and floor of the speed; the cap is shared out evenly to ``connections`` transfers.
    :param stall_s: a transfer in which nothing moves for so long is given up.
    """

    def __init__(
        self,
        host: SshHost,
        remote_dir: PurePath,
        *,
        port: int = 22,
        pull_from: PullFrom | None = None,
        pacing: Pacing | None = None,
        connections: int = 1,
        stall_s: float = STALL_S,
    ) -> None:
        self._host = host
        self._directory = PurePosixPath(remote_dir)
        if not self._directory.is_absolute():
            raise Fault(FaultKind.CONFIG, f"remote_dir {remote_dir}", "is no absolute path")
        name = f"[{host.name}]" if ":" in host.name else host.name
        self._address = name if port == 22 else f"{name}:{port}"
        self._pull_from = pull_from
        self._pacing = pacing or Pacing()
        self._connections = connections
        self._stall_s = stall_s

    def place(self, item: str, name: str) -> str:
        """See :class:`Target`."""
        return f"ssh://{self._address}{self._directory}/{item}/{name}"

    def url(self, item: str, name: str) -> str:
        """See :class:`Target`."""
        return f"ssh://{self._address}{quote(f'{self._directory}/{item}/{name}', safe='/~')}"

    def create(self, item: Item, manifest: bytes, earlier: Sequence[bytes] = ()) -> None:
        """See :class:`Target`. Its metadata has no place there: the manifest says which files belong to it."""
        place = self.place(item.identifier, MANIFEST_NAME)
        self._command(_CREATE, place, item.identifier, MANIFEST_NAME, stdin=manifest)

    def put(self, item: Item, outgoing: Outgoing, progress: Progress | None = None) -> Receipt:
        """See :class:`Target`.

        The file is hashed by a read of its own, before rsync reads it (by then from memory, where it fits): bytes that
        rotted on the disk never leave it. What arrived is hashed at the next :meth:`look`; the receipt states its size.
        """
        place = self.place(item.identifier, outgoing.name)
        started = time.monotonic()
        reading = read_file(outgoing.path, ["md5"])
        if reading.state != outgoing.state or outgoing.fixity.compare(reading.fixity) is not Match.EQUAL:
            reason = f"its bytes changed on disk: packed {gate.describe(outgoing.fixity)}, "
            reason += f"read now {gate.describe(reading.fixity)}"
            raise Fault(FaultKind.DATA, str(outgoing.path), reason, next_command="check the disk; the file is kept")
        incoming = f".{outgoing.name}.incoming"
        self._transfer(item.identifier, incoming, outgoing, progress)
        size_bytes = outgoing.state.size_bytes
        names = (item.identifier, outgoing.name, incoming)
        self._command(_FINISH, place, *names, str(size_bytes), timeout_s=_patience_s(size_bytes))
        url = self.url(item.identifier, outgoing.name)
        return Receipt(url, reading.fixity, Fixity(size_bytes), 0, time.monotonic() - started)

    def _transfer(self, item: str, incoming: str, outgoing: Outgoing, progress: Progress | None) -> rsync.Sent:
        place = self.place(item, outgoing.name)
        share = self._share_kib_s()
        slowest = self._pacing.min_rate_bytes_s or MIN_RATE_BYTES_S
        timeout_s = _patience_s(outgoing.state.size_bytes, min(slowest, share * 512) if share else slowest)
        options = rsync.arguments(stall_s=self._stall_s, bandwidth_limit_kib_s=share)
        remote = rsync.wrapped(str(self._directory), item)
        target = f"{self._directory}/{item}/{incoming}"
        if self._pull_from is None:
            shell = rsync.remote_shell(self._host.ssh_command())
            options += ["--rsh", shell, "--rsync-path", shlex.join(remote)]
            argv = ["rsync", *options, "--", str(outgoing.path), rsync.remote_path(self._host.name, target)]
            done = rsync.run(argv, timeout_s=timeout_s, progress=progress, end_remote=self._end_remote)
            self._demand_room(done, place, outgoing.state.size_bytes)
            return rsync.demand_success(done, place, self._host.name)
        source = rsync.remote_path(self._pull_from.host, str(outgoing.path))
        options += ["--rsh", rsync.remote_shell(self._pull_from.ssh_command())]
        done = self._host.run(["env", "LC_ALL=C", *remote, *options, "--", source, target], timeout_s=timeout_s)
        done = replace(done, stderr=rsync.without_group(done.stderr))
        self._demand_room(done, place, outgoing.state.size_bytes)
        sent = rsync.demand_success(done, place, f"{self._pull_from.host}, as seen from {self._host.name}")
        if progress:
            progress(outgoing.state.size_bytes)
        return sent

    def _demand_room(self, done: Completed, place: str, size_bytes: int) -> None:
        """Look whether the disk is full where rsync failed without a word: what the receiver says of it can get lost.

        Faults: CAPACITY.
        """
        if done.returncode not in rsync.CUT_SHORT or b"No space" in done.stderr:
            return
        free_bytes = self._host.disk_usage(Path(self._directory)).free_bytes
        needed = size_bytes if done.returncode == rsync.FILE_ERROR else min(size_bytes, _NO_ROOM_BYTES)
        if free_bytes < needed:
            reason = f"the disk over there is full ({free_bytes} bytes free)"
            raise Fault(FaultKind.CAPACITY, place, reason, next_command="free space there, then run again")

    def _share_kib_s(self) -> int | None:
        """What one transfer may take of the cap that holds now; at least 1 KiB/s, below which rsync cannot go."""
        rate, window = self._pacing.max_rate_bytes_s, self._pacing.window
        if not rate or (window and not window.contains(datetime.now(UTC))):
            return None
        return max(1, rate // self._connections // 1024)

    def _end_remote(self, group: str) -> None:
        script = 'kill -TERM "-$1"; sleep 1; kill -KILL "-$1"'
        try:
            self._host.run(["sh", "-c", script, "custody", group], timeout_s=30)
        except Fault:
            return  # out of reach: rsync over there ends by its own time-out

    def look(self, item: str, names: Sequence[str]) -> dict[str, Fixity | None]:
        """See :class:`Target`. One command over there for all names, which reads and hashes (md5) every file.

        Whatever kind of proof is asked for, the digest is of bytes read over there in this very call; nothing is
        remembered from one call to the next, by size and time or otherwise. A file that changed while it was hashed
        (size, time, inode) is a TRANSIENT fault, what is no regular file a NEEDS_HUMAN one.
        """
        place = self.place(item, "")
        listed = "".join(f"{name}\0" for name in names).encode()
        done = self._command(_LOOK, place, item, stdin=listed, timeout_s=HASH_TIMEOUT_S)
        stored = _parse_look(done.stdout, place)
        return {name: stored.get(name) for name in names}

    def read_back(
        self, item: str, name: str, progress: Progress | None = None, into: IO[bytes] | None = None
    ) -> Fixity:
        """See :class:`Target`. The bytes travel back and are hashed here."""
        hasher = Hasher()
        place = self.place(item, name)
        path = f"{self._directory}/{item}/{name}"
        try:
            with self._host.stream(["cat", "--", path]) as stored:
                while block := stored.read(1 << 20):
                    hasher.update(block)
                    if into:
                        into.write(block)
                    if progress:
                        progress(len(block))
        except Fault as fault:
            if fault.kind is not FaultKind.DATA:
                raise
            raise Fault(FaultKind.DATA, place, f"cannot be read ({fault.reason})") from fault
        return hasher.fixity()

    def finish(self, item: Item, names: Sequence[str]) -> None:
        """See :class:`Target`. Sweeps away what interrupted transfers left beside the files, which are not touched."""
        self._command(_TIDY, self.place(item.identifier, ""), item.identifier)

    def mark(self, item: str, name: str) -> None:
        """See :class:`Markable`."""
        self._command(_MARK, self.place(item, name), item, name)

    def unmark(self, item: str, prefix: str) -> None:
        """See :class:`Markable`."""
        self._command(_UNMARK, self.place(item, prefix), item, prefix)

    def _command(
        self,
        script: str,
        place: str,
        *arguments: str,
        stdin: bytes = b"",
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> Completed:
        """Run a script over there with remote_dir and ``arguments``. Faults: by what it says, about ``place``."""
        argv = ["env", "LC_ALL=C", "sh", "-c", script, "custody", str(self._directory), *arguments]
        done = self._host.run(argv, stdin=stdin, timeout_s=timeout_s)
        if done.returncode == 0:
            return done
        if done.returncode == _NO_DIRECTORY:
            command = f"mount its disk, or mkdir it on {self._host.name}"
            raise Fault(FaultKind.CONFIG, place, f"is not to be reached ({done.stderr_tail})", next_command=command)
        if done.returncode == _TAKEN:
            raise Fault(
                FaultKind.NEEDS_HUMAN,
                place,
                "something else is there already, and is not written over",
                next_command=f"look at it, and move it away on {self._host.name}; then run again",
            )
        if done.returncode == _CUT:
            raise Fault(FaultKind.TRANSIENT, place, "arrived with another size than it was sent with")
        raise rsync.classify(done.returncode, done.stderr, place, self._host.name)


def _patience_s(size_bytes: int, min_rate_bytes_s: int = MIN_RATE_BYTES_S) -> float:
    return COMMAND_TIMEOUT_S + size_bytes / min_rate_bytes_s


def _parse_look(answer: bytes, place: str) -> dict[str, Fixity]:
    """Sizes and digests by name out of what _LOOK prints, in however many batches xargs ran it."""
    states: dict[str, str] = {}
    digests: dict[str, str] = {}
    for record in answer.decode().split("\0")[:-1]:
        if record.startswith("!"):
            raise Fault(
                FaultKind.NEEDS_HUMAN,
                f"{place}{record[1:]}",
                "is no regular file",
                next_command="look at it, move it away, then run again",
            )
        if not record.startswith("@"):
            digest, _, name = record.partition("  ")
            digests[name] = digest
            continue
        state, _, name = record[1:].partition("/")
        if states.setdefault(name, state) != state:
            raise Fault(FaultKind.TRANSIENT, f"{place}{name}", "changed while it was being hashed over there")
    return {name: Fixity(int(state.split()[0]), {"md5": digests[name]}) for name, state in states.items()}
