"""What a result says of prompts that were not read to their end."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; the results of before say nothing."""
    op.add_column("jobs", sa.Column("note", sa.Text()))
