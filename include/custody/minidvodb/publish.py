"""Publish: one rename lets the verified copy appear; then it goes on record. A crash between the two is found out."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from custody.digests import Fixity
from custody.ledger.store import CopyState as LedgerState
from custody.ledger.store import disk_place, now
from custody.minidvodb import chain
from custody.minidvodb.codes import CopyFault, FaultCode
from custody.minidvodb.far import Published
from custody.minidvodb.manifest import mark_of, take_snapshot
from custody.minidvodb.preflight import CHECKED_MARK
from custody.minidvodb.records import NOT_RESERVED, Copy, CopyState, CopyStep, elapsed_s
from custody.minidvodb.step import Work, copy_step

PROOF = "manifest"


@copy_step("publish", needs=CopyStep.VERIFIED, makes=CopyStep.PUBLISHED)
def publish(work: Work) -> None:
    """Make the copy visible and put it on record as full, with its proof.

    Faults: SOURCE_CHANGED where the database is no longer what was verified (nothing is published then), VERIFY where
    the staged directory was touched or something else has its name, DB_UPDATE where only the record failed.
    """
    copy = work.copy
    far = work.far()
    mark = _demand_source(work)
    end = far.publish(str(copy.row["fingerprint"]), replace=bool(copy.row["may_replace"]))
    if end is Published.TAKEN:
        raise far.taken()
    if end in {Published.CHANGED, Published.GONE}:
        work.back_to = CopyStep.SENT if end is Published.CHANGED else CopyStep.CHECKED
        reason = "is not the one that was verified" if end is Published.CHANGED else "is gone"
        raise CopyFault(
            FaultCode.VERIFY,
            far.where,
            f"the staged copy {reason}; nothing is published",
            next_command="the next run takes it up",
        )
    work.detail |= {"bytes": copy.row["bytes"], "files": copy.row["files"], "found_published": end is Published.ALREADY}
    work.values |= {
        "state": CopyState.FULL,
        "profile": {**copy.row["profile"], "source_mark": mark},
        "attempts": 0,
        "may_replace": False,
        "ended_at": now(),
        "dtime": elapsed_s(copy.row["started_at"]) or 0.0,
        **NOT_RESERVED,
    }
    work.also = lambda connection: record_copies(work, connection)


def _demand_source(work: Work) -> str:
    """Whether the database is still the one that was sent and verified; returns the mark of the look at it."""
    holder = chain.holder_of(work)
    if holder:
        chain.demand_untouched(work, holder)
        return ""
    mark = mark_of(take_snapshot(work.copy.source))
    if mark != work.copy.row["profile"].get(CHECKED_MARK):
        work.back_to = CopyStep.QUEUED
        raise CopyFault(
            FaultCode.SOURCE_CHANGED,
            str(work.copy.source),
            "was written to after it was copied; nothing is published",
            next_command="it is copied again",
        )
    return mark


def record_copies(work: Work, connection: Connection) -> None:
    """The shared tables: the database, where it lies, and what proves it."""
    copy, ledger = work.copy, work.ledger
    fixity = Fixity(copy.row["bytes"], {"sha256": copy.row["manifest_sha256"]})
    file_id = ledger.record_file(connection, copy.name, fixity)
    ledger.record_copy(connection, file_id, disk_place(copy.source), LedgerState.PRESENT)
    there = ledger.record_copy(connection, file_id, place_of(copy), LedgerState.SENT)
    ledger.record_proof(connection, there, PROOF, fixity, work.who)


def place_of(copy: Copy) -> str:
    """Where a copy lies, as the shared tables name places."""
    return f"ssh://{copy.destination.name}{copy.path.rstrip('/')}/{copy.name}"
