"""Bit preservation: what is missing, what has changed, and how it is mended.

The vote: the catalogue and every replica that has a checksum of a file cast one vote each; a checksum wins with more
than half of all votes that could be cast (the catalogue's and one for each replica). Replicas with the winner are OK,
others CORRUPT. Where nothing wins, all are UNKNOWN, and a person has to look. A list of which a part could not be had
is no list: it is refused whole.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from custody import gate, lease
from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.catalogue import Held
from custody.bitarchive.checksum_replica import ChecksumReplica
from custody.bitarchive.config import Replica, ReplicaType
from custody.bitarchive.names import check_name
from custody.bitarchive.nodes import ArchiveNode
from custody.bitarchive.states import ChecksumStatus, FilelistStatus, UploadState
from custody.bitarchive.tables import archive_file, replica_file
from custody.digests import Fixity
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.gate import Verdict
from custody.ledger.store import CopyState, now


def vote(reference: str, found: Mapping[str, str | None]) -> dict[str, ChecksumStatus]:
    """What the vote says of each replica.

    :param reference: the catalogue's checksum.
    :param found: by replica: its checksum, None where it has none (no vote, and no status but UNKNOWN).
    """
    votes = Counter([reference, *(checksum for checksum in found.values() if checksum)])
    winner, count = votes.most_common(1)[0]
    if 2 * count <= len(found) + 1:
        return dict.fromkeys(found, ChecksumStatus.UNKNOWN)

    def status(checksum: str | None) -> ChecksumStatus:
        if not checksum:
            return ChecksumStatus.UNKNOWN
        return ChecksumStatus.OK if checksum == winner else ChecksumStatus.CORRUPT

    return {replica: status(checksum) for replica, checksum in found.items()}


@dataclass(frozen=True)
class Missing:
    """What a list of a replica's files lacks, and what it has beside them.

    :param missing: on record for the replica, not there.
    :param extra: there, not on record (``missing in admin data``).
    """

    replica: str
    listed: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]


@dataclass(frozen=True)
class Changed:
    """What the checksums of a replica say.

    :param statuses: by name, as the vote decided.
    :param wrong: files whose checksum is not the catalogue's, with what was found.
    """

    replica: str
    statuses: Mapping[str, ChecksumStatus]
    wrong: Mapping[str, str]
    missing: tuple[str, ...]


def find_missing(archive: Archive, replica: Replica, *, who: str) -> Missing:
    """Compare the list of a replica's files with the catalogue, and put on record what was found.

    Faults: whatever keeps one node from being listed: then nothing is put on record.
    """
    expected = _expected(archive, replica)
    if replica.type is ReplicaType.CHECKSUM:
        assert replica.file is not None
        there = dict.fromkeys(ChecksumReplica(replica.file).read().md5, "")
    else:
        there = {}
        for node in archive.nodes(replica):  # all of them, or none
            there |= dict.fromkeys(node.list_files().sizes, node.name)
    missing = tuple(sorted(name for name in expected if name not in there))
    extra = tuple(sorted(there.keys() - expected.keys()))
    with archive.ledger.begin() as connection:
        for name, held in expected.items():
            status = FilelistStatus.OK if name in there else FilelistStatus.MISSING
            _write(connection, held, replica, filelist_status=status, filelist_checked_at=now())
        catalogue.event(connection, archive, who, "listed", replica.id, missing=len(missing), extra=len(extra))
    return Missing(replica.id, len(there), missing, extra)


def find_changed(archive: Archive, replica: Replica, *, who: str, names: Iterable[str] | None = None) -> Changed:
    """Read every file of a replica, vote, and put the result on record. This takes as long as reading them all.

    Faults: whatever keeps a node from being read: what was read until then is on record, and there is no answer.
    """
    wanted = None if names is None else set(names)
    expected = {name: held for name, held in _expected(archive, replica).items() if wanted is None or name in wanted}
    read = _checksums(archive, replica)
    statuses: dict[str, ChecksumStatus] = {}
    wrong: dict[str, str] = {}
    missing = []
    for name, held in expected.items():
        found = read(held)
        if found is None:
            missing.append(name)
        elif not gate.may_record_proof(held.fixity, found).allowed:
            wrong[name] = found.digests["md5"]
        statuses[name] = _record_vote(archive, replica, held, found, who)
    with archive.ledger.begin() as connection:
        catalogue.event(
            connection,
            archive,
            who,
            "checksums compared",
            replica.id,
            files=len(expected),
            wrong=sorted(wrong)[:100],
            missing=sorted(missing)[:100],
        )
    return Changed(replica.id, statuses, wrong, tuple(missing))


def _checksums(archive: Archive, replica: Replica) -> _Read:
    return _Read(archive, replica)


class _Read:
    """What a replica says a file is now; None where it has none."""

    def __init__(self, archive: Archive, replica: Replica) -> None:
        self._archive = archive
        self._replica = replica
        self._md5: dict[str, str] | None = None
        if replica.type is ReplicaType.CHECKSUM:
            assert replica.file is not None
            self._md5 = ChecksumReplica(replica.file).read().md5

    def __call__(self, held: Held) -> Fixity | None:
        if self._md5 is not None:
            md5 = self._md5.get(held.name)
            return None if md5 is None else Fixity(held.fixity.size_bytes, {"md5": md5})
        node = self._archive.node(self._replica, held.node)
        return None if node.size_of(held.name) is None else node.digest(held.name)


def _record_vote(archive: Archive, replica: Replica, held: Held, found: Fixity | None, who: str) -> ChecksumStatus:
    """Write what was found, count the votes of all replicas, write what they decide."""
    with archive.ledger.begin() as connection:
        _write(
            connection,
            held,
            replica,
            found_md5=found and found.digests.get("md5"),
            found_sha256=found and found.digests.get("sha256"),
            checksum_checked_at=now(),
        )
        rows = connection.execute(
            sa.select(replica_file.c.replica, replica_file.c.found_md5).where(replica_file.c.file_id == held.id)
        ).all()
        votes: dict[str, str | None] = {one.id: None for one in archive.config.replicas}
        votes |= {row.replica: row.found_md5 for row in rows if row.replica in votes}
        decided = vote(held.fixity.digests["md5"], votes)
        for row in rows:
            if row.replica in decided:
                connection.execute(
                    sa.update(replica_file)
                    .where(replica_file.c.file_id == held.id, replica_file.c.replica == row.replica)
                    .values(checksum_status=decided[row.replica], changed_at=now())
                )
        if found is not None and replica.type is ReplicaType.BITARCHIVE:
            place = archive.node(replica, held.node).place(held.name)
            if gate.may_record_proof(held.fixity, found).allowed:
                catalogue.prove(connection, archive, held.name, held.fixity, place, found, who)
            else:
                _lost(connection, archive, held, place)
    return decided[replica.id]


def _lost(connection: sa.Connection, archive: Archive, held: Held, place: str) -> None:
    number = archive.ledger.record_file(connection, held.name, held.fixity)
    archive.ledger.record_copy(connection, number, place, CopyState.LOST)


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
            assert replica.file is not None
            ChecksumReplica(replica.file).put(name, held.fixity.digests["md5"])
        else:
            node = archive.node(replica, held.node)
            if node.size_of(name) is not None:
                raise Fault(FaultKind.CONFLICT, node.place(name), "is there already; it is not missing")
            with _good_copy(archive, replica, held) as path:
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
    """

    recorded: Fixity
    stated_wrong: str
    found: Fixity | None
    status: ChecksumStatus
    good: Fixity | None
    approved_by: str


