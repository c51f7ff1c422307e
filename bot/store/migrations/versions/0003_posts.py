"""The messages of results that take more than one, each with its own record."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "posts",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("part", sa.Integer(), primary_key=True),
        sa.Column("pictures", sa.Text(), nullable=False),
        sa.Column("message_id", sa.BigInteger()),
        sa.Column("channel_id", sa.BigInteger()),
        sa.Column("done", sa.Boolean(), nullable=False),
    )
