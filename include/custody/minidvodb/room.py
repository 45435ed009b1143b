"""Is there room over there: for bytes and inodes, less what lies there already and what others have reserved."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.ledger.store import now
from custody.ledger.tables import lease as leases
from custody.minidvodb import tables
from custody.minidvodb.codes import CopyFault, FaultCode
from custody.minidvodb.destination import Settings
from custody.minidvodb.far import Space
from custody.minidvodb.manifest import DIRECTORY, Entry, Snapshot
from custody.minidvodb.records import lease_of

RESERVATION_STANDS = timedelta(hours=12)
"""A reservation of a copy that nobody works on any more lapses after this time."""


def missing(entries: Snapshot, staged: Snapshot) -> list[Entry]:
    """What has to be sent: entries that are not there, or not the same by kind, size, time and permissions."""
    return [
        entry for path, entry in entries.items() if (there := staged.get(path)) is None or there.stored != entry.stored
    ]


def strangers(entries: Snapshot, staged: Snapshot) -> list[bytes]:
    """Paths that have to go before anything is sent: no entries, or entries of another kind."""
    return [path for path, there in staged.items() if path not in entries or entries[path].kind != there.kind]


def need_of(entries: Iterable[Entry], staged: Snapshot, block_bytes: int) -> tuple[int, int]:
    """Bytes (in whole blocks) and inodes that these entries take, less what lies there of them already."""
    size = inodes = 0
    for entry in entries:
        there = staged.get(entry.path)
        whole = block_bytes if entry.kind == DIRECTORY else -(-max(1, entry.size_bytes) // block_bytes) * block_bytes
        held = min(there.size_bytes, entry.size_bytes) // block_bytes * block_bytes if there else 0
        size += 0 if there and entry.kind == DIRECTORY else whole - held
        inodes += there is None
    return size, inodes


def demand(where: str, settings: Settings, space: Space, size: int, inodes: int, reserved: tuple[int, int]) -> None:
    """Faults: NO_SPACE, NO_INODES, with the numbers."""
    if space.used_pct > settings.max_used_pct:
        reason = f"is {space.used_pct:.1f} % used, and takes copies up to {settings.max_used_pct:g} %"
        raise CopyFault(FaultCode.NO_SPACE, where, reason, next_command="free space there; it is tried again")
    free = space.available_bytes - reserved[0] - settings.min_free_bytes
    if size > free:
        reason = (
            f"needs {size} bytes and has {space.available_bytes}, of which {reserved[0]} are reserved for other copies "
            f"and {settings.min_free_bytes} must stay free"
        )
        raise CopyFault(FaultCode.NO_SPACE, where, reason, next_command="free space there; it is tried again")
    if space.total_inodes and inodes > space.free_inodes - reserved[1]:
        reason = (
            f"needs {inodes} inodes and has {space.free_inodes}, of which {reserved[1]} are reserved for other copies"
        )
        raise CopyFault(FaultCode.NO_INODES, where, reason, next_command="remove files there; it is tried again")


def reserved_by_others(connection: Connection, destination_id: int, own_id: int) -> tuple[int, int]:
    """Bytes and inodes that other copies on their way to this destination still have to write."""
    one = tables.copy
    query = sa.select(one.c.minidvodbcopy_id, one.c.reserved_bytes, one.c.reserved_inodes, one.c.reserved_at).where(
        one.c.destination_id == destination_id, one.c.minidvodbcopy_id != own_id, one.c.reserved_at.is_not(None)
    )
    size = inodes = 0
    for row in connection.execute(query):
        progress = _progress(connection, row.minidvodbcopy_id)
        if progress is None and row.reserved_at < now() - RESERVATION_STANDS:
            continue
        size += max(0, row.reserved_bytes - int((progress or {}).get("bytes_done", 0)))
        inodes += row.reserved_inodes
    return size, inodes


def _progress(connection: Connection, copy_id: int) -> dict[str, Any] | None:
    """How far the one who works on a copy is; None where nobody does."""
    query = sa.select(leases.c.progress, leases.c.expires_at).where(leases.c.name == lease_of(copy_id))
    row = connection.execute(query).one_or_none()
    return dict(row.progress) if row and row.expires_at > now() else None
