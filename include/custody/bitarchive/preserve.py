"""Bit preservation, the first half: what is missing, and what has changed.

A list of which a part could not be had is no list: it is refused whole. What has changed is decided by the vote
(:mod:`custody.bitarchive.votes`), and mended by :mod:`custody.bitarchive.mend`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from custody import gate
from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.catalogue import Held
from custody.bitarchive.checksum_replica import ChecksumReplica
from custody.bitarchive.config import Replica, ReplicaType
from custody.bitarchive.nodes import ArchiveNode
from custody.bitarchive.states import ChecksumStatus, FilelistStatus, UploadState
from custody.bitarchive.tables import archive_file, replica_file
from custody.bitarchive.votes import record_vote, status_of, write
from custody.digests import Fixity
from custody.faults import Fault
from custody.ledger.store import now


@dataclass(frozen=True)
class Missing:
    """What a list of a replica's files lacks, and what it has beside them.

    :param missing: in the catalogue, not there.
    :param extra: there, not in the catalogue (``missing in admin data``), or never read back there.
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
        there = dict.fromkeys(ChecksumReplica.of(replica).read().md5, "")
    else:
        there = {}
        for node in archive.nodes(replica):  # all of them, or none
            there |= dict.fromkeys(node.list_files().sizes, node.name)
    missing = tuple(sorted(name for name in expected if name not in there))
    proven = {name for name, held in expected.items() if held.upload_state is UploadState.UPLOAD_COMPLETED}
    extra = tuple(sorted(there.keys() - proven))
    with archive.ledger.begin() as connection:
        for name, held in expected.items():
            status = FilelistStatus.OK if name in there else FilelistStatus.MISSING
            if held.upload_state is UploadState.UNKNOWN:
                catalogue.ensure_row(connection, held.id, replica.id)
            write(connection, held, replica, filelist_status=status, filelist_checked_at=now())
        catalogue.event(connection, archive, who, "listed", replica.id, missing=len(missing), extra=len(extra))
    return Missing(replica.id, len(there), missing, extra)


def find_all_changed(archive: Archive, replicas: Sequence[Replica], *, who: str) -> list[Changed]:
    """:func:`find_changed` for several replicas, and then what the votes say when all of them were read.

    Faults: as there; then there is no answer at all.
    """
    found = [find_changed(archive, replica, who=who) for replica in replicas]
    expected = {replica.id: _expected(archive, replica) for replica in replicas}
    return [
        replace(one, statuses={name: status_of(archive, replica, expected[replica.id][name]) for name in one.statuses})
        for one, replica in zip(found, replicas, strict=True)
    ]


def find_changed(archive: Archive, replica: Replica, *, who: str, names: Iterable[str] | None = None) -> Changed:
    """Read every file of a replica, vote, and put the result on record. This takes as long as reading them all.

    Faults: whatever keeps a node from being read: what was read until then is on record, and there is no answer.
    """
    wanted = None if names is None else set(names)
    expected = {name: held for name, held in _expected(archive, replica).items() if wanted is None or name in wanted}
    read = _Read(archive, replica)
    statuses: dict[str, ChecksumStatus] = {}
    wrong: dict[str, str] = {}
    missing = []
    for name, held in expected.items():
        found = read(held)
        if found is None:
            missing.append(name)
        elif not gate.may_record_proof(held.fixity, found).allowed:
            wrong[name] = found.digests["md5"]
        statuses[name] = record_vote(archive, replica, held, found, who)
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


class _Read:
    """What a replica says a file is now; None where it has none. Its files are listed once: all nodes, or a fault."""

    def __init__(self, archive: Archive, replica: Replica) -> None:
        self._md5: dict[str, str] | None = None
        self._listed: dict[str, tuple[ArchiveNode, frozenset[str]]] = {}
        if replica.type is ReplicaType.CHECKSUM:
            self._md5 = ChecksumReplica.of(replica).read().md5
            return
        for node in archive.nodes(replica):
            self._listed[node.name] = node, frozenset(node.list_files().sizes)

    def __call__(self, held: Held) -> Fixity | None:
        if self._md5 is not None:
            md5 = self._md5.get(held.name)
            return None if md5 is None else Fixity(held.fixity.size_bytes, {"md5": md5})
        candidates = [self._listed[held.node]] if held.node in self._listed else self._listed.values()
        node = next((node for node, names in candidates if held.name in names), None)
        if node is None:
            return None
        try:
            return node.digest(held.name)
        except Fault:
            if node.size_of(held.name) is None:  # taken away since it was listed
                return None
            raise


def _expected(archive: Archive, replica: Replica) -> dict[str, Held]:
    return {held.name: held for held in catalogue.expected_of(archive, replica)}


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
