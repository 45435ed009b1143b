"""Bitarchive: files, how they stand in each replica, batches."""

import sqlalchemy as sa
from alembic import op

from custody.ledger.tables import Utc

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bitarchive_batch",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key", sa.String(length=191), nullable=False),
        sa.Column("archive", sa.String(length=100), nullable=False),
        sa.Column("replica", sa.String(length=100), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("job_sha256", sa.String(length=64), nullable=False),
        sa.Column("files_in_replica", sa.Integer(), nullable=False),
        sa.Column("files_expected", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("output_sha256", sa.String(length=64), nullable=True),
        sa.Column("output_bytes", sa.BigInteger(), nullable=True),
        sa.Column("who", sa.String(length=512), nullable=False),
        sa.Column("created_at", Utc(), nullable=False),
        sa.Column("changed_at", Utc(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bitarchive_batch")),
        sa.UniqueConstraint("key", name=op.f("uq_bitarchive_batch_key")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_index(op.f("ix_bitarchive_batch_archive"), "bitarchive_batch", ["archive"], unique=False)
    op.create_table(
        "bitarchive_file",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("archive", sa.String(length=100), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("md5", sa.String(length=32), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("added_at", Utc(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bitarchive_file")),
        sa.UniqueConstraint("archive", "name", name=op.f("uq_bitarchive_file_archive_name")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_table(
        "bitarchive_batch_file",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("batch_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("node", sa.String(length=100), nullable=False),
        sa.Column("bucket", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("damages", sa.Integer(), nullable=False),
        sa.Column("output_bytes", sa.BigInteger(), nullable=False),
        sa.Column("output_sha256", sa.String(length=64), nullable=True),
        sa.Column("error_class", sa.String(length=255), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("offset_bytes", sa.BigInteger(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("changed_at", Utc(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["bitarchive_batch.id"], name=op.f("fk_bitarchive_batch_file_batch_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bitarchive_batch_file")),
        sa.UniqueConstraint("batch_id", "position", name=op.f("uq_bitarchive_batch_file_batch_id_position")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_index(
        op.f("ix_bitarchive_batch_file_batch_id_state"), "bitarchive_batch_file", ["batch_id", "state"], unique=False
    )
    op.create_table(
        "bitarchive_replica_file",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("file_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("replica", sa.String(length=100), nullable=False),
        sa.Column("node", sa.String(length=100), nullable=False),
        sa.Column("upload_state", sa.String(length=24), nullable=False),
        sa.Column("filelist_status", sa.String(length=24), nullable=False),
        sa.Column("checksum_status", sa.String(length=16), nullable=False),
        sa.Column("found_sha256", sa.String(length=64), nullable=True),
        sa.Column("found_md5", sa.String(length=32), nullable=True),
        sa.Column("filelist_checked_at", Utc(), nullable=True),
        sa.Column("checksum_checked_at", Utc(), nullable=True),
        sa.Column("changed_at", Utc(), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["bitarchive_file.id"], name=op.f("fk_bitarchive_replica_file_file_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bitarchive_replica_file")),
        sa.UniqueConstraint("file_id", "replica", name=op.f("uq_bitarchive_replica_file_file_id_replica")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_index(op.f("ix_bitarchive_replica_file_replica"), "bitarchive_replica_file", ["replica"], unique=False)
