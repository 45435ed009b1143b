"""The tape room's own tables: tapes, targets, their backups on tapes, every attempt, and every member.

A state is written together with the state before it, and the pair must stand in a table of transitions: a foreign key
refuses what the rules of :mod:`custody.tape.states` do not allow, whoever writes.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from custody.ledger.tables import BYTEWISE, LONG_NAME, Id, Utc, metadata


def _transition(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("state_before", String(16), primary_key=True),
        Column("state", String(16), primary_key=True),
        **BYTEWISE,
    )


tape_transition = _transition("tape_tape_transition")
backup_transition = _transition("tape_backup_transition")

tape = Table(
    "tape_tape",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(100), nullable=False),
    Column("state", String(16), nullable=False, doc="a TapeState"),
    Column("state_before", String(16), nullable=False),
    Column("is_online", Boolean, nullable=False, default=False, doc="the one that verbs without a tape name mean"),
    Column("uuid", String(36), doc="of its label; null where it has none"),
    Column("label", String(16), nullable=False, doc="custody, or none: a tape of the old system"),
    Column("identity", String(64), doc="label none: sha256 of the first block of file 0, once it was seen"),
    Column("serial", String(100)),
    Column("barcode", String(32)),
    Column("pool", String(64), nullable=False),
    Column("location", String(255), nullable=False, default=""),
    Column("slot", String(64), nullable=False, default=""),
    Column("block_bytes", Integer, nullable=False),
    Column("capacity_bytes", BigInteger),
    Column("written_bytes", BigInteger, nullable=False, default=0),
    Column("compression", Boolean),
    Column("encryption_key", String(255), doc="description of the key, never the key"),
    Column("catalog_file_number", Integer, doc="where closing wrote the catalog"),
    Column("reason", Text, nullable=False, default="", doc="why it is suspect or retired"),
    Column("opened_at", Utc, nullable=False),
    Column("changed_at", Utc, nullable=False),
    UniqueConstraint("name"),
    UniqueConstraint("serial"),
    UniqueConstraint("uuid"),
    ForeignKeyConstraint(
        ["state_before", "state"], ["tape_tape_transition.state_before", "tape_tape_transition.state"]
    ),
    **BYTEWISE,
)

target = Table(
    "tape_target",
    metadata,
    Column("id", Id, primary_key=True),
    Column("source", String(191), nullable=False, doc="the host it lies on"),
    Column("name", Text, nullable=False, doc="absolute path, escaped"),
    Column("name_key", String(64), nullable=False, doc="sha256 of source and path: what an index can hold"),
    Column("scanned_at", Utc),
    Column("size_bytes", BigInteger, doc="of its regular files, as scanned"),
    Column("members", Integer),
    Column("excludes", JSON, nullable=False, doc="paths below it that are targets themselves, escaped; as scanned"),
    Column("imported_at", Utc, nullable=False),
    UniqueConstraint("name_key"),
    **BYTEWISE,
)

backup = Table(
    "tape_backup",
    metadata,
    Column("id", Id, primary_key=True),
    Column("target_id", Id, ForeignKey("tape_target.id"), nullable=False),
    Column("tape_id", Id, ForeignKey("tape_tape.id"), nullable=False),
    Column("live_key", String(128), nullable=False, doc="target/pool while it counts: one copy a pool; else its row"),
    Column("file_number", Integer, doc="null until it is being written"),
    Column("state", String(16), nullable=False, doc="a BackupState"),
    Column("state_before", String(16), nullable=False),
    Column("tape_bytes", BigInteger, doc="of the whole tape file"),
    Column("tape_blocks", BigInteger),
    Column("content_bytes", BigInteger, doc="of its regular files"),
    Column("members", Integer),
    Column("manifest_sha256", String(64)),
    Column("recorded_at", Utc),
    Column("confirmed_at", Utc),
    Column("fault", String(16)),
    Column("fault_text", Text),
    Column("changed_at", Utc, nullable=False),
    UniqueConstraint("live_key"),
    UniqueConstraint("tape_id", "file_number"),
    Index(None, "target_id"),
    ForeignKeyConstraint(
        ["state_before", "state"], ["tape_backup_transition.state_before", "tape_backup_transition.state"]
    ),
    **BYTEWISE,
)

attempt = Table(
    "tape_attempt",
    metadata,
    Column("id", Id, primary_key=True),
    Column("uuid", String(36), nullable=False, doc="also in the opening member of the tape file"),
    Column("backup_id", Id, ForeignKey("tape_backup.id")),
    Column("tape_id", Id, ForeignKey("tape_tape.id"), nullable=False),
    Column("file_number", Integer, nullable=False),
    Column("kind", String(16), nullable=False, doc="write, confirm, restore, scan, catalog"),
    Column("result", String(16), nullable=False, doc="an AttemptResult"),
    Column("who", String(LONG_NAME), nullable=False),
    Column("started_at", Utc, nullable=False),
    Column("ended_at", Utc),
    Column("tape_bytes", BigInteger),
    Column("tape_blocks", BigInteger),
    Column("rate_bytes_s", BigInteger),
    Column("underruns", Integer),
    Column("fault_text", Text),
    Column("health", JSON, nullable=False, doc="alerts and counters of the drive before and after"),
    UniqueConstraint("uuid"),
    Index(None, "tape_id", "file_number"),
    **BYTEWISE,
)

member = Table(
    "tape_member",
    metadata,
    Column("id", Id, primary_key=True),
    Column("target_id", Id, ForeignKey("tape_target.id"), nullable=False),
    Column("backup_id", Id, ForeignKey("tape_backup.id"), doc="null: as the scan of the source found it"),
    Column("position", Integer, nullable=False, doc="order in the tape file"),
    Column("name", Text, nullable=False, doc="as in the archive, escaped"),
    Column("name_key", String(64), nullable=False, doc="sha256 of the name"),
    Column("base_key", String(64), nullable=False, doc="sha256 of the base name"),
    Column("kind", String(16), nullable=False, doc="a MemberKind"),
    Column("size_bytes", BigInteger, nullable=False),
    Column("mode", Integer, nullable=False),
    Column("uid", BigInteger, nullable=False),
    Column("gid", BigInteger, nullable=False),
    Column("mtime_s", BigInteger, nullable=False),
    Column("link", Text, nullable=False, doc="text of a symbolic link, first name of a hard link; escaped"),
    Column("device", String(32), nullable=False, default="", doc="major:minor"),
    Column("is_sparse", Boolean, nullable=False, default=False),
    Column("offset_bytes", BigInteger, nullable=False, doc="of its header in the tape file; -1 unknown"),
    Column("md5", String(32)),
    Column("sha1", String(40)),
    Column("sha256", String(64)),
    Index(None, "target_id", "backup_id", "position"),
    Index(None, "backup_id"),
    Index(None, "name_key"),
    Index(None, "base_key"),
    Index(None, "sha256"),
    Index(None, "md5"),
    **BYTEWISE,
)
