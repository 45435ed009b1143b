"""rsync, run and understood: its argument vector, its progress, and what its end means.

A transfer never writes over a finished file: it goes to a temporary name, is resumed there after whatever ended it,
and is renamed by whoever called.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from custody.digests import Progress
from custody.faults import Fault, FaultKind
from custody.host import STDERR_TAIL_CHARS, Completed, classify_ssh, end_group

PARTIAL_DIR = ".custody-partial"
GROUP_MARK = b"custody-group "
_READ_BYTES = 1 << 16

_NO_DIRECTORY = 66

# Over there, before rsync itself: say which process group to end should the connection not be enough, and make the
# item's directory again where somebody took it away, but never the one it lies in.
_WRAPPER = f"""
read -r _ _ _ _ group _ </proc/$$/stat; echo "custody-group $group" >&2
cd -- "$1" || exit {_NO_DIRECTORY}
mkdir -p -- "$2" || exit 1
shift 2
exec rsync "$@"
"""

_LITERAL = re.compile(rb"^Literal data: ([0-9]+)", re.MULTILINE)
_DONE = re.compile(rb"^ *([0-9]+) +[0-9]+%", re.MULTILINE)


@dataclass(frozen=True)
class Sent:
    """What a transfer came to: the bytes that had to travel (the rest lay there from an earlier attempt)."""

    literal_bytes: int


def arguments(*, stall_s: float, bandwidth_limit_kib_s: int | None = None) -> list[str]:
    """The options of every transfer.

    Files keep their time; an interrupted one is kept aside and taken up again; what lies under the temporary name from
    an earlier attempt is compared, not believed by size and time.
    """
    argv = ["-s", "--times", f"--partial-dir={PARTIAL_DIR}", "--ignore-times", "--no-whole-file"]
    argv += ["--info=progress2", "--stats", "--no-human-readable", f"--timeout={max(1, int(stall_s))}"]
    return [*argv, f"--bwlimit={bandwidth_limit_kib_s}"] if bandwidth_limit_kib_s else argv


def wrapped(directory: str, item: str) -> list[str]:
    """The argument vector of rsync on the machine that holds ``directory``; its options come behind it."""
    return ["sh", "-c", _WRAPPER, "custody", directory, item]


def remote_shell(ssh: Sequence[str]) -> str:
    """An ssh argument vector as ``--rsh`` wants it: in rsync's own quoting, which is no shell's."""
    return " ".join(f"""'{word.replace("'", "''")}'""" if _needs_quotes(word) else word for word in ssh)


def _needs_quotes(word: str) -> bool:
    return not word or any(character in " '\"\t" for character in word)


def remote_path(host: str, path: str) -> str:
    """``host:path`` as rsync takes it; an IPv6 address in brackets."""
    return f"[{host}]:{path}" if ":" in host else f"{host}:{path}"


def run(
    argv: Sequence[str], *, timeout_s: float, progress: Progress | None, end_remote: Callable[[str], None]
) -> Completed:
    """Run rsync here to its end, telling ``progress`` of every byte.

    What it started here is ended with it. Faults: CONFIG where rsync is missing, TRANSIENT after ``timeout_s``;
    ``end_remote`` is then called with the process group over there.
    """
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise Fault(FaultKind.CONFIG, argv[0], "is not installed here", next_command="install rsync") from error
    told = _Told(progress)
    with process:
        try:
            ended = _listen(process, told, time.monotonic() + timeout_s)
            if not ended:
                group = remote_group(bytes(told.stderr))
                end_group(process)
                if group:
                    end_remote(group)
                raise Fault(FaultKind.TRANSIENT, "rsync", f"did not end within {timeout_s:g} s, and was ended")
            process.wait()
        except BaseException:
            end_group(process)
            raise
    return Completed(tuple(argv), process.returncode, bytes(told.stdout), without_group(bytes(told.stderr)))


class _Told:
    """What rsync has said so far."""

    def __init__(self, progress: Progress | None) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self._progress = progress
        self._done = 0
        self._line = b""

    def add(self, stream: str, words: bytes) -> None:
        if stream == "stderr":
            self.stderr += words
            return
        *lines, self._line = (self._line + words).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            found = _DONE.match(line)
            if not found:
                self.stdout += line + b"\n"
            elif self._progress and int(found[1]) > self._done:
                self._progress(int(found[1]) - self._done)
                self._done = int(found[1])


