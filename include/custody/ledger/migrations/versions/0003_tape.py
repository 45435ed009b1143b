"""Tape: tapes, targets, backups, attempts, members."""

import sqlalchemy as sa
from alembic import op

from custody.ledger.tables import Utc

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TAPE_TRANSITIONS = {
    "": "closed full labelled new open retired suspect",
    "closed": "retired suspect",
    "full": "closed retired suspect",
    "labelled": "closed full open retired suspect",
    "new": "closed labelled open retired suspect",
    "open": "closed full retired suspect",
    "suspect": "closed full open retired suspect",
}
_BACKUP_TRANSITIONS = {
    "": "assigned confirmed recorded",
    "assigned": "assigned released writing",
    "confirmed": "confirmed failed released",
    "failed": "assigned confirmed failed released",
    "outstanding": "assigned released",
    "recorded": "confirmed failed released",
    "writing": "assigned failed outstanding recorded",
}


def upgrade() -> None:
    op.create_table(
        "tape_backup_transition",
        sa.Column("state_before", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("state_before", "state", name=op.f("pk_tape_backup_transition")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_table(
        "tape_tape_transition",
        sa.Column("state_before", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("state_before", "state", name=op.f("pk_tape_tape_transition")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_table(
        "tape_target",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("source", sa.String(length=191), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("name_key", sa.String(length=64), nullable=False),
        sa.Column("scanned_at", Utc(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("members", sa.Integer(), nullable=True),
        sa.Column("excludes", sa.JSON(), nullable=False),
        sa.Column("imported_at", Utc(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tape_target")),
        sa.UniqueConstraint("name_key", name=op.f("uq_tape_target_name_key")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_table(
        "tape_tape",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("state_before", sa.String(length=16), nullable=False),
        sa.Column("is_online", sa.Boolean(), nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=True),
        sa.Column("label", sa.String(length=16), nullable=False),
        sa.Column("identity", sa.String(length=64), nullable=True),
        sa.Column("serial", sa.String(length=100), nullable=True),
        sa.Column("barcode", sa.String(length=32), nullable=True),
        sa.Column("pool", sa.String(length=64), nullable=False),
        sa.Column("location", sa.String(length=255), nullable=False),
        sa.Column("slot", sa.String(length=64), nullable=False),
        sa.Column("block_bytes", sa.Integer(), nullable=False),
        sa.Column("capacity_bytes", sa.BigInteger(), nullable=True),
        sa.Column("written_bytes", sa.BigInteger(), nullable=False),
        sa.Column("compression", sa.Boolean(), nullable=True),
        sa.Column("encryption_key", sa.String(length=255), nullable=True),
        sa.Column("catalog_file_number", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("opened_at", Utc(), nullable=False),
        sa.Column("changed_at", Utc(), nullable=False),
        sa.ForeignKeyConstraint(
            ["state_before", "state"],
            ["tape_tape_transition.state_before", "tape_tape_transition.state"],
            name=op.f("fk_tape_tape_state_before"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tape_tape")),
        sa.UniqueConstraint("name", name=op.f("uq_tape_tape_name")),
        sa.UniqueConstraint("serial", name=op.f("uq_tape_tape_serial")),
        sa.UniqueConstraint("uuid", name=op.f("uq_tape_tape_uuid")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_table(
        "tape_backup",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("target_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("tape_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("live_key", sa.String(length=128), nullable=False),
        sa.Column("file_number", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("state_before", sa.String(length=16), nullable=False),
        sa.Column("tape_bytes", sa.BigInteger(), nullable=True),
        sa.Column("tape_blocks", sa.BigInteger(), nullable=True),
        sa.Column("content_bytes", sa.BigInteger(), nullable=True),
        sa.Column("members", sa.Integer(), nullable=True),
        sa.Column("manifest_sha256", sa.String(length=64), nullable=True),
        sa.Column("recorded_at", Utc(), nullable=True),
        sa.Column("confirmed_at", Utc(), nullable=True),
        sa.Column("fault", sa.String(length=16), nullable=True),
        sa.Column("fault_text", sa.Text(), nullable=True),
        sa.Column("changed_at", Utc(), nullable=False),
        sa.ForeignKeyConstraint(
            ["state_before", "state"],
            ["tape_backup_transition.state_before", "tape_backup_transition.state"],
            name=op.f("fk_tape_backup_state_before"),
        ),
        sa.ForeignKeyConstraint(["tape_id"], ["tape_tape.id"], name=op.f("fk_tape_backup_tape_id")),
        sa.ForeignKeyConstraint(["target_id"], ["tape_target.id"], name=op.f("fk_tape_backup_target_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tape_backup")),
        sa.UniqueConstraint("live_key", name=op.f("uq_tape_backup_live_key")),
        sa.UniqueConstraint("tape_id", "file_number", name=op.f("uq_tape_backup_tape_id_file_number")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_index(op.f("ix_tape_backup_target_id"), "tape_backup", ["target_id"], unique=False)
    op.create_table(
        "tape_attempt",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("backup_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("tape_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("file_number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("result", sa.String(length=16), nullable=False),
        sa.Column("who", sa.String(length=512), nullable=False),
        sa.Column("started_at", Utc(), nullable=False),
        sa.Column("ended_at", Utc(), nullable=True),
        sa.Column("tape_bytes", sa.BigInteger(), nullable=True),
        sa.Column("tape_blocks", sa.BigInteger(), nullable=True),
        sa.Column("rate_bytes_s", sa.BigInteger(), nullable=True),
        sa.Column("underruns", sa.Integer(), nullable=True),
        sa.Column("fault_text", sa.Text(), nullable=True),
        sa.Column("health", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["backup_id"], ["tape_backup.id"], name=op.f("fk_tape_attempt_backup_id")),
        sa.ForeignKeyConstraint(["tape_id"], ["tape_tape.id"], name=op.f("fk_tape_attempt_tape_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tape_attempt")),
        sa.UniqueConstraint("uuid", name=op.f("uq_tape_attempt_uuid")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_index(
        op.f("ix_tape_attempt_tape_id_file_number"), "tape_attempt", ["tape_id", "file_number"], unique=False
    )
    op.create_table(
        "tape_member",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("target_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("backup_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("name_key", sa.String(length=64), nullable=False),
        sa.Column("base_key", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("mode", sa.Integer(), nullable=False),
        sa.Column("uid", sa.BigInteger(), nullable=False),
        sa.Column("gid", sa.BigInteger(), nullable=False),
        sa.Column("mtime_s", sa.BigInteger(), nullable=False),
        sa.Column("link", sa.Text(), nullable=False),
        sa.Column("device", sa.String(length=32), nullable=False),
        sa.Column("is_sparse", sa.Boolean(), nullable=False),
        sa.Column("offset_bytes", sa.BigInteger(), nullable=False),
        sa.Column("md5", sa.String(length=32), nullable=True),
        sa.Column("sha1", sa.String(length=40), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["backup_id"], ["tape_backup.id"], name=op.f("fk_tape_member_backup_id")),
        sa.ForeignKeyConstraint(["target_id"], ["tape_target.id"], name=op.f("fk_tape_member_target_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tape_member")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_index(op.f("ix_tape_member_backup_id"), "tape_member", ["backup_id"], unique=False)
    op.create_index(op.f("ix_tape_member_base_key"), "tape_member", ["base_key"], unique=False)
    op.create_index(op.f("ix_tape_member_md5"), "tape_member", ["md5"], unique=False)
    op.create_index(op.f("ix_tape_member_name_key"), "tape_member", ["name_key"], unique=False)
    op.create_index(op.f("ix_tape_member_sha256"), "tape_member", ["sha256"], unique=False)
    op.create_index(
        op.f("ix_tape_member_target_id_backup_id_position"),
        "tape_member",
        ["target_id", "backup_id", "position"],
        unique=False,
    )
    _fill("tape_tape_transition", _TAPE_TRANSITIONS)
    _fill("tape_backup_transition", _BACKUP_TRANSITIONS)


def _fill(name: str, transitions: dict[str, str]) -> None:
    table = sa.table(name, sa.column("state_before"), sa.column("state"))
    pairs = [
        {"state_before": before, "state": after} for before, all_of in transitions.items() for after in all_of.split()
    ]
    op.bulk_insert(table, pairs)
