"""What is to be imported: paths that somebody typed, a list file, or the directories below one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.host import Host
from custody.tape.names import unescape
from custody.tape.targets import read_list

_FIND_TIMEOUT_S = 3600
_LARGEST_LIST_BYTES = 256 << 20


def typed(paths: Sequence[str], where: str = "targets") -> list[bytes]:
    r"""Paths as people type them; odd bytes are written as Custody prints them (``\n``, ``\377``, ``\\``).

    Faults: CONFIG, naming the path that is none.
    """
    raw = []
    for path in paths:
        try:
            raw.append(unescape(path.strip()))
        except (ValueError, UnicodeEncodeError) as error:
            reason = f"{path!r} cannot be read ({error})"
            raise Fault(FaultKind.CONFIG, where, reason, next_command=r"write a backslash as \\") from error
    return read_list(b"\0".join(raw) + b"\0", where)


def from_file(path: Path) -> list[bytes]:
    """The paths in a list file of this machine, as ``custody tape import`` reads it. Faults: CONFIG."""
    with os_errors_as_faults(str(path)):
        if not path.is_file() or path.stat().st_size > _LARGEST_LIST_BYTES:
            raise Fault(FaultKind.CONFIG, str(path), "is no list of targets", next_command=f"ls -l {path}")
        content = path.read_bytes()
    try:
        return read_list(content, str(path))
    except Fault as fault:
        # only the number of the line: whatever file was named by mistake, its content belongs in no log
        reason = fault.reason.partition(":")[0] + " is no absolute path" if ":" in fault.reason else fault.reason
        raise Fault(fault.kind, fault.subject, reason, next_command=fault.next_command) from None


def below(host: Host, directory: str, pattern: str = "*") -> list[bytes]:
    """The directories directly below one of the source, by their names as find(1) matches them; sorted.

    Faults: CONFIG where there are none, or the directory cannot be read; those of the host.
    """
    (top,) = typed([directory], "find_below")
    # %P would lose a directory's own name; links to directories are no targets: tar would store the link
    argv = ["find", os.fsdecode(top), "-mindepth", "1", "-maxdepth", "1", "-type", "d", "-name", pattern, "-print0"]
    answer = host.run(argv, timeout_s=_FIND_TIMEOUT_S)
    subject = f"{host.name}:{directory}"
    if answer.returncode:
        raise Fault(FaultKind.CONFIG, subject, answer.stderr_tail or "cannot be read", next_command="check the path")
    if not answer.stdout:
        raise Fault(FaultKind.CONFIG, subject, f"holds no directory called {pattern}", next_command="check find_name")
    return sorted(read_list(answer.stdout, subject))
