"""Drain: series and their files."""

import sqlalchemy as sa
from alembic import op

from custody.ledger.tables import Utc

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "drain_series",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("config", sa.String(length=191), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("item", sa.String(length=100), nullable=False),
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("on_hold", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("fault", sa.String(length=16), nullable=True),
        sa.Column("fault_text", sa.Text(), nullable=True),
        sa.Column("planned_at", Utc(), nullable=False),
        sa.Column("changed_at", Utc(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drain_series")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_index(op.f("ix_drain_series_config_state"), "drain_series", ["config", "state"], unique=False)
    op.create_index(op.f("ix_drain_series_item"), "drain_series", ["item"], unique=False)
    op.create_table(
        "drain_file",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("series_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_key", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("inode", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("md5", sa.String(length=32), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("file_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_drain_file_file_id")),
        sa.ForeignKeyConstraint(["series_id"], ["drain_series.id"], name=op.f("fk_drain_file_series_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drain_file")),
        sa.UniqueConstraint("series_id", "name", name=op.f("uq_drain_file_series_id_name")),
        sa.UniqueConstraint("source_key", name=op.f("uq_drain_file_source_key")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
