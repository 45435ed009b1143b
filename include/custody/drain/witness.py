"""Witness: tells another copy from the same file by another way.

A directory can be reached by many names: a link, a mount, a file server, a login to this very machine. Size and digest
of a file that is compared with itself are equal, and say nothing. So while the targets are asked, the series' own
directory holds an empty file of a random name, and so does the item of every target that can be marked: whoever sees
the mark of another one *is* that other one.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from custody.digests import Fixity
from custody.drain.step import Work
from custody.drain.targets import Markable, Target
from custody.faults import Fault, FaultKind

MARK = ".custody-witness-"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Witness:
    """The marks that are out: by whose they are, target or (None) the series' own directory."""

    work: Work
    marks: Mapping[Target | None, str] = field(default_factory=dict)

    def names(self, target: Target) -> list[str]:
        """The marks that a target must not see: ask for them beside its files."""
        return [mark for owner, mark in self.marks.items() if owner is not target]

    def demand_other(self, target: Target, listed: Mapping[str, Fixity | None]) -> None:
        """Faults: CONFIG where a target's answer shows that what it holds is another place's own."""
        series = self.work.series
        for owner, mark in self.marks.items():
            if owner is target or listed.get(mark) is None:
                continue
            other = str(series.directory) if owner is None else owner.place(series.item, "")
            reason = f"is {other} by another way: what it holds is no second copy; nothing is let go"
            step = f"name a place on another disk in the configuration, then {series.next_command}"
            raise Fault(FaultKind.CONFIG, target.place(series.item, ""), reason, next_command=step)


@contextmanager
def witness(work: Work) -> Iterator[Witness]:
    """Put the marks out, and take them away again; those that a killed process left go too."""
    series = work.series
    with ExitStack() as taken_away:
        _sweep(series.directory)
        taken_away.callback(_sweep, series.directory)
        marks: dict[Target | None, str] = {None: _new_mark()}
        os.close(os.open(series.directory / marks[None], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        markable = [target for target in work.targets if isinstance(target, Markable)]
        for target in markable if len(work.targets) > 1 else ():
            taken_away.callback(_unmark, target, series.item)
            marks[target] = _new_mark()
            target.mark(series.item, marks[target])
        yield Witness(work, marks)


def _new_mark() -> str:
    return MARK + secrets.token_hex(8)


def _sweep(directory: Path) -> None:
    for left in directory.glob(f"{MARK}*"):
        left.unlink(missing_ok=True)


def _unmark(target: Markable, item: str) -> None:
    try:
        target.unmark(item, MARK)
    except Fault as fault:  # what was found out stands; the next step that asks takes it away
        _log.warning("a mark is left: %s", fault)
