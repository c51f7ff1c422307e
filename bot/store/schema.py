"""The tables. What changes here needs a script in `migrations/versions/`; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Moment(TypeDecorator[datetime]):
    """An aware moment, kept as whole microseconds since 1970 UTC: exact, ordered, the same in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:
        """Turn an aware datetime into microseconds."""
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: Any | None, dialect: Any) -> datetime | None:
        """Turn microseconds into an aware datetime."""
        return None if value is None else _EPOCH + int(value) * _MICROSECOND


metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    # The order of arrival. Never given out twice, so that a page of history stays where it is.
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("interaction_id", BigInteger, nullable=False, unique=True),
    Column("status", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("request", Text, nullable=False),
    Column("application_id", BigInteger, nullable=False),
    Column("interaction_token", Text),
    Column("expires_at", Moment, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("user_name", Text, nullable=False),
    Column("channel_id", BigInteger, nullable=False),
    Column("guild_id", BigInteger),
    Column("age_restricted", Boolean, nullable=False),
    Column("attachment_size_limit", BigInteger, nullable=False),
    Column("bot_in_channel", Boolean, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    Column("message_id", BigInteger),
    Column("posted_to", String(16)),
    Column("error", Text),
    Column("draw_s", Float),
    Column("denoise_s", Float),
    # What the model left of the prompts unread, as a sentence; NULL where it read them all.
    Column("note", Text),
    # Whether a failed or cancelled request has been told to its member.
    Column("told", Boolean, nullable=False),
    Index("jobs_by_user", "user_id", "status", "seq"),
    Index("jobs_by_status", "status", "seq"),
    Index("jobs_by_end", "finished_at"),
    sqlite_autoincrement=True,
)

files = Table(
    "files",
    metadata,
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("path", Text, nullable=False),
    Column("file_name", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("nsfw_score", Float),
    Column("flagged", Boolean, nullable=False),
)

# What each request costs its member, in pixel-steps. No foreign key: what was drawn still counts today after its
# request was deleted.
ledger = Table(
    "ledger",
    metadata,
    Column("job_id", String(64), primary_key=True),
    Column("user_id", BigInteger, nullable=False),
    Column("at", Moment, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Index("ledger_by_user", "user_id", "at"),
)

posts = Table(
    "posts",
    metadata,
    # The messages of a result that takes more than one; those that take one have no row here.
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("part", Integer, primary_key=True),
    # The `n` of its pictures, with commas between.
    Column("pictures", Text, nullable=False),
    Column("message_id", BigInteger),
    Column("channel_id", BigInteger),
    Column("done", Boolean, nullable=False),
)
