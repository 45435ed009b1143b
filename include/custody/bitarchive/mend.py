"""Bit preservation, the second half: what is missing is brought back, and what has changed is replaced.

Nothing is written before a copy of another replica was read whole and found equal to the catalogue; nothing is replaced
unless every fact, and a person, say so, and what is replaced stays in the attic.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from custody import gate, lease
from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.catalogue import Held
from custody.bitarchive.checksum_replica import ChecksumReplica
from custody.bitarchive.config import Replica, ReplicaType
from custody.bitarchive.names import check_name
from custody.bitarchive.nodes import ALGORITHMS, ArchiveNode
from custody.bitarchive.sources import roomiest
from custody.bitarchive.states import ChecksumStatus, FilelistStatus, UploadState
from custody.bitarchive.votes import record_vote, status_of, write
from custody.digests import Fixity, read_file
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.gate import Verdict
from custody.ledger.store import now


def upload_missing(archive: Archive, replica: Replica, names: Sequence[str], *, who: str) -> dict[str, str]:
    """Bring files that a replica lacks from another one; returns, by name, why not (empty where it was done).

    The other copy is read whole and compared with the catalogue before anything is written.
    """
    answers = dict.fromkeys(names, "")
    for name in answers:
        try:
            _bring(archive, replica, name, who)
        except Fault as fault:
            answers[name] = str(fault)
    return answers


def _bring(archive: Archive, replica: Replica, name: str, who: str) -> None:
    held = _one(archive, replica, name)
    with lease.hold(archive.ledger, f"bitarchive-mend/{archive.name}/{held.id}") as held_lease:
        if replica.type is ReplicaType.CHECKSUM:
            ChecksumReplica.of(replica).put(name, held.fixity.digests["md5"])
            with archive.ledger.begin() as connection:
                held_lease.check(connection)
                catalogue.set_upload_state(connection, held.id, replica.id, UploadState.UPLOAD_COMPLETED)
                write(connection, held, replica, filelist_status=FilelistStatus.OK, filelist_checked_at=now())
                catalogue.event(connection, archive, who, "brought back", name, replica=replica.id)
            return
        for node in archive.nodes(replica):
            if node.size_of(name) is not None:
                reason = "is there already; it is not missing"
                command = f"custody bitarchive adopt {archive.name} {replica.id}"
                raise Fault(FaultKind.CONFLICT, node.place(name), reason, next_command=command)
        node = archive.node(replica, held.node) if held.node else roomiest(archive, replica, held.fixity.size_bytes)
        with _GoodCopy(archive, replica, held) as path:
            node.put(path, name, held.fixity)
        _prove_mended(archive, replica, node, held, who, "brought back", held_lease)


@dataclass(frozen=True)
class CorrectFacts:
    """All that is known when a changed file is about to be replaced.

    :param recorded: of the catalogue.
    :param stated_wrong: the md5 that the person saw and wants to be rid of.
    :param found: of a fresh read of the file; None where it is gone.
    :param status: what the vote said of it.
    :param good: of a fresh read of the copy that is to take its place.
    :param approved_by: the person who agreed.
    :param approvers: those who may, where the archive names them; empty: anybody.
    """

    recorded: Fixity
    stated_wrong: str
    found: Fixity | None
    status: ChecksumStatus
    good: Fixity | None
    approved_by: str
    approvers: Sequence[str] = ()


def may_correct(facts: CorrectFacts) -> Verdict:
    """Whether a file of a replica may be replaced: it is wrong, by everybody's word, and a good one is in hand."""
    reasons = []
    if not facts.approved_by.strip():
        reasons.append("no person has approved it")
    elif facts.approvers and facts.approved_by not in facts.approvers:
        reasons.append(f"{facts.approved_by} may not approve it; {', '.join(facts.approvers)} may")
    if facts.found is None:
        reasons.append("there is no such file: bring it back as missing")
    else:
        if facts.found.digests.get("md5") != facts.stated_wrong:
            reasons.append(f"its md5 is {facts.found.digests.get('md5')} now, not the one that was to be replaced")
        if gate.may_record_proof(facts.recorded, facts.found).allowed:
            reasons.append("it is what the catalogue says")
    if facts.status is not ChecksumStatus.CORRUPT:
        reasons.append(f"the vote says {facts.status}, not CORRUPT")
    if facts.good is None or not gate.may_record_proof(facts.recorded, facts.good).allowed:
        reasons.append("no good copy is in hand")
    return Verdict(tuple(reasons))