def may_correct(facts: CorrectFacts) -> Verdict:
    """Whether a file of a replica may be replaced: it is wrong, by everybody's word, and a good one is in hand."""
    reasons = []
    if not facts.approved_by.strip():
        reasons.append("no person has approved it")
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
        node = archive.node(replica, held.node)
        found = None if node.size_of(name) is None else node.digest(name)
        if found is not None:
            _record_vote(archive, replica, held, found, who)
        with _good_copy(archive, replica, held) as path:
            good = catalogue_fixity(path)
            status = _status(archive, replica, held)
            verdict = may_correct(CorrectFacts(held.fixity, wrong_md5.lower(), found, status, good, approved_by))
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
                command = f"custody bitarchive check {archive.name} changed {replica.id}"
                raise Fault(FaultKind.NEEDS_HUMAN, node.place(name), str(verdict), next_command=command)
            aside = node.retire(name)
            node.put(path, name, held.fixity)
        _prove_mended(archive, replica, node, held, who, "corrected", held_lease, attic=aside, approved_by=approved_by)
        return aside


def catalogue_fixity(path: Path) -> Fixity:
    """Size and digests of a fetched copy."""
    from custody.bitarchive.nodes import ALGORITHMS
    from custody.digests import read_file

    return read_file(path, ALGORITHMS).fixity


