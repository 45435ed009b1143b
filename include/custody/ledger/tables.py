"""The shared tables: what files there are, where their copies lie, what proves them, and what happened.

Every room adds its own tables to the same ``metadata`` in a module of its own. Times are UTC. A place is a URL-like
name of where one copy lies: ``disk://HOST/absolute/path``, ``s3://bucket/key``, ``tape://TAPE02/3/path``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Utc(TypeDecorator[datetime]):
    """An aware UTC time with microseconds, on every database."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> object:  # type: ignore[override]
        """MariaDB drops the fraction of a second unless asked for it."""
        if dialect.name in {"mysql", "mariadb"}:
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store naive UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("the ledger takes aware times only")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Hand out aware UTC."""
        return None if value is None else value.replace(tzinfo=UTC)


Id = BigInteger().with_variant(Integer, "sqlite")
"""Row numbers: 64 bits everywhere (SQLite's INTEGER PRIMARY KEY is that already)."""

LONG_NAME = 512

BYTEWISE: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_nopad_bin"}
"""Options of every table: names differ where their bytes differ, on MariaDB too."""

file = Table(
    "file",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(LONG_NAME), nullable=False, doc="base name, escaped where it is not plain UTF-8"),
    Column("identity", String(80), nullable=False, doc="strongest digest, as sha256:…; tells files of one name apart"),
    Column("size_bytes", BigInteger, nullable=False),
    Column("md5", String(32)),
    Column("sha1", String(40)),
    Column("sha256", String(64)),
    Column("first_seen", Utc, nullable=False),
    UniqueConstraint("name", "identity"),
    Index(None, "identity"),
    **BYTEWISE,
)

copy = Table(
    "copy",
    metadata,
    Column("id", Id, primary_key=True),
    Column("file_id", Id, ForeignKey("file.id"), nullable=False),
    Column("place", Text, nullable=False),
    Column("place_key", String(64), nullable=False, doc="sha256 of the place: what an index can hold"),
    Column("state", String(16), nullable=False, doc="a CopyState"),
    Column("since", Utc, nullable=False),
    UniqueConstraint("file_id", "place_key"),
    Index(None, "place_key"),
    **BYTEWISE,
)

proof = Table(
    "proof",
    metadata,
    Column("id", Id, primary_key=True),
    Column("copy_id", Id, ForeignKey("copy.id"), nullable=False),
    Column("kind", String(32), nullable=False, doc="how it was learned: listing, readback, …"),
    Column("compared", JSON, nullable=False, doc="size_bytes and digests as the keeper stated them"),
    Column("proven_at", Utc, nullable=False),
    Column("run", String(LONG_NAME), nullable=False),
    Index(None, "copy_id"),
    **BYTEWISE,
)

event = Table(
    "event",
    metadata,
    Column("id", Id, primary_key=True),
    Column("happened_at", Utc, nullable=False),
    Column("who", String(LONG_NAME), nullable=False, doc="the run or the person"),
    Column("room", String(32), nullable=False),
    Column("what", String(64), nullable=False, doc="a verb: packed, sent, proved, deleted, refused, …"),
    Column("subject", String(LONG_NAME), nullable=False, doc="file, series, tape, wiki, …"),
    Column("result", String(16), nullable=False, doc="done, or the kind of the fault"),
    Column("detail", JSON, nullable=False),
    Index(None, "room", "subject"),
    **BYTEWISE,
)

lease = Table(
    "lease",
    metadata,
    Column("name", String(191), primary_key=True),
    Column("token", BigInteger, nullable=False, doc="grows with every owner; a write with an old one is refused"),
    Column("holder", String(LONG_NAME), nullable=False),
    Column("taken_at", Utc, nullable=False),
    Column("expires_at", Utc, nullable=False),
    Column("progress", JSON, nullable=False),
    **BYTEWISE,
)