def _listen(process: subprocess.Popen[bytes], told: _Told, deadline: float) -> bool:
    """Collect both streams to their end; False where the deadline comes first."""
    assert process.stdout and process.stderr
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, "stdout")
        selector.register(process.stderr, selectors.EVENT_READ, "stderr")
        while selector.get_map():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            for key, _ in selector.select(left_s):
                words = os.read(key.fd, _READ_BYTES)
                if words:
                    told.add(key.data, words)
                else:
                    selector.unregister(key.fileobj)
    return True


def remote_group(stderr: bytes) -> str | None:
    """The process group over there, where it was told."""
    for line in stderr.splitlines():
        if line.startswith(GROUP_MARK) and line.removeprefix(GROUP_MARK).strip().isdigit():
            return line.removeprefix(GROUP_MARK).strip().decode()
    return None


def without_group(stderr: bytes) -> bytes:
    """Complaints without our own line among them."""
    return b"".join(line for line in stderr.splitlines(keepends=True) if not line.startswith(GROUP_MARK))


def demand_success(done: Completed, subject: str, host: str) -> Sent:
    """Tell how much travelled, or raise the fault that the end of rsync stands for.

    Faults: CAPACITY for a full disk or quota over there, AUTH and TRANSIENT by what ssh says, DATA for a source that
    cannot be read or went away, CONFIG for a missing rsync, directory or right, TRANSIENT for lost connections, stalls
    and what time may mend.
    """
    if done.returncode:
        raise classify(done.returncode, done.stderr, subject, host)
    found = _LITERAL.search(done.stdout)
    return Sent(int(found[1]) if found else 0)


_COMPLAINTS: Sequence[tuple[str, FaultKind, str, str]] = (
    ("No space left on device", FaultKind.CAPACITY, "the disk is full", "free space there, then run again"),
    ("Disk quota exceeded", FaultKind.CAPACITY, "the quota is used up", "raise it or free space, then run again"),
    ("Read-only file system", FaultKind.CONFIG, "the file system is read-only", "mount it writable"),
    ("Input/output error", FaultKind.DATA, "a disk cannot be read or written", "check the disks (dmesg, smartctl)"),
    ("Permission denied (13)", FaultKind.CONFIG, "no right to write there", "give the user the right to it"),
    ("Permission denied\n", FaultKind.CONFIG, "no right to write there", "give the user the right to it"),
    ("No such file or directory", FaultKind.CONFIG, "there is no such directory", "check remote_dir, and its mount"),
    ("not found", FaultKind.CONFIG, "a program is missing", "install rsync, coreutils and findutils on both machines"),
)
FILE_ERROR = 11
_CUT_OFF = 12
CUT_SHORT = frozenset({FILE_ERROR, _CUT_OFF})
_STATUS = {
    1: FaultKind.CONFIG, 2: FaultKind.CONFIG, 3: FaultKind.CONFIG, 4: FaultKind.CONFIG, 6: FaultKind.CONFIG,
    22: FaultKind.CAPACITY, 24: FaultKind.DATA, _NO_DIRECTORY: FaultKind.CONFIG,
    126: FaultKind.CONFIG, 127: FaultKind.CONFIG,
}  # fmt: skip


def classify(returncode: int, stderr: bytes, subject: str, host: str) -> Fault:
    """The fault behind an exit status and its complaints; ``subject`` names the file, ``host`` the other machine."""
    text = stderr.decode("utf-8", "replace") + "\n"
    said = _last_words(text)
    for words, kind, reason, next_step in _COMPLAINTS:
        if words in text:
            return Fault(kind, subject, f"{reason} ({said})", next_command=next_step)
    ssh_said = [line for line in text.splitlines() if line and not line.startswith("rsync")]
    if returncode == 255 or (returncode == _CUT_OFF and ssh_said):
        return classify_ssh(host, "\n".join(ssh_said))
    if returncode == 30 or "timeout in data send/receive" in text:
        return Fault(FaultKind.TRANSIENT, subject, f"nothing moved any more ({said})")
    kind = _STATUS.get(returncode, FaultKind.TRANSIENT)
    next_step = {FaultKind.CONFIG: "check rsync on both machines", FaultKind.DATA: "look for the file"}.get(kind, "")
    return Fault(kind, subject, f"ended with status {returncode}: {said}", next_command=next_step or None)


def _last_words(text: str) -> str:
    """The complaint that says most: the first, which rsync's closing line only sums up."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("rsync error:")] or lines or ["without a word"]
    return telling[0][-STDERR_TAIL_CHARS:]
