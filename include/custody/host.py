"""Run a program, read a stream, ask for disk use: on this machine or on another one over ssh.

Programs are argument vectors. The ssh binary does the transport, with the host key pinned and nothing read from the
user's own ssh configuration. What is ended is ended on both sides, with everything it started.
"""

from __future__ import annotations

import atexit
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from custody.faults import Fault, FaultKind, from_os_error, os_errors_as_faults

CONNECT_TIMEOUT_S = 15
_GROUP = "custody-group "
_GROUP_LINE = re.compile(rb"^custody-group (\d+)\n", re.MULTILINE)
STDERR_TAIL_CHARS = 2000
LEAVE_PATIENCE_S = 5.0
"""How long a program whose stream was left may take to end by itself before it is ended."""


@dataclass(frozen=True)
class Completed:
    """A program that has ended: its exit status and everything it wrote."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def stderr_tail(self) -> str:
        """The end of what it complained."""
        return self.stderr.decode("utf-8", "replace").strip()[-STDERR_TAIL_CHARS:]


@dataclass(frozen=True)
class DiskUsage:
    """The file system that holds a path, without what is kept back for root: as df counts it."""

    total_bytes: int
    free_bytes: int
    total_inodes: int
    free_inodes: int

    @property
    def used_pct(self) -> float:
        """Share in use: 0 to 100."""
        return 100.0 * (1 - self.free_bytes / self.total_bytes) if self.total_bytes else 0.0


class Host(Protocol):
    """A machine that runs programs for us."""

    name: str

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float | None = None) -> Completed:
        """Run a program to its end; a non-zero exit is returned, not raised."""
        ...

    def stream(self, argv: Sequence[str]) -> AbstractContextManager[IO[bytes]]:
        """Run a program and read its standard output as it comes; leaving the block early ends it."""
        ...

    def disk_usage(self, path: Path) -> DiskUsage:
        """Ask for the file system that holds ``path``; CONFIG where there is no such path."""
        ...


class LocalHost:
    """This machine."""

    name = "localhost"

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float | None = None) -> Completed:
        """See :class:`Host`. Faults: CONFIG where the program is missing, TRANSIENT after ``timeout_s``."""
        with _started(argv, stdin=stdin is not None) as process:
            try:
                stdout, stderr = process.communicate(stdin, timeout_s)
            except subprocess.TimeoutExpired as error:
                end_group(process)
                raise Fault(FaultKind.TRANSIENT, argv[0], f"did not end within {timeout_s:g} s") from error
        return Completed(tuple(argv), process.returncode, stdout, stderr)

    @contextmanager
    def stream(self, argv: Sequence[str]) -> Iterator[IO[bytes]]:
        """See :class:`Host`. Faults: DATA where the program ends with another status than 0."""
        with tempfile.TemporaryFile() as stderr, _started(argv, stderr=stderr) as process:
            assert process.stdout is not None
            yield process.stdout
            if not _is_at_end(process.stdout):
                end_group(process)  # the reader has enough
                return
            if process.wait():
                stderr.seek(0)
                raise _status_fault(argv, process.returncode, stderr.read())

    def disk_usage(self, path: Path) -> DiskUsage:
        """See :class:`Host`."""
        with os_errors_as_faults(str(path)):
            found = os.statvfs(path)
        total = found.f_blocks - found.f_bfree + found.f_bavail
        return DiskUsage(total * found.f_frsize, found.f_bavail * found.f_frsize, found.f_files, found.f_favail)


@dataclass(frozen=True)
class SshTarget:
    """How to reach a machine; an Airflow ssh connection is translated to this.

    :param host_key: its public key as in known_hosts, without the name: ``ssh-ed25519 AAAA…``. Required: a host that
        nobody vouched for is not spoken to.
    :param key_file: private key; or ``private_key`` with its text.
    """

    host: str
    host_key: str
    user: str | None = None
    port: int = 22
    key_file: Path | None = None
    private_key: str | None = field(default=None, repr=False)


class SshHost:
    """Another machine, over ssh."""

    def __init__(self, target: SshTarget) -> None:
        if not target.host_key.strip():
            raise Fault(
                FaultKind.CONFIG,
                target.host,
                "no host key is pinned",
                next_command=f"put the output of `ssh-keyscan -p {target.port} {target.host}`, once you have checked "
                "it, into host_key of the connection",
            )
        if target.host.startswith("-") or (target.user or "").startswith("-"):
            raise Fault(FaultKind.CONFIG, target.host, "is no host name")
        self.name = target.host
        self._target = target
        self._files = Path(tempfile.mkdtemp(prefix="custody-ssh-"))
        atexit.register(shutil.rmtree, self._files, ignore_errors=True)
        self._write("known_hosts", f"{self._known_name} {target.host_key.strip()}\n")
        if target.private_key:
            self._write("key", target.private_key.rstrip("\n") + "\n")

    @property
    def _known_name(self) -> str:
        return self._target.host if self._target.port == 22 else f"[{self._target.host}]:{self._target.port}"

    def _write(self, name: str, content: str) -> None:
        path = self._files / name
        path.touch(mode=0o600)
        path.write_text(content)

    def ssh_command(self) -> list[str]:
        """The argument vector up to and without the remote command; also rsync's ``--rsh`` when joined."""
        target = self._target
        key = self._files / "key" if target.private_key else target.key_file
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": f'"{self._files / "known_hosts"}"',  # ssh splits a value at blanks, unless quoted
            "GlobalKnownHostsFile": "/dev/null",
            "ConnectTimeout": str(CONNECT_TIMEOUT_S),
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "3",
            "ForwardAgent": "no",
            "LogLevel": "ERROR",  # a banner would come before the program's own words
        }
        if key:
            options |= {"IdentityFile": f'"{key}"', "IdentitiesOnly": "yes"}
        argv = ["ssh", "-F", "/dev/null", "-T", "-p", str(target.port)]
        for name, value in options.items():
            argv += ["-o", f"{name}={value}"]
        return [*argv, "-l", target.user] if target.user else argv

    def _argv(self, argv: Sequence[str]) -> list[str]:
        # sshd hands one string to a shell: it is quoted here, once. A line on stderr tells the process group to end if
        # we must, behind whatever the login itself had to say; $0 is the script's name.
        script = f'read -r _ _ _ _ group _ </proc/$$/stat; echo "{_GROUP}$group" >&2; exec "$@"'
        return [*self.ssh_command(), self._target.host, "--", shlex.join(["sh", "-c", script, "custody", *argv])]

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float | None = None) -> Completed:
        """See :class:`Host`.

        Faults: AUTH for a refused key or a changed host key, TRANSIENT where the host does not answer or the program
        does not end in time (its whole process group is then ended over there).
        """
        with _started(self._argv(argv), stdin=stdin is not None) as process:
            try:
                stdout, stderr = process.communicate(stdin, timeout_s)
            except subprocess.TimeoutExpired as error:
                end_group(process)
                _, stderr = process.communicate()
                self._end_remote(_group_of(stderr))
                reason = f"{argv[0]} did not end within {timeout_s:g} s"
                raise Fault(FaultKind.TRANSIENT, self.name, reason) from error
        return Completed(tuple(argv), process.returncode, stdout, self._checked(process.returncode, stderr))

    @contextmanager
    def stream(self, argv: Sequence[str]) -> Iterator[IO[bytes]]:
        """See :class:`Host`. Faults: as :meth:`run`, and DATA where the program ends with another status than 0."""
        with tempfile.TemporaryFile() as captured, _started(self._argv(argv), stderr=captured) as process:
            assert process.stdout is not None
            complete = False
            try:
                yield process.stdout
                complete = _is_at_end(process.stdout)
            finally:
                if not complete:
                    end_group(process)
                process.wait()
                captured.seek(0)
                stderr = captured.read()
                if not complete:
                    self._end_remote(_group_of(stderr))
            if complete and process.returncode:
                raise _status_fault(argv, process.returncode, self._checked(process.returncode, stderr), self.name)

    def disk_usage(self, path: Path) -> DiskUsage:
        """See :class:`Host`."""
        answer = self.run(["stat", "-f", "-c", "%S %b %f %a %c %d", "--", str(path)], timeout_s=60)
        if answer.returncode:
            raise Fault(FaultKind.CONFIG, f"{self.name}:{path}", answer.stderr_tail, next_command="check the path")
        block, blocks, unused, free, inodes, free_inodes = (int(word) for word in answer.stdout.split())
        return DiskUsage((blocks - unused + free) * block, free * block, inodes, free_inodes)

    def _checked(self, returncode: int, stderr: bytes) -> bytes:
        """What the program said: all behind the process group line. Without one, ssh itself failed."""
        if found := _GROUP_LINE.search(stderr):
            return stderr[found.end() :]
        raise classify_ssh(self.name, stderr.decode("utf-8", "replace"))

    def _end_remote(self, group: int | None) -> None:
        if group is None:
            return
        script = 'kill -TERM "-$1"; sleep 1; kill -KILL "-$1"'  # Debian's sh knows no -- here
        command = shlex.join(["sh", "-c", script, "custody", str(group)])
        argv = [*self.ssh_command(), self._target.host, "--", command]
        try:
            subprocess.run(argv, capture_output=True, timeout=CONNECT_TIMEOUT_S + 5, check=False)
        except subprocess.TimeoutExpired:
            return  # the host is out of reach: sshd over there ends what it started when its keep-alive fails


