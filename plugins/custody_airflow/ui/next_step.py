"""What a fault's one line tells a person to do next, and which part of it may be copied into a shell.

The line ends in ``Next: ...``: a command, a command with a remark, or a sentence that holds commands. Only what starts
with a program we name ourselves and holds nothing that chains commands is offered for copying: parts of a line may
come from a server or a file name.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass

from custody.faults import FaultKind

_COMMAND = re.compile(
    r"(?:^|(?<=: )|(?<=then )|(?<=`))"
    r"(?P<command>(?:airflow|custody|touch|ls|md5sum) [^;|&$`<>\\\r\n]*?)"
    r"(?=$| \([^)]*\)$|`)"
)


@dataclass(frozen=True)
class NextStep:
    """A fault line taken apart.

    :param advice: the sentence that says what to do, empty where the command says it all.
    :param commands: what may be copied.
    :param remark: what the line says about its command.
    """

    reason: str
    advice: str = ""
    commands: tuple[str, ...] = ()
    remark: str = ""


def next_step(line: str) -> NextStep:
    """Take the line of a fault apart."""
    reason, found, rest = line.rpartition(". Next: ")
    if not found:
        return NextStep(line)
    commands = tuple(match["command"].strip() for match in _COMMAND.finditer(rest))
    if len(commands) == 1 and rest.startswith(commands[0]):
        remark = rest.removeprefix(commands[0]).strip().removeprefix("(").removesuffix(")")
        return NextStep(reason, "", commands, remark)
    return NextStep(reason, rest, commands)


def start_run(config: str) -> str:
    """The command that takes all unfinished series of a configuration up again."""
    return f"airflow dags trigger drain --conf {shlex.quote(json.dumps({'config': config}))}"


def patience(kind: str | None, *, on_hold: bool = False) -> str:
    """Why something that stopped can wait, said before its command; empty where it needs a person."""
    if kind == FaultKind.CANCELLED:
        return "It was stopped on purpose. To go on:"
    if kind == FaultKind.NEEDS_HUMAN and on_hold:
        return "It is on hold on purpose. To let it go on:"
    if kind in set(FaultKind) and FaultKind(kind).is_worth_a_retry:
        return "It is tried again by itself. To try now:"
    return ""
