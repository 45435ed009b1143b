"""All steps of a copy, one after the other."""

from __future__ import annotations

from custody.ledger import Ledger
from custody.minidvodb.preflight import preflight
from custody.minidvodb.publish import publish
from custody.minidvodb.records import Copy, load
from custody.minidvodb.step import Reach, Step, reach_locally
from custody.minidvodb.transfer import transfer
from custody.minidvodb.verify import verify

STEPS: dict[str, Step] = {"preflight": preflight, "transfer": transfer, "verify": verify, "publish": publish}
"""By name, in their order."""


def carry_out(ledger: Ledger, copy_id: int, *, who: str, reach: Reach = reach_locally) -> Copy:
    """Do what is left of a copy. Faults: those of its steps."""
    for step in STEPS.values():
        step(ledger, copy_id, who=who, reach=reach)
    return load(ledger, copy_id)
