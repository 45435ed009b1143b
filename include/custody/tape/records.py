"""Members in the catalogue: as the scan of a source found them, and as they lie on a tape."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from custody.digests import Fixity
from custody.ledger.bulk import Stored, record_copies
from custody.ledger.store import CopyState
from custody.tape import tables
from custody.tape.catalog import Backup
from custody.tape.members import Member, MemberKind
from custody.tape.names import escape, unescape

OWN_DIRECTORY = b".custody/"
_ROWS_AT_ONCE = 1000
_LONGEST_NAME = 512


def name_key(name: bytes) -> str:
    """What an index can hold of a name."""
    return hashlib.sha256(name).hexdigest()


def base_name(name: bytes) -> bytes:
    """The last part of a name."""
    return name.rpartition(b"/")[2]


def put_members(connection: Connection, target_id: int, backup_id: int | None, members: Iterable[Member]) -> int:
    """Replace the members of a target's scan (``backup_id`` None) or of a backup; returns their number."""
    table = tables.member
    owner = table.c.backup_id.is_(None) if backup_id is None else table.c.backup_id == backup_id
    connection.execute(sa.delete(table).where(table.c.target_id == target_id, owner))
    rows = (_row(target_id, backup_id, position, member) for position, member in enumerate(members))
    count = 0
    while chunk := list(islice(rows, _ROWS_AT_ONCE)):
        connection.execute(sa.insert(table), chunk)
        count += len(chunk)
    return count


def _row(target_id: int, backup_id: int | None, position: int, member: Member) -> dict[str, Any]:
    return {
        "target_id": target_id,
        "backup_id": backup_id,
        "position": position,
        "name": escape(member.name),
        "name_key": name_key(member.name),
        "base_key": name_key(base_name(member.name)),
        "kind": member.kind,
        "size_bytes": member.size_bytes,
        "mode": member.mode,
        "uid": member.uid,
        "gid": member.gid,
        "mtime_s": member.mtime_s,
        "link": escape(member.link),
        "device": ":".join(map(str, member.device)) if member.device else "",
        "is_sparse": member.is_sparse,
        "offset_bytes": member.offset_bytes,
        **{algorithm: member.digests.get(algorithm) for algorithm in ("md5", "sha1", "sha256")},
    }


def members_of(connection: Connection, target_id: int, backup_id: int | None) -> Iterator[Member]:
    """The members of a scan (``backup_id`` None) or of a backup, in their order, a page at a time."""
    table = tables.member
    owner = table.c.backup_id.is_(None) if backup_id is None else table.c.backup_id == backup_id
    after = -1
    while True:
        page = connection.execute(
            sa.select(table)
            .where(table.c.target_id == target_id, owner, table.c.position > after)
            .order_by(table.c.position)
            .limit(_ROWS_AT_ONCE)
        ).all()
        if not page:
            return
        yield from map(member_of, page)
        after = page[-1].position


def member_of(row: Row[Any]) -> Member:
    """A row as a member."""
    major, _, minor = row.device.partition(":")
    return Member(
        name=unescape(row.name),
        kind=MemberKind(row.kind),
        size_bytes=row.size_bytes,
        mode=row.mode,
        uid=row.uid,
        gid=row.gid,
        mtime_s=row.mtime_s,
        link=unescape(row.link),
        device=(int(major), int(minor)) if minor else None,
        is_sparse=row.is_sparse,
        offset_bytes=row.offset_bytes,
        digests={name: value for name in ("md5", "sha1", "sha256") if (value := getattr(row, name))},
    )


def record_shared(
    connection: Connection,
    backup: Backup,
    members: Callable[[], Iterable[Member]],
    state: CopyState,
    *,
    proof: str | None,
    run: str,
) -> int:
    """Let ``custody where-is`` know every file of a backup, under each of its names; with ``proof``, as proven by it.

    ``members`` gives them in the order of the archive; it is called twice, so that memory stays flat.
    """
    return record_copies(connection, _stored(backup, members), state, proof_kind=proof, run=run)


def _stored(backup: Backup, members: Callable[[], Iterable[Member]]) -> Iterator[Stored]:
    linked_to = {member.link for member in members() if member.kind is MemberKind.HARDLINK}
    contents: dict[bytes, Fixity] = {}
    for member in members():
        if member.kind is MemberKind.FILE:
            fixity = Fixity(member.size_bytes, member.digests)
            if member.name in linked_to:
                contents[member.name] = fixity
        elif member.kind is MemberKind.HARDLINK and member.link in contents:
            fixity = contents[member.link]
        else:
            continue
        if any(fixity.digests.values()):
            name = escape(base_name(member.name))[:_LONGEST_NAME]
            yield Stored(name, fixity, place_of(backup.tape_name, backup.file_number, member.name))


def without_ours(members: Iterable[Member]) -> Iterator[Member]:
    """The members that the source gave, without those that Custody put around them; no target is called so."""
    return (member for member in members if not member.name.startswith(OWN_DIRECTORY))


def place_of(tape_name: str, file_number: int | None, name: bytes) -> str:
    """``tape://TAPE02/3/path``: where a copy on tape lies."""
    return f"tape://{tape_name}/{file_number}/{escape(name)}"
