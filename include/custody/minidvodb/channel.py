"""A shell on another machine that takes one command after the other, over one connection.

A command through it costs one round trip, and no program of its own here. The shell over there is started by one line
that every login shell understands, and takes its own program from its input: csh and fish do as well as sh. What a
login prints before it is passed over. When the connection goes, for whatever reason, the shell and all it started end.
"""

from __future__ import annotations

import os
import secrets
import select
import shlex
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fcntl import F_SETPIPE_SZ, fcntl
from typing import IO

from custody.faults import Fault, FaultKind, from_os_error
from custody.host import CONNECT_TIMEOUT_S, Completed, end_group

_PIPE_BYTES = 1 << 20
_MUX_SAYINGS = ("mux_client", "ControlSocket", "Control socket", "Shared connection", "unix_listener")
_SENT_AT_ONCE_BYTES = 1 << 15
_MOST_NOISE_BYTES = 1 << 20
_END_PATIENCE_S = 2.0
_GREETING_TIMEOUT_S = 4 * CONNECT_TIMEOUT_S

# A command is announced by a line: a mark, the lengths of the command and of its input; a stream (-) is read by the
# command itself, and when that fails what is left of it would be taken for commands. The mark ends the answer: output,
# mark and status, complaints, mark. Nobody over there can know it before.
_SHELL = r"""
export LC_ALL=C
exec 3>&1
read -r _ _ _ _ group _ </proc/$$/stat
echo "$1 $group"
(
  while sleep 3; do
    read -r _ _ _ parent _ </proc/$$/stat || exit
    [ "$parent" = "$PPID" ] || { kill -TERM "-$group"; sleep 2; kill -KILL "-$group"; }
  done
) </dev/null >/dev/null 2>&1 3>&- &
watch=$!
trap 'kill "$watch" 2>/dev/null' EXIT
answer() { printf '\n%s %s\n%s\n%s.\n' "$mark" "$1" "$2" "$mark" >&3; }
while read -r mark length input; do
  case $length in ''|*[!0-9]*) exit 99 ;; esac
  command=$(head -c "$length"; echo .)
  command=${command%.}
  case $input in
  -) complaint=$( (eval "$command") 2>&1 >&3 3>&-); status=$?; answer "$status" "$complaint"
     [ "$status" = 0 ] || exit ;;
  0) complaint=$( (eval "$command") </dev/null 2>&1 >&3 3>&-); answer "$?" "$complaint" ;;
  *) head -c "$input" | {
       complaint=$( (eval "$command") 2>&1 >&3 3>&-); answer "$?" "$complaint"
       cat >/dev/null
     } ;;
  esac
done
"""


