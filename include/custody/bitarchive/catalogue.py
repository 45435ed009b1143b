"""The catalogue: which files an archive has, with their digests, and on which node of each replica."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.bitarchive import ROOM
from custody.bitarchive.archive import Archive
from custody.bitarchive.config import Replica
from custody.bitarchive.states import ChecksumStatus, FilelistStatus, UploadState
from custody.bitarchive.tables import archive_file, replica_file
from custody.digests import Fixity
from custody.faults import Fault, FaultKind
from custody.ledger.store import CopyState, now


@dataclass(frozen=True)
class Known:
    """A file on record."""

    id: int
    name: str
    fixity: Fixity


@dataclass(frozen=True)
class Held:
    """A file of a replica: on which node, and in which state."""

    id: int
    name: str
    node: str
    fixity: Fixity
    upload_state: UploadState


def find(archive: Archive, name: str) -> Known | None:
    """A file by its name; None where it is not on record."""
    query = sa.select(archive_file).where(archive_file.c.archive == archive.name, archive_file.c.name == name)
    with archive.ledger.read() as connection:
        row = connection.execute(query).one_or_none()
    return Known(row.id, row.name, _fixity(row)) if row else None


def held_by(archive: Archive, replica: Replica, *, names: Sequence[str] | None = None) -> Iterator[Held]:
    """Every file that a replica should have, by name, byte by byte; those whose upload never got there are left out."""
    query = (
        sa.select(archive_file, replica_file.c.node, replica_file.c.upload_state)
        .join(replica_file, replica_file.c.file_id == archive_file.c.id)
        .where(archive_file.c.archive == archive.name, replica_file.c.replica == replica.id)
        .where(replica_file.c.upload_state == UploadState.UPLOAD_COMPLETED)
    )
    if names is not None:
        query = query.where(archive_file.c.name.in_(list(names)))
    with archive.ledger.read() as connection:
        rows = connection.execute(query).all()
    for row in sorted(rows, key=lambda row: row.name.encode()):  # databases do not agree on an order of text
        yield Held(row.id, row.name, row.node, _fixity(row), UploadState(row.upload_state))


def expected_of(archive: Archive, replica: Replica, name: str | None = None) -> Iterator[Held]:
    """Every file of the catalogue, as it stands in a replica: each should be there, whether it ever got there or not.

    Where nothing is on record of it there, its node is empty and its state ``UNKNOWN``.

    :param name: only this file.
    """
    mine = (replica_file.c.file_id == archive_file.c.id) & (replica_file.c.replica == replica.id)
    query = (
        sa.select(archive_file, replica_file.c.node, replica_file.c.upload_state)
        .outerjoin(replica_file, mine)
        .where(archive_file.c.archive == archive.name)
    )
    if name is not None:
        query = query.where(archive_file.c.name == name)
    with archive.ledger.read() as connection:
        rows = connection.execute(query).all()
    for row in sorted(rows, key=lambda row: row.name.encode()):
        state = UploadState(row.upload_state or UploadState.UNKNOWN)
        yield Held(row.id, row.name, row.node or "", _fixity(row), state)


def ensure_row(connection: Connection, file_id: int, replica: str) -> None:
    """Put on record that a replica should have a file, where nothing is on record of it there."""
    where = (replica_file.c.file_id == file_id, replica_file.c.replica == replica)
    if connection.scalar(sa.select(replica_file.c.id).where(*where)) is None:
        set_upload_state(connection, file_id, replica, UploadState.UNKNOWN)


def record(
    connection: Connection,
    archive: Archive,
    name: str,
    fixity: Fixity,
) -> int:
    """Put a file on record, or find it there. Faults: CONFLICT where the name is on record with other bytes."""
    known = connection.execute(
        sa.select(archive_file).where(archive_file.c.archive == archive.name, archive_file.c.name == name)
    ).one_or_none()
    if known is None:
        values = {
            "archive": archive.name,
            "name": name,
            "size_bytes": fixity.size_bytes,
            "md5": fixity.digests["md5"],
            "sha256": fixity.digests["sha256"],
            "added_at": now(),
        }
        key = connection.execute(sa.insert(archive_file).values(values)).inserted_primary_key
        assert key is not None
        return int(key[0])
    if (known.size_bytes, known.sha256) != (fixity.size_bytes, fixity.digests["sha256"]):
        reason = f"is on record with other bytes (sha256 {known.sha256}); nothing was changed"
        raise Fault(FaultKind.CONFLICT, name, reason, next_command=f"custody where-is {name}")
    return int(known.id)


def set_upload_state(
    connection: Connection, file_id: int, replica: str, state: UploadState, node: str | None = None
) -> None:
    """Write the state of a file in a replica; the row is made where there is none."""
    where = (replica_file.c.file_id == file_id, replica_file.c.replica == replica)
    values: dict[str, object] = {"upload_state": state, "changed_at": now()}
    if node is not None:
        values["node"] = node
    if connection.execute(sa.update(replica_file).where(*where).values(values)).rowcount:
        return
    fresh = {
        "file_id": file_id,
        "replica": replica,
        "node": node or "",
        "filelist_status": FilelistStatus.NONE,
        "checksum_status": ChecksumStatus.UNKNOWN,
    }
    connection.execute(sa.insert(replica_file).values({**fresh, **values}))


def prove(
    connection: Connection, archive: Archive, name: str, expected: Fixity, place: str, stated: Fixity, who: str
) -> None:
    """Put a copy that was read back and found equal on the shared record."""
    file_id = archive.ledger.record_file(connection, name, expected)
    copy_id = archive.ledger.record_copy(connection, file_id, place, CopyState.SENT)
    archive.ledger.record_proof(connection, copy_id, "readback", stated, who)


def event(
    connection: Connection, archive: Archive, who: str, what: str, subject: str, result: str = "done", **detail: object
) -> None:
    """Append to the audit."""
    archive.ledger.record_event(
        connection,
        who=who,
        room=ROOM,
        what=what,
        subject=subject,
        result=result,
        detail={"archive": archive.name} | detail,
    )


@dataclass(frozen=True)
class Adopted:
    """What came of taking up the files that lie on the nodes of a replica."""

    added: int
    known: int
    different: tuple[str, ...]
    strangers: tuple[str, ...]


def adopt(archive: Archive, replica: Replica, *, who: str) -> Adopted:
    """Take up what lies on a replica's nodes: every file is read once, and put on record with its digests.

    A file that is on record with other bytes is reported and left alone. May be run again; what was read before is
    known by its name and size on that node.
    """
    added = known = 0
    different: list[str] = []
    strangers: list[str] = []
    on_record = {(held.node, held.name): held.fixity.size_bytes for held in held_by(archive, replica)}
    where = {held.name: held.node for held in held_by(archive, replica)}
    for node in archive.nodes(replica):
        listing = node.list_files()
        strangers += [f"{node.name}: {name}" for name in listing.strangers]
        for name, size in sorted(listing.sizes.items()):
            if on_record.get((node.name, name)) == size:
                known += 1
                continue
            if where.get(name, node.name) != node.name:
                strangers.append(f"{node.name}: {name} (is on node {where[name]} too)")
                continue
            fixity = node.digest(name)
            try:
                with archive.ledger.begin() as connection:
                    is_second = _is_on_record(connection, archive, name)
                    file_id = record(connection, archive, name, fixity)
                    set_upload_state(connection, file_id, replica.id, UploadState.UPLOAD_COMPLETED, node.name)
                    for other in archive.config.replicas:  # a replica is a whole copy: each should have it
                        ensure_row(connection, file_id, other.id)
                    if is_second:
                        prove(connection, archive, name, fixity, node.place(name), fixity, who)
                    else:  # nothing to compare it with: it is there, and that is all that is known
                        number = archive.ledger.record_file(connection, name, fixity)
                        archive.ledger.record_copy(connection, number, node.place(name), CopyState.PRESENT)
                    event(connection, archive, who, "adopted", name, node=node.name, replica=replica.id)
            except Fault as fault:
                if fault.kind is not FaultKind.CONFLICT:
                    raise
                different.append(f"{node.name}: {name}")
                continue
            where[name] = node.name
            added += 1
    return Adopted(added, known, tuple(different), tuple(strangers))


def _is_on_record(connection: Connection, archive: Archive, name: str) -> bool:
    query = sa.select(archive_file.c.id).where(archive_file.c.archive == archive.name, archive_file.c.name == name)
    return connection.scalar(query) is not None


def _fixity(row: sa.Row[tuple[object, ...]]) -> Fixity:
    return Fixity(row.size_bytes, {"md5": row.md5, "sha256": row.sha256})
