"""Which disks are drained first: those that are nearly full."""

from __future__ import annotations

from collections.abc import Iterable

from custody.drain.config import load
from custody.drain.view import last_look
from custody.faults import Fault
from custody.ledger import Ledger


def rank_by_pressure(ledger: Ledger, config_names: Iterable[str]) -> list[tuple[str, int]]:
    """Configurations with the priority of their runs, the fullest disk first.

    The priority is the percentage of the disk in use from ``pressure_pct`` on, below it 0. The disk is as the last run
    saw it: one that nobody has seen, or whose configuration is wrong, has 0.
    """
    ranked = sorted(((_priority(ledger, name), name) for name in config_names), key=lambda each: (-each[0], each[1]))
    return [(name, priority) for priority, name in ranked]


def _priority(ledger: Ledger, config_name: str) -> int:
    look = last_look(ledger, config_name)
    try:
        is_pressed = look is not None and look.used_pct >= load(config_name).pressure_pct
    except Fault:
        return 0  # its own run says what is wrong with it
    return min(100, max(1, int(look.used_pct))) if look and is_pressed else 0
