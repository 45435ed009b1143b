"""The vote on a file: whose checksum is right, by everybody who has one.

The catalogue and every replica that has a checksum of a file cast one vote each; a checksum wins with more than half of
all votes that could be cast (the catalogue's and one for each replica). Replicas with the winner are OK, others are
CORRUPT. Where nothing wins, all are UNKNOWN, and a person has to look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import sqlalchemy as sa

from custody import gate
from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.catalogue import Held
from custody.bitarchive.config import Replica, ReplicaType
from custody.bitarchive.states import ChecksumStatus
from custody.bitarchive.tables import replica_file
from custody.digests import Fixity
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


def record_vote(archive: Archive, replica: Replica, held: Held, found: Fixity | None, who: str) -> ChecksumStatus:
    """Write what was found, count the votes of all replicas, write what they decide."""
    with archive.ledger.begin() as connection:
        write(
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
        if found is not None and replica.type is ReplicaType.BITARCHIVE and held.node:
            place = archive.node(replica, held.node).place(held.name)
            if gate.may_record_proof(held.fixity, found).allowed:
                catalogue.prove(connection, archive, held.name, held.fixity, place, found, who)
            else:
                _lost(connection, archive, held, place)
    return decided[replica.id]


def _lost(connection: sa.Connection, archive: Archive, held: Held, place: str) -> None:
    number = archive.ledger.record_file(connection, held.name, held.fixity)
    archive.ledger.record_copy(connection, number, place, CopyState.LOST)


def status_of(archive: Archive, replica: Replica, held: Held) -> ChecksumStatus:
    """What the last vote said of a file in a replica."""
    query = sa.select(replica_file.c.checksum_status).where(
        replica_file.c.file_id == held.id, replica_file.c.replica == replica.id
    )
    with archive.ledger.read() as connection:
        return ChecksumStatus(connection.scalar(query) or ChecksumStatus.UNKNOWN)


def write(connection: sa.Connection, held: Held, replica: Replica, **values: object) -> None:
    """Put on record what was found of a file in a replica."""
    connection.execute(
        sa.update(replica_file)
        .where(replica_file.c.file_id == held.id, replica_file.c.replica == replica.id)
        .values({**values, "changed_at": now()})
    )
