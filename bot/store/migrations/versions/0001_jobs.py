"""The first tables: jobs and their files. Append-only: later changes are scripts of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "jobs",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("interaction_id", sa.BigInteger(), nullable=False, unique=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("application_id", sa.BigInteger(), nullable=False),
        sa.Column("interaction_token", sa.Text()),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.Column("channel_id", sa.BigInteger(), nullable=False),
        sa.Column("guild_id", sa.BigInteger()),
        sa.Column("age_restricted", sa.Boolean(), nullable=False),
        sa.Column("attachment_size_limit", sa.BigInteger(), nullable=False),
        sa.Column("bot_in_channel", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger()),
        sa.Column("finished_at", sa.BigInteger()),
        sa.Column("message_id", sa.BigInteger()),
        sa.Column("posted_to", sa.String(16)),
        sa.Column("error", sa.Text()),
        sa.Column("draw_s", sa.Float()),
        sa.Column("denoise_s", sa.Float()),
        sa.Column("told", sa.Boolean(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("jobs_by_user", "jobs", ["user_id", "status", "seq"])
    op.create_index("jobs_by_status", "jobs", ["status", "seq"])
    op.create_index("jobs_by_end", "jobs", ["finished_at"])
    op.create_table(
        "files",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("n", sa.Integer(), primary_key=True),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("nsfw_score", sa.Float()),
        sa.Column("flagged", sa.Boolean(), nullable=False),
    )
