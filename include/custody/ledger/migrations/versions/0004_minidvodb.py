"""Minidvodb: databases, destinations, what is wanted where, switches, copies."""

import sqlalchemy as sa
from alembic import op

from custody.ledger.tables import Utc

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "minidvodb_destination",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=191), nullable=False),
        sa.Column("connection", sa.String(length=191), nullable=True),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("switched_at", Utc(), nullable=False),
        sa.Column("machine", sa.String(length=80), nullable=True),
        sa.Column("filesystem", sa.String(length=80), nullable=True),
        sa.Column("identity", sa.String(length=64), nullable=True),
        sa.Column("look", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_minidvodb_destination")),
        sa.UniqueConstraint("identity", name=op.f("uq_minidvodb_destination_identity")),
        sa.UniqueConstraint("name", name=op.f("uq_minidvodb_destination_name")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_table(
        "minidvodb_run",
        sa.Column("minidvodb_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("minidvodb_name", sa.String(length=64), nullable=False),
        sa.Column("minidvodb_group", sa.String(length=64), nullable=False),
        sa.Column("minidvodb_path", sa.Text(), nullable=False),
        sa.Column("minidvodb_host", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("note", sa.String(length=255), nullable=True),
        sa.Column("creation_date", Utc(), nullable=True),
        sa.PrimaryKeyConstraint("minidvodb_id", name=op.f("pk_minidvodb_run")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_index(
        op.f("ix_minidvodb_run_minidvodb_group_state"), "minidvodb_run", ["minidvodb_group", "state"], unique=False
    )
    op.create_table(
        "minidvodb_switch",
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("is_on", sa.Boolean(), nullable=False),
        sa.Column("changed_at", Utc(), nullable=False),
        sa.Column("who", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("stage", name=op.f("pk_minidvodb_switch")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_table(
        "minidvodb_copy",
        sa.Column("minidvodbcopy_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("minidvodb_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("minidvodb_rsync_path", sa.Text(), nullable=False),
        sa.Column("destination_host", sa.String(length=255), nullable=False),
        sa.Column("fault", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("epoch", Utc(), nullable=False),
        sa.Column("dtime", sa.Float(), nullable=True),
        sa.Column("destination_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("step", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("queued_at", Utc(), nullable=False),
        sa.Column("fault_name", sa.String(length=16), nullable=True),
        sa.Column("fault_kind", sa.String(length=16), nullable=True),
        sa.Column("fault_text", sa.Text(), nullable=True),
        sa.Column("exit_status", sa.Integer(), nullable=True),
        sa.Column("stderr_tail", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", Utc(), nullable=True),
        sa.Column("may_replace", sa.Boolean(), nullable=False),
        sa.Column("holder", sa.String(length=191), nullable=True),
        sa.Column("mover", sa.String(length=16), nullable=True),
        sa.Column("profile", sa.JSON(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("sent_bytes", sa.BigInteger(), nullable=True),
        sa.Column("reserved_bytes", sa.BigInteger(), nullable=False),
        sa.Column("reserved_inodes", sa.BigInteger(), nullable=False),
        sa.Column("reserved_at", Utc(), nullable=True),
        sa.Column("algorithm", sa.String(length=16), nullable=True),
        sa.Column("manifest_sha256", sa.String(length=64), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=True),
        sa.Column("started_at", Utc(), nullable=True),
        sa.Column("ended_at", Utc(), nullable=True),
        sa.Column("verify_s", sa.Float(), nullable=True),
        sa.Column("verified_at", Utc(), nullable=True),
        sa.ForeignKeyConstraint(
            ["destination_id"], ["minidvodb_destination.id"], name=op.f("fk_minidvodb_copy_destination_id")
        ),
        sa.ForeignKeyConstraint(
            ["minidvodb_id"], ["minidvodb_run.minidvodb_id"], name=op.f("fk_minidvodb_copy_minidvodb_id")
        ),
        sa.PrimaryKeyConstraint("minidvodbcopy_id", name=op.f("pk_minidvodb_copy")),
        sa.UniqueConstraint(
            "minidvodb_id", "destination_id", name=op.f("uq_minidvodb_copy_minidvodb_id_destination_id")
        ),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_index(
        op.f("ix_minidvodb_copy_destination_id_state"), "minidvodb_copy", ["destination_id", "state"], unique=False
    )
    op.create_table(
        "minidvodb_processed",
        sa.Column(
            "minidvodb_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("dtime_resort", sa.Float(), nullable=True),
        sa.Column("dtime_relphot", sa.Float(), nullable=True),
        sa.Column("dtime_script", sa.Float(), nullable=True),
        sa.Column("epoch", Utc(), nullable=True),
        sa.Column("fault", sa.SmallInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["minidvodb_id"], ["minidvodb_run.minidvodb_id"], name=op.f("fk_minidvodb_processed_minidvodb_id")
        ),
        sa.PrimaryKeyConstraint("minidvodb_id", name=op.f("pk_minidvodb_processed")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_table(
        "minidvodb_wanted",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("minidvodb_group", sa.String(length=64), nullable=False),
        sa.Column("destination_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("added_at", Utc(), nullable=False),
        sa.ForeignKeyConstraint(
            ["destination_id"], ["minidvodb_destination.id"], name=op.f("fk_minidvodb_wanted_destination_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_minidvodb_wanted")),
        sa.UniqueConstraint(
            "minidvodb_group", "destination_id", name=op.f("uq_minidvodb_wanted_minidvodb_group_destination_id")
        ),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
