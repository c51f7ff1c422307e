"""The quota ledger, with an entry for every request there is already."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATES = {"queued": "reserved", "running": "reserved", "failed": "refunded", "cancelled": "refunded"}


def upgrade() -> None:
    """Make the table and enter the requests of before."""
    ledger = op.create_table(
        "ledger",
        sa.Column("job_id", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
    )
    op.create_index("ledger_by_user", "ledger", ["user_id", "at"])
    rows = op.get_bind().execute(sa.text("SELECT id, user_id, created_at, status, request FROM jobs")).all()
    entries: list[dict[str, Any]] = []
    for row in rows:
        asked = json.loads(row.request)
        price = asked["width"] * asked["height"] * asked["num_inference_steps"] * asked["count"]
        state = _STATES.get(row.status, "settled")
        amount = 0 if state == "refunded" else price
        entries.append(
            {"job_id": row.id, "user_id": row.user_id, "at": row.created_at, "state": state, "reserved": price, "amount": amount}
        )  # fmt: skip
    if entries:
        op.bulk_insert(ledger, entries)
