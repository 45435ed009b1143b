"""Retire: the only way by which a published copy is deleted, and only where enough others were read equal just now."""

from __future__ import annotations

from dataclasses import dataclass, replace

import sqlalchemy as sa

from custody import gate, lease
from custody.digests import FileState, Fixity
from custody.faults import Fault, FaultKind
from custody.gate import DeleteFacts, ProvenCopy
from custody.ledger import Ledger
from custody.ledger.store import CopyState as LedgerState
from custody.ledger.store import now
from custody.minidvodb import aside, tables
from custody.minidvodb.audit import examine
from custody.minidvodb.far import Far
from custody.minidvodb.manifest import sha256_of
from custody.minidvodb.publish import place_of
from custody.minidvodb.records import ROOM, Copy, CopyState, CopyStep, change, lease_of, load
from custody.minidvodb.step import Reach, far_side


def retire(
    ledger: Ledger, copy_id: int, *, who: str, reach: Reach, copies_needed: int = 2, dry_run: bool = False
) -> gate.Verdict:
    """Delete a copy over there if ``copies_needed`` other copies are read and found equal now.

    It is taken out of sight first, and is deleted only while the others are still there without it. Its row stays, as
    ``retired``; the original does not count as a copy. Faults: NEEDS_HUMAN with every reason where the gate refuses;
    those of the host.
    """
    with lease.hold(ledger, lease_of(copy_id)) as held:
        copy = load(ledger, copy_id)
        if copy.state is not CopyState.FULL or not copy.row["manifest_sha256"]:
            raise Fault(FaultKind.CONFIG, copy.subject, f"is {copy.state} and not proven; nothing is deleted")
        with far_side(copy, reach) as far:
            if aside.put_back(far) == "deleted":  # by a call that was killed before it could say so
                _record(ledger, held, copy, who, far)
                return gate.Verdict()
            is_there = far.see().target == "directory"
        others = [_read(load(ledger, number), reach) for number in _others(ledger, copy)]
        verdict = _ask(copy, others, is_there, copies_needed)
        if dry_run:
            return verdict
        _demand(copy, verdict)
        with ledger.begin() as connection:
            held.check(connection)
            ledger.record_event(connection, who=who, room=ROOM, what="retiring", subject=copy.subject)
        with far_side(copy, reach) as far:
            mark = aside.set_aside(far)
            try:
                verdict = _ask(copy, [_look_again(one, mark or "", reach) for one in others], bool(mark), copies_needed)
                _demand(copy, verdict)
                held.check()
            except BaseException:
                aside.put_back(far)
                raise
            aside.delete(far)
            _record(ledger, held, copy, who, far)
        return verdict


@dataclass(frozen=True)
class _Other:
    """Another copy, with what was read of it in this very call, and the fingerprint of what was read."""

    copy: Copy
    proven: ProvenCopy
    fingerprint: str | None


def _ask(copy: Copy, others: list[_Other], is_there: bool, copies_needed: int) -> gate.Verdict:
    recorded = Fixity(copy.row["bytes"], {"sha256": copy.row["manifest_sha256"]})
    state = FileState(recorded.size_bytes, 0, 0)  # a directory: its bytes are compared by its manifest
    return gate.may_delete(
        DeleteFacts(
            recorded=recorded,
            recorded_state=state,
            found_state=state if is_there else None,
            copies=[one.proven for one in others],
            copies_needed=copies_needed,
            asked_at=now(),
        )
    )


def _demand(copy: Copy, verdict: gate.Verdict) -> None:
    if not verdict.allowed:
        raise Fault(
            FaultKind.NEEDS_HUMAN,
            copy.subject,
            f"stays: {verdict}",
            next_command="custody minidvodb audit, and see which copies are full",
        )


def _record(ledger: Ledger, held: lease.Held, copy: Copy, who: str, far: Far) -> None:
    with ledger.begin() as connection:
        held.check(connection)
        change(connection, copy.id, state=CopyState.RETIRED, step=CopyStep.QUEUED, fingerprint=None)
        fixity = Fixity(copy.row["bytes"], {"sha256": copy.row["manifest_sha256"]})
        file_id = ledger.record_file(connection, copy.name, fixity)
        ledger.record_copy(connection, file_id, place_of(copy), LedgerState.RELEASED)
        ledger.record_event(connection, who=who, room=ROOM, what="retired", subject=copy.subject)
    aside.forget(far)


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


def _read(copy: Copy, reach: Reach) -> _Other:
    """Another copy, read in this very call."""
    proven = Fixity(copy.row["bytes"], {"sha256": copy.row["manifest_sha256"]})
    found: Fixity | None = None
    fingerprint: str | None = None
    try:
        with far_side(copy, reach) as far:
            manifest, complaint, _ = examine(copy, far)
            if not complaint:
                fingerprint = far.glance()
                found = Fixity(manifest.size_bytes, {"sha256": sha256_of(manifest.text())})
    except Fault:
        found = None  # who cannot be asked proves nothing
    return _Other(copy, ProvenCopy(copy.destination.name, proven, copy.row["verified_at"], found), fingerprint)


def _look_again(other: _Other, mark: str, reach: Reach) -> _Other:
    """The same while the one that is to go is out of sight: what vanished with it, or has its mark, is no other."""
    try:
        with far_side(other.copy, reach) as far:
            is_same = not aside.has_mark(far, mark) and far.glance() == other.fingerprint is not None
    except Fault:
        is_same = False
    return other if is_same else replace(other, proven=replace(other.proven, now=None))
