"""The bitarchive room's own tables: what files an archive has, where each stands in each replica, and every batch."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint

from custody.ledger.tables import BYTEWISE, LONG_NAME, Id, Utc, metadata

archive_file = Table(
    "bitarchive_file",
    metadata,
    Column("id", Id, primary_key=True),
    Column("archive", String(100), nullable=False, doc="name of the configuration"),
    Column("name", String(255), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("md5", String(32), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("added_at", Utc, nullable=False),
    UniqueConstraint("archive", "name"),
    **BYTEWISE,
)

replica_file = Table(
    "bitarchive_replica_file",
    metadata,
    Column("id", Id, primary_key=True),
    Column("file_id", Id, ForeignKey("bitarchive_file.id"), nullable=False),
    Column("replica", String(100), nullable=False),
    Column("node", String(100), nullable=False, doc="where in the replica; empty for a checksum replica"),
    Column("upload_state", String(24), nullable=False, doc="an UploadState"),
    Column("filelist_status", String(24), nullable=False, doc="a FilelistStatus"),
    Column("checksum_status", String(16), nullable=False, doc="a ChecksumStatus"),
    Column("found_sha256", String(64), doc="as last read there"),
    Column("found_md5", String(32)),
    Column("filelist_checked_at", Utc),
    Column("checksum_checked_at", Utc),
    Column("changed_at", Utc, nullable=False),
    UniqueConstraint("file_id", "replica"),
    Index(None, "replica"),
    **BYTEWISE,
)

batch = Table(
    "bitarchive_batch",
    metadata,
    Column("id", Id, primary_key=True),
    Column("key", String(191), nullable=False, doc="the run that made it; a second start of that run finds it"),
    Column("archive", String(100), nullable=False),
    Column("replica", String(100), nullable=False),
    Column("request", JSON, nullable=False, doc="job, regexp, arguments, limits"),
    Column("job_sha256", String(64), nullable=False, doc="of the job's code as it was frozen"),
    Column("files_in_replica", Integer, nullable=False),
    Column("files_expected", Integer, nullable=False),
    Column("state", String(16), nullable=False, doc="a BatchState"),
    Column("summary", JSON, nullable=False),
    Column("output_sha256", String(64)),
    Column("output_bytes", BigInteger),
    Column("who", String(LONG_NAME), nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("changed_at", Utc, nullable=False),
    UniqueConstraint("key"),
    Index(None, "archive"),
    **BYTEWISE,
)

batch_file = Table(
    "bitarchive_batch_file",
    metadata,
    Column("id", Id, primary_key=True),
    Column("batch_id", Id, ForeignKey("bitarchive_batch.id"), nullable=False),
    Column("position", Integer, nullable=False, doc="order in the output: by name, byte by byte"),
    Column("name", String(255), nullable=False),
    Column("node", String(100), nullable=False),
    Column("bucket", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("state", String(16), nullable=False, doc="a FileState"),
    Column("attempts", Integer, nullable=False, default=0),
    Column("records", BigInteger, nullable=False, default=0),
    Column("damages", Integer, nullable=False, default=0),
    Column("output_bytes", BigInteger, nullable=False, default=0),
    Column("output_sha256", String(64), doc="of its part; null where it has none"),
    Column("error_class", String(255), nullable=False, default=""),
    Column("message", Text, nullable=False, default=""),
    Column("offset_bytes", BigInteger, nullable=False, default=-1, doc="of the record, -1 where not known"),
    Column("detail", JSON, nullable=False, doc="exceptions with tracebacks, damages, end of stderr, isolation"),
    Column("changed_at", Utc, nullable=False),
    UniqueConstraint("batch_id", "position"),
    Index(None, "batch_id", "state"),
    **BYTEWISE,
)

TABLES = (archive_file, replica_file, batch, batch_file)
