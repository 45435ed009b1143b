"""Retire: the only way by which a published copy is deleted, and only where enough others were read equal just now."""

from __future__ import annotations

import sqlalchemy as sa

from custody import gate, lease
from custody.digests import FileState, Fixity
from custody.faults import Fault, FaultKind
from custody.gate import DeleteFacts, ProvenCopy
from custody.ledger import Ledger
from custody.ledger.store import CopyState as LedgerState
from custody.ledger.store import now
from custody.minidvodb import tables
from custody.minidvodb.audit import examine
from custody.minidvodb.manifest import sha256_of
from custody.minidvodb.publish import place_of
from custody.minidvodb.records import ROOM, Copy, CopyState, CopyStep, change, lease_of, load
from custody.minidvodb.step import Reach, far_side


def retire(
    ledger: Ledger, copy_id: int, *, who: str, reach: Reach, copies_needed: int = 2, dry_run: bool = False
) -> gate.Verdict:
    """Delete a copy over there if ``copies_needed`` other copies are read and found equal now.

    Its row stays, as ``retired``; the original does not count as a copy. Faults:
    NEEDS_HUMAN with every reason where the gate refuses; those of the host.
    """
    with lease.hold(ledger, lease_of(copy_id)) as held:
        copy = load(ledger, copy_id)
        if copy.state is not CopyState.FULL or not copy.row["manifest_sha256"]:
            raise Fault(FaultKind.CONFIG, copy.subject, f"is {copy.state} and not proven; nothing is deleted")
        recorded = Fixity(copy.row["bytes"], {"sha256": copy.row["manifest_sha256"]})
        others = [_state_now(load(ledger, number), reach) for number in _others(ledger, copy)]
        with far_side(copy, reach) as far:
            is_there = far.probe().target == "directory"
        state = FileState(recorded.size_bytes, 0, 0)  # a directory: its bytes are compared by its manifest
        verdict = gate.may_delete(
            DeleteFacts(
                recorded=recorded,
                recorded_state=state,
                found_state=state if is_there else None,
                copies=others,
                copies_needed=copies_needed,
                asked_at=now(),
            )
        )
        if dry_run:
            return verdict
        if not verdict.allowed:
            raise Fault(
                FaultKind.NEEDS_HUMAN,
                copy.subject,
                f"stays: {verdict}",
                next_command="custody minidvodb audit, and see which copies are full",
            )
        with ledger.begin() as connection:
            held.check(connection)
            ledger.record_event(connection, who=who, room=ROOM, what="retiring", subject=copy.subject)
        with far_side(copy, reach) as far:
            far.remove_published()
        with ledger.begin() as connection:
            held.check(connection)
            change(connection, copy.id, state=CopyState.RETIRED, step=CopyStep.QUEUED, fingerprint=None)
            file_id = ledger.record_file(connection, copy.name, recorded)
            ledger.record_copy(connection, file_id, place_of(copy), LedgerState.RELEASED)
            ledger.record_event(connection, who=who, room=ROOM, what="retired", subject=copy.subject)
        return verdict


def _others(ledger: Ledger, copy: Copy) -> list[int]:
    one = tables.copy
    query = sa.select(one.c.minidvodbcopy_id).where(
        one.c.minidvodb_id == copy.minidvodb_id,
        one.c.minidvodbcopy_id != copy.id,
        one.c.state == CopyState.FULL,
        one.c.manifest_sha256 == copy.row["manifest_sha256"],
    )
    with ledger.read() as connection:
        return [int(number) for number in connection.scalars(query)]


def _state_now(copy: Copy, reach: Reach) -> ProvenCopy:
    """Another copy, read in this very call."""
    proven = Fixity(copy.row["bytes"], {"sha256": copy.row["manifest_sha256"]})
    found: Fixity | None = None
    try:
        with far_side(copy, reach) as far:
            manifest, complaint, _ = examine(copy, far)
        if not complaint:
            found = Fixity(manifest.size_bytes, {"sha256": sha256_of(manifest.text())})
    except Fault:
        found = None  # who cannot be asked proves nothing
    return ProvenCopy(copy.destination.name, proven, copy.row["verified_at"], found)
