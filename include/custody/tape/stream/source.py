"""The program that makes the stream: GNU tar on the machine that has the data."""

from __future__ import annotations

import contextlib
import fcntl
import posixpath
import re
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Self

from custody.faults import Fault, FaultKind
from custody.host import Host, classify_ssh
from custody.tape.names import escape, unescape

_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)
CLEAN_ENVIRONMENT = ("env", "-u", "TAPE", "-u", "TAR_OPTIONS", "-u", "POSIXLY_CORRECT", "LC_ALL=C")
"""An exported TAPE makes a tar without -f write to the drive; TAR_OPTIONS changes what it makes."""

STATUS = re.compile(r"ended with status (-?\d+): (.*)", re.DOTALL)
_COMPLAINTS: Sequence[tuple[re.Pattern[str], FaultKind, str]] = (
    (
        re.compile(r"^tar: (.*?): (Cannot .*: Permission denied)$", re.MULTILINE),
        FaultKind.CONFIG,
        "give its reader the right to it",
    ),
    (
        re.compile(r"^tar: (.*?): (Cannot .*: No such file or directory)$", re.MULTILINE),
        FaultKind.DATA,
        "scan the target again",
    ),
    (
        re.compile(r"^tar: (.*?): ((?:Cannot|Read error|Warning: Read error) .*)$", re.MULTILINE),
        FaultKind.DATA,
        "check its disk (dmesg, smartctl)",
    ),
    (
        re.compile(r"^tar: (.*?): (file changed as we read it)$", re.MULTILINE),
        FaultKind.DATA,
        "archive again when nobody writes there",
    ),
    (
        re.compile(r"^tar: (.*?): (File (?:removed before we read it|shrank by .*))$", re.MULTILINE),
        FaultKind.DATA,
        "archive again when nobody writes there",
    ),
)


def name_in_archive(target: bytes) -> bytes:
    """The name of a target in its archive: the absolute path without the slash it begins with.

    CONFIG where it is no absolute path, or the root of everything.
    """
    if not target.startswith(b"/") or b"\0" in target:
        raise Fault(FaultKind.CONFIG, f"target {escape(target)}", "is no absolute path")
    name = posixpath.normpath(target).lstrip(b"/")
    if not name:
        raise Fault(FaultKind.CONFIG, "target /", "is a whole machine", next_command="name the directories in it")
    return name


def tar_argv(target: bytes, excluded: Sequence[bytes] = ()) -> list[str]:
    """The argument vector that writes a target to standard output, without the paths ``excluded`` below it."""
    argv = [*CLEAN_ENVIRONMENT, "tar", "--create", "--file=-", "--format=gnu", "--sparse", "--numeric-owner"]
    argv += ["--blocking-factor=2048", "--quoting-style=escape", "--anchored", "--no-wildcards"]
    argv += ["--exclude=" + _argument(name_in_archive(child)) for child in excluded]
    return [*argv, "--directory=/", "--", _argument(name_in_archive(target))]


def _argument(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


class TarSource:
    """A target as a tar stream, from the host that has it. Use it in a ``with``.

    :ivar stream: to be read by one reader, to its end.

    At the end, and at :meth:`ended`, the program's exit status counts. Faults: DATA for source drift (tar's status 1),
    for what vanished or cannot be read, each named; CONFIG for what tar has no right to or a missing tar; those of ssh
    as :class:`~custody.host.SshHost` has them, TRANSIENT for a connection that broke.
    """

    stream: IO[bytes]

    def __init__(self, host: Host, target: bytes, excluded: Sequence[bytes] = ()) -> None:
        self._host = host
        self._target = target
        self._argv = tar_argv(target, excluded)
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.stream = self._open.enter_context(self._host.stream(self._argv))
        with contextlib.suppress(OSError):  # a larger pipe spares switching; more than that it is not
            fcntl.fcntl(self.stream, _F_SETPIPE_SZ, _PIPE_BYTES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.ended()
            return
        self._open.__exit__(kind, error, trace)

    def ended(self) -> None:
        """Say that the stream was read to its end; raises what tar or ssh have to complain of, once."""
        try:
            self._open.close()
        except Fault as fault:
            raise classify_tar(fault, self._host.name, self._target) from fault


def classify_tar(fault: Fault, host: str, target: bytes) -> Fault:
    """What the fault of :meth:`~custody.host.Host.stream` means when tar ran; others come back as they are."""
    found = STATUS.match(fault.reason)
    if found is None:
        return fault
    status, complaint = int(found[1]), found[2]
    subject = f"{host}:{escape(target)}"
    if status == 255:
        lost = classify_ssh(host, complaint)
        return Fault(lost.kind, subject, f"the connection broke: {lost.reason}", next_command=lost.next_command)
    if status in {126, 127}:
        return Fault(FaultKind.CONFIG, host, f"has no tar to run ({complaint})", next_command="install GNU tar there")
    if status < 0 or status > 128:
        return Fault(FaultKind.TRANSIENT, subject, f"tar was ended by signal {abs(status) & 127}")
    return _named(status, complaint, subject, target) or Fault(FaultKind.DATA, subject, f"tar failed: {complaint}")


def _named(status: int, complaint: str, subject: str, target: bytes) -> Fault | None:
    for pattern, kind, next_step in _COMPLAINTS:
        all_found = pattern.findall(complaint)
        if not all_found:
            continue
        name, what = all_found[0]
        more = f" (and {len(all_found) - 1} more)" if len(all_found) > 1 else ""
        if _bytes_of(name) == name_in_archive(target) and "No such file" in what:
            return Fault(FaultKind.CONFIG, subject, "is not there", next_command="check the path of the target")
        drift = "the source changed while it was archived: " if status == 1 else ""
        return Fault(kind, subject, f"{drift}/{escape(_bytes_of(name))}: {what}{more}", next_command=next_step)
    return None


def _bytes_of(printed: str) -> bytes:
    try:
        return unescape(printed).lstrip(b"/")
    except ValueError:
        return printed.encode("utf-8", "surrogateescape")