def correct(archive: Archive, replica: Replica, name: str, wrong_md5: str, *, approved_by: str, who: str) -> str:
    """Replace a changed file by a good copy of another replica; the changed one stays in the attic.

    Returns its name there. Faults: CONFIG for a checksum replica or an unknown file, NEEDS_HUMAN with every reason
    where the facts do not allow it; nothing is touched then.
    """
    if replica.type is not ReplicaType.BITARCHIVE:
        raise Fault(FaultKind.CONFIG, f"replica {replica.id}", "holds checksums only; its file is mended by hand")
    held = _one(archive, replica, name)
    with lease.hold(archive.ledger, f"bitarchive-mend/{archive.name}/{held.id}") as held_lease:
        if not held.node:
            raise Fault(FaultKind.CONFIG, name, f"was never read back in replica {replica.id}; it cannot have changed")
        node, config = archive.node(replica, held.node), archive.config
        found = None if node.size_of(name) is None else node.digest(name)
        if found is not None:
            record_vote(archive, replica, held, found, who)
        with _GoodCopy(archive, replica, held) as path:
            good = read_file(path, ALGORITHMS).fixity
            status = status_of(archive, replica, held)
            facts = CorrectFacts(held.fixity, wrong_md5.lower(), found, status, good, approved_by, config.approvers)
            verdict = may_correct(facts)
            with archive.ledger.begin() as connection:
                held_lease.check(connection)
                catalogue.event(
                    connection,
                    archive,
                    who,
                    "correct",
                    name,
                    "intent" if verdict.allowed else "refused",
                    replica=replica.id,
                    wrong_md5=wrong_md5,
                    approved_by=approved_by,
                    reasons=str(verdict),
                )
            if not verdict.allowed:
                command = f"custody bitarchive check changed {archive.name} {replica.id}"
                raise Fault(FaultKind.NEEDS_HUMAN, node.place(name), str(verdict), next_command=command)
            aside = node.retire(name)
            node.put(path, name, held.fixity)
        _prove_mended(archive, replica, node, held, who, "corrected", held_lease, attic=aside, approved_by=approved_by)
        return aside


class _GoodCopy:
    """A copy of a file from another bitarchive replica, equal to the catalogue, below ``work_dir`` for a while."""

    def __init__(self, archive: Archive, replica: Replica, held: Held) -> None:
        self._archive = archive
        self._replica = replica
        self._held = held
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Path:
        home = self._archive.config.work_dir / "mend"
        with os_errors_as_faults(str(home)):
            home.mkdir(parents=True, exist_ok=True)
            self._directory = tempfile.TemporaryDirectory(dir=home)
        path = Path(self._directory.name) / self._held.name
        reasons = []
        for other in self._archive.config.replicas:
            if other.id == self._replica.id or other.type is ReplicaType.CHECKSUM:
                continue
            try:
                self._fetch(other, path)
                return path
            except Fault as fault:
                reasons.append(f"{other.id}: {fault.reason}")
        self._directory.cleanup()
        reason = "no other replica has a good copy (" + ("; ".join(reasons) or "there is no other") + ")"
        command = f"custody where-is {self._held.name}"
        raise Fault(FaultKind.NEEDS_HUMAN, self._held.name, reason, next_command=command)

    def _fetch(self, other: Replica, path: Path) -> None:
        held = next(catalogue.held_by(self._archive, other, names=[self._held.name]), None)
        if held is None:
            raise Fault(FaultKind.DATA, self._held.name, "is not on record there")
        node = self._archive.node(other, held.node)
        with os_errors_as_faults(str(path)), node.open(held.name) as stream, path.open("wb") as out:
            while block := stream.read(1 << 20):
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
        verdict = gate.may_record_proof(self._held.fixity, read_file(path, ALGORITHMS).fixity)
        if not verdict.allowed:
            raise Fault(FaultKind.DATA, node.place(held.name), str(verdict))

    def __exit__(self, *error: object) -> None:
        if self._directory:
            self._directory.cleanup()


def _prove_mended(
    archive: Archive,
    replica: Replica,
    node: ArchiveNode,
    held: Held,
    who: str,
    what: str,
    held_lease: lease.Held,
    **detail: Any,
) -> None:
    stated = node.digest(held.name)
    verdict = gate.may_record_proof(held.fixity, stated)
    if not verdict.allowed:
        raise Fault(FaultKind.DATA, node.place(held.name), f"reads back differently: {verdict}")
    with archive.ledger.begin() as connection:
        held_lease.check(connection)
        catalogue.prove(connection, archive, held.name, held.fixity, node.place(held.name), stated, who)
        catalogue.set_upload_state(connection, held.id, replica.id, UploadState.UPLOAD_COMPLETED, node.name)
        write(connection, held, replica, filelist_status=FilelistStatus.OK, filelist_checked_at=now())
        catalogue.event(connection, archive, who, what, held.name, replica=replica.id, **detail)
    record_vote(archive, replica, dataclasses.replace(held, node=node.name), stated, who)


def _one(archive: Archive, replica: Replica, name: str) -> Held:
    check_name(name)
    held = next((held for held in catalogue.expected_of(archive, replica, name) if held.name == name), None)
    if held is None:
        raise Fault(FaultKind.CONFIG, name, "is not in the catalogue", next_command=f"custody where-is {name}")
    return held
