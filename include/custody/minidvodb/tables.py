"""The room's tables: the databases there are, where they are wanted, and the copies of them.

``minidvodb_run``, ``minidvodb_processed`` and ``minidvodb_copy`` begin with the columns of the old ``minidvodbRun``,
``minidvodbProcessed`` and ``minidvodbCopy``, under the same names and with the same values.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from custody.ledger.tables import BYTEWISE, Id, Utc, metadata

run = Table(
    "minidvodb_run",
    metadata,
    Column("minidvodb_id", Id, primary_key=True),
    Column("minidvodb_name", String(64), nullable=False),
    Column("minidvodb_group", String(64), nullable=False),
    Column("minidvodb_path", Text, nullable=False, doc="the directory, absolute"),
    Column("minidvodb_host", String(64), doc="the machine that holds it; null: the worker's own"),
    Column("state", String(64), nullable=False, doc="new, active, waiting, to_be_merged, merged"),
    Column("note", String(255)),
    Column("creation_date", Utc),
    Index(None, "minidvodb_group", "state"),
    **BYTEWISE,
)

processed = Table(
    "minidvodb_processed",
    metadata,
    Column("minidvodb_id", Id, ForeignKey("minidvodb_run.minidvodb_id"), primary_key=True, autoincrement=False),
    Column("dtime_resort", Float),
    Column("dtime_relphot", Float),
    Column("dtime_script", Float),
    Column("epoch", Utc),
    Column("fault", SmallInteger, nullable=False),
    **BYTEWISE,
)

destination = Table(
    "minidvodb_destination",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(191), nullable=False, doc="the old destination_host"),
    Column("connection", String(191), doc="ssh connection; null: a directory of the worker's own machine"),
    Column("settings", JSON, nullable=False, doc="a destination.Settings"),
    Column("enabled", Boolean, nullable=False),
    Column("switched_at", Utc, nullable=False),
    Column("machine", String(80), doc="its machine-id, as found at the first contact"),
    Column("filesystem", String(80), doc="its file-system id, likewise"),
    Column("identity", String(64), doc="of machine and file system: two names for one disk are refused"),
    Column("look", JSON, nullable=False, doc="room as last seen: bytes, inodes, share in use, when"),
    UniqueConstraint("name"),
    UniqueConstraint("identity"),
    **BYTEWISE,
)

wanted = Table(
    "minidvodb_wanted",
    metadata,
    Column("id", Id, primary_key=True),
    Column("minidvodb_group", String(64), nullable=False),
    Column("destination_id", Id, ForeignKey("minidvodb_destination.id"), nullable=False),
    Column("path", Text, nullable=False, doc="the directory over there that takes the databases"),
    Column("priority", SmallInteger, nullable=False, doc="1 (first) to 5"),
    Column("added_at", Utc, nullable=False),
    UniqueConstraint("minidvodb_group", "destination_id"),
    **BYTEWISE,
)

switch = Table(
    "minidvodb_switch",
    metadata,
    Column("stage", String(16), primary_key=True, doc="queue, load, run"),
    Column("is_on", Boolean, nullable=False),
    Column("changed_at", Utc, nullable=False),
    Column("who", String(255), nullable=False),
    **BYTEWISE,
)

copy = Table(
    "minidvodb_copy",
    metadata,
    Column("minidvodbcopy_id", Id, primary_key=True),
    Column("minidvodb_id", Id, ForeignKey("minidvodb_run.minidvodb_id"), nullable=False),
    Column("minidvodb_rsync_path", Text, nullable=False, doc="the directory over there"),
    Column("destination_host", String(255), nullable=False),
    Column("fault", SmallInteger, nullable=False, doc="number of the FaultCode; 0: none"),
    Column(
        "state", String(64), nullable=False, doc="new, full; or lost, corrupt: was full, and an audit found otherwise"
    ),
    Column("epoch", Utc, nullable=False, doc="when this row last changed"),
    Column("dtime", Float, doc="seconds from the first step to the last, failures too"),
    # what the old table did not know
    Column("destination_id", Id, ForeignKey("minidvodb_destination.id"), nullable=False),
    Column("step", String(16), nullable=False, doc="a CopyStep: how far a copy that is not full has come"),
    Column("priority", SmallInteger, nullable=False),
    Column("queued_at", Utc, nullable=False),
    Column("fault_name", String(16), doc="the FaultCode by name"),
    Column("fault_kind", String(16), doc="its FaultKind"),
    Column("fault_text", Text),
    Column("exit_status", Integer, doc="of the program that failed"),
    Column("stderr_tail", Text),
    Column("attempts", Integer, nullable=False, doc="failures since the last success or revert"),
    Column("not_before", Utc, doc="when a faulted copy is tried again; null with a fault: when it is reverted"),
    Column("may_replace", Boolean, nullable=False, doc="whether what lies under its name over there may be set aside"),
    Column("holder", String(191), doc="the destination whose verified copy was the source; null: the original"),
    Column("mover", String(16), doc="rsync or stream, as chosen"),
    Column("profile", JSON, nullable=False, doc="files, bytes and what else the choice was made by"),
    Column("files", BigInteger),
    Column("bytes", BigInteger, doc="size of all its files"),
    Column("sent_bytes", BigInteger, doc="what travelled at the last transfer"),
    Column("reserved_bytes", BigInteger, nullable=False),
    Column("reserved_inodes", BigInteger, nullable=False),
    Column("reserved_at", Utc),
    Column("algorithm", String(16), doc="of the manifest's digests"),
    Column("manifest_sha256", String(64), doc="of the manifest's text"),
    Column("fingerprint", String(64), doc="of the verified directory: times, inodes, names"),
    Column("started_at", Utc),
    Column("ended_at", Utc),
    Column("verify_s", Float),
    Column("verified_at", Utc, doc="when the copy over there was last read and found equal"),
    UniqueConstraint("minidvodb_id", "destination_id"),
    Index(None, "destination_id", "state"),
    **BYTEWISE,
)