def _group_of(stderr: bytes) -> int | None:
    found = _GROUP_LINE.search(stderr)
    return int(found[1]) if found else None


_SSH_COMPLAINTS: Mapping[str, tuple[FaultKind, str, str]] = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": (
        FaultKind.AUTH,
        "its host key is not the pinned one",
        "find out why before you change host_key of the connection",
    ),
    "Host key verification failed": (
        FaultKind.AUTH,
        "its host key is not the pinned one",
        "find out why before you change host_key of the connection",
    ),
    "Permission denied": (FaultKind.AUTH, "refuses our key", "check user and key of the connection"),
    "Could not resolve hostname": (FaultKind.CONFIG, "no such host name", "check the host of the connection"),
    "Connection refused": (FaultKind.TRANSIENT, "nothing listens on its ssh port", "check sshd over there"),
    "timed out": (FaultKind.TRANSIENT, "does not answer", "check the network to it"),
    "No route to host": (FaultKind.TRANSIENT, "is out of reach", "check the network to it"),
}


def classify_ssh(host: str, complaint: str) -> Fault:
    """Tell from what ssh printed why it could not run anything on ``host``."""
    for text, (kind, reason, next_step) in _SSH_COMPLAINTS.items():
        if text in complaint:
            return Fault(kind, host, reason, next_command=next_step)
    last = complaint.strip().splitlines()[-1:] or ["ssh ended without a word"]
    return Fault(FaultKind.TRANSIENT, host, last[0])


