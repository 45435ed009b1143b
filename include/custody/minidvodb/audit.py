"""Audit: read published copies again. What was full and is not any more gets a state of its own, to be copied anew."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from custody import lease
from custody.digests import Fixity
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import CopyState as LedgerState
from custody.ledger.store import now
from custody.minidvodb import tables
from custody.minidvodb.codes import CopyFault, FaultCode
from custody.minidvodb.destination import identify
from custody.minidvodb.far import Far
from custody.minidvodb.manifest import (
    FILE,
    Manifest,
    describe,
    differences,
    digest_file,
    mark_of,
    sha256_of,
    take_snapshot,
)
from custody.minidvodb.publish import PROOF, place_of
from custody.minidvodb.records import ROOM, Copy, CopyState, change, lease_of, load
from custody.minidvodb.step import Reach, far_side, reach_locally


@dataclass(frozen=True)
class Audited:
    """What was found of one copy. ``state``: full, lost or corrupt; ``complaint`` says what is wrong."""

    copy_id: int
    subject: str
    state: CopyState
    complaint: str


def due(ledger: Ledger, *, older_than: timedelta, limit: int, host: str | None = None) -> list[int]:
    """Full copies that were not read for so long, those never read first."""
    one = tables.copy
    old = sa.or_(one.c.verified_at.is_(None), one.c.verified_at < now() - older_than)
    never_first = sa.case((one.c.verified_at.is_(None), 0), else_=1)
    query = (
        sa.select(one.c.minidvodbcopy_id)
        .join(tables.destination, tables.destination.c.id == one.c.destination_id)
        .where(one.c.state == CopyState.FULL, tables.destination.c.enabled, old)
        .order_by(never_first, one.c.verified_at, one.c.minidvodbcopy_id)
        .limit(limit)
    )
    if host:
        query = query.where(tables.destination.c.name == host)
    with ledger.read() as connection:
        return [int(number) for number in connection.scalars(query)]


def audit(ledger: Ledger, copy_id: int, *, who: str, reach: Reach = reach_locally) -> Audited:
    """Read one published copy over there and compare it with its manifest.

    One that has none on record (taken over from the old system) is compared with the database itself. Faults: those
    of reaching the host, which change nothing; CONFLICT where somebody works on it.
    """
    with lease.hold(ledger, lease_of(copy_id)) as held:
        copy = load(ledger, copy_id)
        if copy.state is not CopyState.FULL:
            return Audited(copy_id, copy.subject, copy.state, f"it is {copy.state}: nothing to audit")
        with far_side(copy, reach) as far:
            look = far.see()  # a disk that is not mounted has lost nothing
            identify(ledger, copy.destination, look.machine, look.filesystem, copy.path)
            manifest, complaint, state = examine(copy, far)
        with ledger.begin() as connection:
            held.check(connection)
            _record(ledger, connection, copy, manifest, state, complaint, who)
    return Audited(copy_id, copy.subject, state, complaint)


def glance(ledger: Ledger, copy_id: int, *, reach: Reach = reach_locally) -> str:
    """Whether anything was touched since a copy was proven, here or over there; no file is read. Empty: nothing was.

    It proves nothing, and changes nothing on record: what differs is for an audit to read. Faults: those of the host.
    """
    copy = load(ledger, copy_id)
    if copy.state is not CopyState.FULL or not copy.row["fingerprint"]:
        return f"it is {copy.state}, and was not copied by us"
    with far_side(copy, reach) as far:
        look_there = far.begin_glance()
        if mark_of(take_snapshot(copy.source)) != copy.row["profile"].get("source_mark"):
            return "the database was written to since it was copied"
        found = look_there()
    return "" if found == copy.row["fingerprint"] else "is not there" if found is None else "was touched over there"


def examine(copy: Copy, far: Far) -> tuple[Manifest, str, CopyState]:
    """The manifest that holds for a published copy, what is wrong with it, and its state. Nothing is written down."""
    manifest, is_saved = manifest_for(copy, far)
    proof = far.prove(manifest.size_bytes, manifest.algorithm, published=True)
    if proof is None:
        return manifest, "is not there", CopyState.LOST
    found = differences(manifest, proof.entries, proof.digests)
    if found:
        return manifest, describe(found), CopyState.CORRUPT
    if not is_saved:
        far.save_manifest(manifest.text(), published=True)
    return manifest, "", CopyState.FULL


def manifest_for(copy: Copy, far: Far) -> tuple[Manifest, bool]:
    """The manifest on record from beside the data, or made anew from the database; and whether it lies there.

    Faults: VERIFY, for a person, where neither is the one on record.
    """
    expected = copy.row["manifest_sha256"]
    text = far.read_manifest()
    if text and expected and sha256_of(text) == expected:
        return Manifest.parse(text, far.where), True
    entries = take_snapshot(copy.source)
    algorithm = copy.row["algorithm"] or copy.destination.settings.digest
    root = os.fsencode(Path(copy.source))
    digests = {path: digest_file(root, entry, algorithm) for path, entry in entries.items() if entry.kind == FILE}
    manifest = Manifest(entries, digests, algorithm)
    if expected and sha256_of(manifest.text()) != expected:
        raise CopyFault(
            FaultCode.VERIFY,
            far.where,
            "its manifest is gone or altered, and the database is no longer the one it was made from",
            kind=FaultKind.NEEDS_HUMAN,
            next_command=f"custody minidvodb update --copy {copy.id} --set-state corrupt, then "
            f"custody minidvodb revert --copy {copy.id}",
        )
    return manifest, False


def _record(
    ledger: Ledger,
    connection: sa.Connection,
    copy: Copy,
    manifest: Manifest,
    state: CopyState,
    complaint: str,
    who: str,
) -> None:
    fixity = Fixity(manifest.size_bytes, {"sha256": sha256_of(manifest.text())})
    file_id = ledger.record_file(connection, copy.name, fixity)
    if state is CopyState.FULL:
        there = ledger.record_copy(connection, file_id, place_of(copy), LedgerState.PROVEN)
        ledger.record_proof(connection, there, PROOF, fixity, who)
        change(
            connection,
            copy.id,
            verified_at=now(),
            manifest_sha256=fixity.digests["sha256"],
            algorithm=manifest.algorithm,
            bytes=manifest.size_bytes,
            files=manifest.files,
        )
    else:
        ledger.record_copy(connection, file_id, place_of(copy), LedgerState.LOST)
        text = f"{copy.subject}: {complaint}. Next: custody minidvodb revert --copy {copy.id}"
        code = FaultCode.VERIFY
        kind = FaultKind.NEEDS_HUMAN
        change(connection, copy.id, state=state, fault=code.number, fault_name=code, fault_kind=kind, fault_text=text)
    result = "done" if state is CopyState.FULL else FaultKind.DATA
    detail = {"state": state, "complaint": complaint}
    ledger.record_event(
        connection, who=who, room=ROOM, what="audited", subject=copy.subject, result=result, detail=detail
    )


def audit_due(
    ledger: Ledger, *, who: str, reach: Reach, older_than: timedelta, limit: int, host: str | None = None
) -> tuple[list[Audited], list[Fault]]:
    """Audit what is due; a host out of reach keeps no other from being audited."""
    found: list[Audited] = []
    faults: list[Fault] = []
    for copy_id in due(ledger, older_than=older_than, limit=limit, host=host):
        try:
            found.append(audit(ledger, copy_id, who=who, reach=reach))
        except Fault as fault:
            faults.append(fault)
    return found, faults