class Channel:
    """One such shell.

    :param ssh: the argument vector up to and with the host's name.
    :param name: of the machine, for faults.

    ``group`` is the process group of all that runs over there, once it is known.
    """

    def __init__(self, ssh: Sequence[str], name: str) -> None:
        self.name = name
        self.group: int | None = None
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._rest = b""
        self._is_idle = False
        hello = secrets.token_hex(16)
        first = f"exec sh -c 'eval \"$(head -c {len(_SHELL)})\"' custody {hello}"
        try:
            self.process = subprocess.Popen(
                [*ssh, "--", first],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                process_group=0,
                env={**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError as error:
            raise Fault(FaultKind.CONFIG, ssh[0], "is not installed here", next_command=f"install {ssh[0]}") from error
        except OSError as error:
            raise from_os_error(error, ssh[0]) from error
        assert self.process.stdin and self.process.stdout
        self._stdin, self._stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        with suppress(OSError):  # a small pipe is only slower
            fcntl(self._stdin, F_SETPIPE_SZ, _PIPE_BYTES)
        self._hello = hello.encode()
        self._unsent: bytes | memoryview = b""
        with suppress(BrokenPipeError):  # its end says why
            os.write(self._stdin, _SHELL.encode())

    @property
    def lives(self) -> bool:
        """Whether it takes commands."""
        return self.process.poll() is None

    def complaint_at_end(self) -> str:
        """What ssh itself said, once it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_PATIENCE_S)
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").splitlines()
        return "\n".join(line for line in lines if not line.startswith(_MUX_SAYINGS))

    def start(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float | None = None) -> Asked:
        """Start a program; its input, where it is large, goes when its end is waited for."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        asked = Asked(self, argv, self._announce(argv, str(len(stdin)), stdin), deadline)
        if len(self._unsent) <= _SENT_AT_ONCE_BYTES:
            self._send(blocking=False)
        return asked

    def feed(self, argv: Sequence[str]) -> Asked:
        """Start a program that reads a stream, which it must take to the last byte; ``descriptor`` takes the stream."""
        asked = Asked(self, argv, self._announce(argv, "-", b""), None)
        self._send(blocking=True)
        return asked

    @property
    def descriptor(self) -> int:
        """Takes the stream of the program that was promised one; writing blocks while the other side is slower."""
        return self._stdin

    def answer(self, asked: Asked) -> Completed | None:
        """The end of a program; None where the connection ended before. Faults: TimeoutError."""
        os.set_blocking(self._stdin, False)
        if self.group is None and not self._is_greeted(asked.deadline):
            return None
        told = self._read_up_to(b"\n%s.\n" % asked.mark, asked.deadline)
        if told is None:
            return None
        self._is_idle = True
        output, _, end = told.rpartition(b"\n%s " % asked.mark)
        status, _, complaint = end.partition(b"\n")
        return Completed(tuple(asked.argv), int(status), output, complaint)

    def close(self) -> None:
        """End it, on both sides: an idle one is asked to, by the end of its input."""
        if self.lives and self._is_idle:
            assert self.process.stdin
            self.process.stdin.close()
            self._unsent = b""
            with suppress(
                TimeoutError, subprocess.TimeoutExpired
            ):  # its end is seen at once here; wait() would look for it now and then
                while self._move(time.monotonic() + _END_PATIENCE_S) != b"":
                    pass
                self.process.wait(_END_PATIENCE_S)
        if self.lives:
            end_group(self.process)
        for pipe in (self.process.stdin, self.process.stdout, self._stderr):
            if pipe:
                with suppress(OSError):
                    pipe.close()

    def _announce(self, argv: Sequence[str], length: str, stdin: bytes) -> bytes:
        self._is_idle = False
        mark = secrets.token_hex(16).encode()
        command = os.fsencode("exec " + shlex.join(argv))
        announced = b"%s %d %s\n%s%s" % (mark, len(command), length.encode(), command, stdin)
        self._unsent = memoryview(bytes(self._unsent) + announced)
        return mark

    def _is_greeted(self, deadline: float | None) -> bool:
        """Pass over what a login prints, until the shell says which process group it is."""
        limit = time.monotonic() + _GREETING_TIMEOUT_S
        limit = limit if deadline is None else min(limit, deadline)
        if self._read_up_to(self._hello + b" ", limit, most=_MOST_NOISE_BYTES) is None:
            return False
        group = self._read_up_to(b"\n", limit, most=_MOST_NOISE_BYTES)
        self.group = int(group) if group and group.isdigit() else None
        return self.group is not None

    def _read_up_to(self, until: bytes, deadline: float | None, most: int | None = None) -> bytes | None:
        """Send what is to be sent, and read up to some bytes; None where the other side ended before."""
        told = bytearray(self._rest)
        self._rest = b""
        searched = 0
        while (found := told.find(until, searched)) < 0:
            searched = max(0, len(told) - len(until))
            block = self._move(deadline)
            if block == b"" or (most and len(told) > most):
                return None
            told += block or b""
        self._rest = bytes(told[found + len(until) :])
        return bytes(told[:found])

    def _move(self, deadline: float | None) -> bytes | None:
        """Send or read a little; b"": the other side ended. Faults: TimeoutError."""
        left_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        waiting = select.poll()  # select() knows no descriptor above 1023
        waiting.register(self._stdout, select.POLLIN)
        if self._unsent:
            waiting.register(self._stdin, select.POLLOUT)
        ready = [descriptor for descriptor, _ in waiting.poll(left_ms)]
        if not ready:
            raise TimeoutError
        if self._stdout in ready:
            return os.read(self._stdout, 1 << 18)
        self._send(blocking=False)
        return None

    def _send(self, *, blocking: bool) -> None:
        os.set_blocking(self._stdin, blocking)
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self._stdin, self._unsent) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._unsent = b""  # what it said before it ended is still to be read


@dataclass(frozen=True)
class Asked:
    """A program that was started over there. ``deadline``: by time.monotonic()."""

    channel: Channel
    argv: Sequence[str]
    mark: bytes
    deadline: float | None

    def end(self) -> Completed | None:
        """Wait for its end; None where the connection ended before. Faults: TimeoutError."""
        return self.channel.answer(self)