@contextmanager
def _started(
    argv: Sequence[str], *, stdin: bool = False, stderr: int | IO[bytes] = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program as a process group of its own, and leave nothing of it behind."""
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            process_group=0,
        )
    except FileNotFoundError as error:
        raise Fault(FaultKind.CONFIG, argv[0], "is not installed here", next_command=f"install {argv[0]}") from error
    except OSError as error:
        raise from_os_error(error, argv[0]) from error
    try:
        yield process
    finally:
        if process.poll() is None:
            end_group(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


def _is_at_end(stream: IO[bytes]) -> bool:
    """Whether nothing more comes; of a program that says nothing and does not end, more may come."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(LEAVE_PATIENCE_S * 1000)) and not stream.read(1)


def end_group(process: subprocess.Popen[bytes], patience_s: float = 2.0) -> None:
    """End a program that leads its process group, and everything it started: asked first, then killed."""
    for what in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, what)
        except ProcessLookupError:
            break
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _status_fault(argv: Sequence[str], returncode: int, stderr: bytes, where: str | None = None) -> Fault:
    tail = stderr.decode("utf-8", "replace").strip()[-STDERR_TAIL_CHARS:]
    subject = f"{where}: {argv[0]}" if where else argv[0]
    return Fault(FaultKind.DATA, subject, f"ended with status {returncode}: {tail or 'without a word'}")
