"""The room's own tables: runs, their jobs, and the files of these. The published tree can make them again."""

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

run = Table(
    "wiki_dump_run",
    metadata,
    Column("id", Id, primary_key=True),
    Column("config", String(191), nullable=False, doc="name of the farm"),
    Column("wiki", String(64), nullable=False),
    Column("date", String(8), nullable=False),
    Column("place_key", String(64), nullable=False, doc="place_key of the wiki's private directory"),
    Column("owner", String(512), nullable=False, doc="who claimed it last: the Airflow run, or a person"),
    Column("state", String(16), nullable=False, doc="a RunState"),
    Column("token", BigInteger, nullable=False, doc="of the lease it was claimed with"),
    Column("frozen", JSON, nullable=False, doc="farm, wiki and settings as they were when it was claimed"),
    Column("frozen_sha256", String(64), nullable=False),
    Column("options", JSON, nullable=False),
    Column("wanted", JSON, nullable=False, doc="names of the jobs this run does"),
    Column("snapshot", JSON, nullable=False, doc="what the database said of the moment that is dumped"),
    Column("fault", String(16)),
    Column("fault_text", Text),
    Column("started_at", Utc, nullable=False),
    Column("changed_at", Utc, nullable=False),
    UniqueConstraint("place_key", "date"),
    Index(None, "config", "state"),
    **BYTEWISE,
)

job = Table(
    "wiki_dump_job",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run_id", Id, ForeignKey("wiki_dump_run.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("name", String(64), nullable=False),
    Column("state", String(16), nullable=False, doc="a JobState"),
    Column("note", Text, nullable=False, doc="for the readers of the run's page"),
    Column("lost", Integer, nullable=False, doc="texts that could not be had"),
    Column("updated_at", Utc, nullable=False),
    UniqueConstraint("run_id", "name"),
    **BYTEWISE,
)

file = Table(
    "wiki_dump_file",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run_id", Id, ForeignKey("wiki_dump_run.id"), nullable=False),
    Column("job", String(64), nullable=False),
    Column("name", String(255), nullable=False),
    Column("state", String(16), nullable=False, doc="a FileState"),
    Column("private", Boolean, nullable=False),
    Column("part", Integer, doc="number of the part, from 1"),
    Column("first_page", BigInteger),
    Column("last_page", BigInteger),
    Column("size_bytes", BigInteger),
    Column("md5", String(32)),
    Column("sha1", String(40)),
    Column("sha256", String(64)),
    Column("counts", JSON, nullable=False, doc="what its maker counted: pages, revisions, …"),
    UniqueConstraint("run_id", "name"),
    **BYTEWISE,
)
