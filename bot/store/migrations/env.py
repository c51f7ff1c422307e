"""Alembic's entry: runs the scripts on the connection it is given. Only `bot/store/migrate.py` starts it."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection)
with context.begin_transaction():
    context.run_migrations()