class _good_copy:
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
        verdict = gate.may_record_proof(self._held.fixity, catalogue_fixity(path))
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
        _write(connection, held, replica, filelist_status=FilelistStatus.OK, filelist_checked_at=now())
        catalogue.event(connection, archive, who, what, held.name, replica=replica.id, **detail)
    _record_vote(archive, replica, held, stated, who)


def _status(archive: Archive, replica: Replica, held: Held) -> ChecksumStatus:
    query = sa.select(replica_file.c.checksum_status).where(
        replica_file.c.file_id == held.id, replica_file.c.replica == replica.id
    )
    with archive.ledger.read() as connection:
        return ChecksumStatus(connection.scalar(query) or ChecksumStatus.UNKNOWN)


def _expected(archive: Archive, replica: Replica) -> dict[str, Held]:
    return {held.name: held for held in catalogue.held_by(archive, replica)}


def _one(archive: Archive, replica: Replica, name: str) -> Held:
    held = next(catalogue.held_by(archive, replica, names=[check_name(name)]), None)
    if held is None:
        raise Fault(FaultKind.CONFIG, name, f"is not on record for replica {replica.id}")
    return held


def _write(connection: sa.Connection, held: Held, replica: Replica, **values: object) -> None:
    connection.execute(
        sa.update(replica_file)
        .where(replica_file.c.file_id == held.id, replica_file.c.replica == replica.id)
        .values({**values, "changed_at": now()})
    )


@dataclass(frozen=True)
class Standing:
    """One line of the account of an archive's replicas."""

    name: str
    replica: str
    node: str
    upload_state: UploadState
    filelist_status: FilelistStatus
    checksum_status: ChecksumStatus


def standing(archive: Archive, *, only_bad: bool = True) -> list[Standing]:
    """How every file stands in every replica, as last checked."""
    query = (
        sa.select(archive_file.c.name, replica_file)
        .join(replica_file, replica_file.c.file_id == archive_file.c.id)
        .where(archive_file.c.archive == archive.name)
        .order_by(archive_file.c.name, replica_file.c.replica)
    )
    if only_bad:
        query = query.where(
            sa.or_(
                replica_file.c.upload_state != UploadState.UPLOAD_COMPLETED,
                replica_file.c.filelist_status == FilelistStatus.MISSING,
                replica_file.c.checksum_status == ChecksumStatus.CORRUPT,
            )
        )
    with archive.ledger.read() as connection:
        return [
            Standing(
                row.name,
                row.replica,
                row.node,
                UploadState(row.upload_state),
                FilelistStatus(row.filelist_status),
                ChecksumStatus(row.checksum_status),
            )
            for row in connection.execute(query)
        ]
