"""Reading and writing the shared tables."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.digests import Fixity
from custody.faults import Fault, FaultKind
from custody.ledger.database import database_faults, default_url, engine_of, is_missing, make_room, name_of
from custody.ledger.schema import HEAD, bring_up_to_date, version_of
from custody.ledger.tables import copy, event, file, proof

_STRONGEST_FIRST = ("sha256", "sha1", "md5", "xxh128")
UPGRADE_COMMAND = "custody ledger upgrade"


class CopyState(StrEnum):
    """Where a copy stands. A copy is never forgotten: one that was let go stays on record as RELEASED."""

    PRESENT = "present"  # seen lying there, not proven against another copy
    SENT = "sent"  # handed over; its keeper said yes, which proves nothing yet
    PROVEN = "proven"  # its keeper's own record, or a read back, equals the manifest
    LOST = "lost"  # was there once, is not there or not equal now
    RELEASED = "released"  # let go on purpose, through the gate


@dataclass(frozen=True)
class Whereabouts:
    """One line of the answer to "where is NAME": one copy of one file, with its youngest proof."""

    name: str
    size_bytes: int
    identity: str
    place: str
    state: CopyState
    since: datetime
    proof: str | None
    proven_at: datetime | None


class Ledger:
    """The ledger on one database.

    :param url: SQLAlchemy URL: sqlite (a file by its whole path, the default), postgresql+psycopg2 or mysql+pymysql.

    Use :meth:`open`, which makes sure that the schema is the one this program knows.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = engine_of(url, os.getpid())

    @classmethod
    def open(cls, url: str | None = None) -> Ledger:
        """Open the ledger; CONFIG where its schema is missing or old, TRANSIENT where it does not answer."""
        ledger = cls(url or default_url())
        version = ledger._version()
        if version != HEAD:
            raise Fault(FaultKind.CONFIG, ledger.name, "its schema is missing or old", next_command=UPGRADE_COMMAND)
        return ledger

    @classmethod
    def upgrade(cls, url: str) -> Ledger:
        """Make or migrate the schema and open the ledger; safe to call again and by two at once."""
        ledger = cls(url)
        make_room(ledger.engine)
        ledger._version()  # a newer one is left as it is
        with ledger.begin() as connection:
            bring_up_to_date(connection)
        return cls.open(url)

    def _version(self) -> str | None:
        """The revision of its schema; None without one. CONFIG where a newer program has written it."""
        if is_missing(self.engine):
            return None
        with self.read() as connection:
            version = version_of(connection)
        if version is not None and version > HEAD:
            reason = f"is of a newer Custody (schema {version}; this one knows {HEAD})"
            raise Fault(FaultKind.CONFIG, self.name, reason, next_command="bring this checkout up to date")
        return version

    @property
    def name(self) -> str:
        """The database in a form without its password."""
        return f"ledger {name_of(self.engine.url)}"

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction that takes the write lock at its start, committed at the end of the block."""
        with database_faults(self.name), self.engine.begin() as connection:
            if self.engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for queries."""
        with database_faults(self.name), self.engine.connect() as connection:
            yield connection

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    # -- the shared tables; every writer takes part in its caller's transaction ------------------------------------

    def record_file(self, connection: Connection, name: str, fixity: Fixity) -> int:
        """Put a file on record, or find it there; returns its number. A file needs at least one digest."""
        identity = identity_of(fixity)
        known = connection.scalar(sa.select(file.c.id).where(file.c.name == name, file.c.identity == identity))
        if known is not None:
            return int(known)
        row = {
            "name": name,
            "identity": identity,
            "size_bytes": fixity.size_bytes,
            "first_seen": now(),
            **{algorithm: fixity.digests.get(algorithm) for algorithm in ("md5", "sha1", "sha256")},
        }
        return _inserted_id(connection.execute(sa.insert(file).values(row)))

    def record_copy(self, connection: Connection, file_id: int, place: str, state: CopyState) -> int:
        """Put a copy on record or move it to another state; returns its number."""
        key = place_key(place)
        known = connection.execute(
            sa.select(copy.c.id, copy.c.state).where(copy.c.file_id == file_id, copy.c.place_key == key)
        ).one_or_none()
        if known is None:
            values = {"file_id": file_id, "place": place, "place_key": key, "state": state, "since": now()}
            return _inserted_id(connection.execute(sa.insert(copy).values(values)))
        if known.state != state:
            connection.execute(sa.update(copy).where(copy.c.id == known.id).values(state=state, since=now()))
        return int(known.id)

    def record_proof(self, connection: Connection, copy_id: int, kind: str, stated: Fixity, run: str) -> None:
        """Put on record what a copy's keeper stated (or what was read back), and that it was found equal."""
        compared = {"size_bytes": stated.size_bytes, "digests": dict(stated.digests)}
        connection.execute(
            sa.insert(proof).values(copy_id=copy_id, kind=kind, compared=compared, proven_at=now(), run=run)
        )
        connection.execute(
            sa.update(copy)
            .where(copy.c.id == copy_id, copy.c.state != CopyState.PROVEN)
            .values(state=CopyState.PROVEN, since=now())
        )

    def record_event(
        self,
        connection: Connection,
        *,
        who: str,
        room: str,
        what: str,
        subject: str,
        result: str = "done",
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Append to the audit; nothing there is ever changed or deleted."""
        values = {"who": who, "room": room, "what": what, "subject": subject, "result": result}
        connection.execute(sa.insert(event).values(happened_at=now(), detail=dict(detail or {}), **values))

    def where_is(self, name: str) -> list[Whereabouts]:
        """Every copy of every file of this base name (``%`` stands for any characters), released ones too."""
        proofs = proof.alias()
        youngest = (
            sa.select(sa.func.max(proofs.c.id)).where(proofs.c.copy_id == copy.c.id).correlate(copy).scalar_subquery()
        )
        query = (
            sa.select(file, copy.c.place, copy.c.state, copy.c.since, proof.c.kind, proof.c.proven_at)
            .join(copy, copy.c.file_id == file.c.id)
            .outerjoin(proof, sa.and_(proof.c.copy_id == copy.c.id, proof.c.id == youngest))
            .where(_is_named(name))
            .order_by(file.c.name, file.c.id, copy.c.id)
            .limit(1000)
        )
        with self.read() as connection:
            return [
                Whereabouts(
                    row.name,
                    row.size_bytes,
                    row.identity,
                    row.place,
                    CopyState(row.state),
                    row.since,
                    row.kind,
                    row.proven_at,
                )
                for row in connection.execute(query)
            ]


def now() -> datetime:
    """The time of this machine, UTC; hosts that share a ledger keep NTP."""
    return datetime.now(UTC)


def identity_of(fixity: Fixity) -> str:
    """The strongest digest known, by which files of one name are told apart."""
    for algorithm in _STRONGEST_FIRST:
        if digest := fixity.digests.get(algorithm):
            return f"{algorithm}:{digest}"
    raise ValueError("a file goes on record with a digest, never by size alone")


def place_key(place: str) -> str:
    """The fixed-length key of a place."""
    return hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()


def disk_place(path: Path) -> str:
    """The place of a file on a disk of this host."""
    return f"disk://{socket.gethostname()}{path}"


def run_name() -> str:
    """Who acts, outside Airflow: the user and the process on this host."""
    import getpass

    return f"{getpass.getuser()}@{socket.gethostname()}"


def _is_named(name: str) -> sa.ColumnElement[bool]:
    if "%" not in name:
        return file.c.name == name
    return file.c.name.like(name.replace("/", "//").replace("_", "/_"), escape="/")


def _inserted_id(result: sa.CursorResult[Any]) -> int:
    key = result.inserted_primary_key
    assert key is not None
    return int(key[0])
