"""Drain's own tables: the series of every disk, and the files in them."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from custody.ledger.tables import BYTEWISE, Id, Utc, metadata

series = Table(
    "drain_series",
    metadata,
    Column("id", Id, primary_key=True),
    Column("config", String(191), nullable=False, doc="name of the configuration it was planned under"),
    Column("settings", JSON, nullable=False, doc="that configuration, as checked when the last run planned"),
    Column("item", String(100), nullable=False, doc="identifier at the target and name of the directory"),
    Column("directory", Text, nullable=False, doc="xfer_dir/item"),
    Column("state", String(16), nullable=False, doc="a SeriesState"),
    Column("on_hold", Boolean, nullable=False, default=False),
    Column(
        "attempts", Integer, nullable=False, default=0, doc="faults in this state that time alone might have mended"
    ),
    Column("fault", String(16), doc="kind of the fault that stopped it, or null"),
    Column("fault_text", Text),
    Column("planned_at", Utc, nullable=False),
    Column("changed_at", Utc, nullable=False),
    Index(None, "config", "state"),
    Index(None, "item"),
    **BYTEWISE,
)

series_file = Table(
    "drain_file",
    metadata,
    Column("id", Id, primary_key=True),
    Column("series_id", Id, ForeignKey("drain_series.id"), nullable=False),
    Column("source", Text, nullable=False, doc="path in the job directory"),
    Column("source_key", String(64), nullable=False, doc="place_key of the source while it is reserved, else its row"),
    Column("name", String(255), nullable=False, doc="name in the item"),
    Column("size_bytes", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("inode", BigInteger, nullable=False),
    Column("position", Integer, nullable=False),
    Column("md5", String(32)),
    Column("sha256", String(64)),
    Column("file_id", Id, ForeignKey("file.id"), doc="the shared file row, once its digests are known"),
    UniqueConstraint("source_key"),
    UniqueConstraint("series_id", "name"),
    **BYTEWISE,
)
