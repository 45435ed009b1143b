"""Wiki dump: runs, jobs, files."""

import sqlalchemy as sa
from alembic import op

from custody.ledger.tables import Utc

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "wiki_dump_run",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("config", sa.String(length=191), nullable=False),
        sa.Column("wiki", sa.String(length=64), nullable=False),
        sa.Column("date", sa.String(length=8), nullable=False),
        sa.Column("place_key", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=512), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("frozen", sa.JSON(), nullable=False),
        sa.Column("frozen_sha256", sa.String(length=64), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("wanted", sa.JSON(), nullable=False),
        sa.Column("snapshot", sa.JSON(), nullable=False),
        sa.Column("fault", sa.String(length=16), nullable=True),
        sa.Column("fault_text", sa.Text(), nullable=True),
        sa.Column("started_at", Utc(), nullable=False),
        sa.Column("changed_at", Utc(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_wiki_dump_run")),
        sa.UniqueConstraint("place_key", "date", name=op.f("uq_wiki_dump_run_place_key_date")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_index(op.f("ix_wiki_dump_run_config_state"), "wiki_dump_run", ["config", "state"], unique=False)
    op.create_table(
        "wiki_dump_file",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("private", sa.Boolean(), nullable=False),
        sa.Column("part", sa.Integer(), nullable=True),
        sa.Column("first_page", sa.BigInteger(), nullable=True),
        sa.Column("last_page", sa.BigInteger(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("md5", sa.String(length=32), nullable=True),
        sa.Column("sha1", sa.String(length=40), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["wiki_dump_run.id"], name=op.f("fk_wiki_dump_file_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_wiki_dump_file")),
        sa.UniqueConstraint("run_id", "name", name=op.f("uq_wiki_dump_file_run_id_name")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
    op.create_table(
        "wiki_dump_job",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("lost", sa.Integer(), nullable=False),
        sa.Column("updated_at", Utc(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["wiki_dump_run.id"], name=op.f("fk_wiki_dump_job_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_wiki_dump_job")),
        sa.UniqueConstraint("run_id", "name", name=op.f("uq_wiki_dump_job_run_id_name")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin",
    )
