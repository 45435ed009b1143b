"""One step on several things in one task: what stops one of them stops no other.

Starting a task costs more than many a step. So small things share one; each keeps its own lease, state and faults.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar, Generic, TypeVar

from custody.faults import Fault, FaultKind
from custody.ledger.store import now

Thing = TypeVar("Thing")
_UNNAMED_WAIT = timedelta(seconds=60)  # for who asks to wait and does not say until when
_log = logging.getLogger(__name__)


@dataclass
class Tried(ABC, Generic[Thing]):
    """What became of the things of a batch in one step.

    ``passed`` are those that an earlier step left behind with a fault on record; ``faults`` those of this step.
    """

    one: ClassVar[str]
    """What a thing is called in a message; and several of them:"""
    several: ClassVar[str]

    count: int
    through: list[Thing] = field(default_factory=list)
    passed: list[Thing] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def each(self, numbers: Sequence[int], step: Callable[[int], None]) -> None:
        """Call ``step`` for each number; it puts what got through into ``through`` itself, or raises."""
        for number in numbers:
            try:
                step(number)
            except Fault as fault:
                if self.count > 1:
                    _log.warning("%s", fault)  # the fault that the step ends with is told by who catches it
                self.faults.append(fault)
            except Exception as error:
                if self.count == 1:
                    raise
                _log.exception("%s %d", self.one, number)
                reason = f"{type(error).__name__}: {error}"
                self.faults.append(Fault(FaultKind.TRANSIENT, f"{self.one} {number}", reason))

    def fault(self, *, may_retry: bool, is_last: bool) -> Fault | None:
        """The fault that the step ends with; None where the next one may begin.

        A wait or another attempt comes first, and only after that the worst. While some got through, what the others
        have on record keeps none back, unless the step was stopped; the last step ends with whatever is left.
        """
        if waits := [fault for fault in self.faults if fault.kind is FaultKind.THROTTLED]:
            return max(waits, key=lambda fault: fault.until or now() + _UNNAMED_WAIT)
        again = [fault for fault in self.faults if _is_mended_by_time(fault)]
        if again and may_retry:
            return self._among_others(again[0])
        is_stopped = any(fault.kind is FaultKind.CANCELLED for fault in self.faults)
        if self.through and not is_last and not is_stopped:
            return None
        if self.faults:
            return self._among_others(max(self.faults, key=_severity))
        return self._of_passed(self.passed[0]) if self.passed else None

    def _among_others(self, fault: Fault) -> Fault:
        """The same fault, saying that it is not alone."""
        if self.count == 1:
            return fault
        left = len(self.faults) + len(self.passed)
        reason = f"{fault.reason} ({left} of the {self.count} {self.several} of this batch are left)"
        return Fault(fault.kind, fault.subject, reason, next_command=fault.next_command, until=fault.until)

    def _of_passed(self, thing: Thing) -> Fault:
        """For a batch of which this step had nothing to complain, and some did not get so far."""
        fault = self._left_behind(thing)
        reason = f"{fault.reason} ({len(self.passed)} of the {self.count} {self.several} of this batch are left)"
        return Fault(fault.kind, fault.subject, reason, next_command=fault.next_command)

    @abstractmethod
    def _left_behind(self, thing: Thing) -> Fault:
        """The fault that a thing has on record, with the next command."""


def _is_mended_by_time(fault: Fault) -> bool:
    return fault.kind.is_worth_a_retry or fault.kind is FaultKind.CONFLICT


def _severity(fault: Fault) -> int:
    if fault.kind is FaultKind.CANCELLED:
        return 0
    return 1 if _is_mended_by_time(fault) else 2
