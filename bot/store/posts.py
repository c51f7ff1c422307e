"""The messages of results that take more than one: which pictures each shows, and whether it stands.

Each function is work for one transaction on the database thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from bot.generation import Post
from bot.store.schema import jobs, posts


def load(connection: Connection, job_id: str) -> tuple[Post, ...]:
    """List a job's messages, in order; none where it takes one message only."""
    rows = connection.execute(select(posts).where(posts.c.job_id == job_id).order_by(posts.c.part)).mappings()
    return tuple(_post(row) for row in rows)


def of_member(connection: Connection, user_id: int) -> dict[str, tuple[Post, ...]]:
    """List the messages of all of a member's jobs that take more than one, by job."""
    mine = select(jobs.c.id).where(jobs.c.user_id == user_id)
    query = select(posts).where(posts.c.job_id.in_(mine)).order_by(posts.c.job_id, posts.c.part)
    found: dict[str, tuple[Post, ...]] = {}
    for row in connection.execute(query).mappings():
        found[row["job_id"]] = (*found.get(row["job_id"], ()), _post(row))
    return found


def _post(row: RowMapping) -> Post:
    return Post(
        part=row["part"],
        pictures=tuple(int(n) for n in row["pictures"].split(",")),
        message_id=row["message_id"],
        channel_id=row["channel_id"],
        done=row["done"],
    )


def plan(connection: Connection, job_id: str, pictures: Sequence[Sequence[int]]) -> tuple[Post, ...]:
    """Record which message will show which pictures, unless that was recorded before; what is recorded.

    None is recorded where the job was deleted meanwhile.
    """
    known = load(connection, job_id)
    exists = connection.execute(select(jobs.c.id).where(jobs.c.id == job_id)).first() is not None
    if known or not exists:
        return known
    rows = [
        {"job_id": job_id, "part": part, "pictures": ",".join(map(str, numbers)), "done": False}
        for part, numbers in enumerate(pictures, 1)
    ]
    connection.execute(insert(posts), rows)
    return load(connection, job_id)


def note(connection: Connection, job_id: str, part: int, **values: Any) -> None:
    """Record of one message what is known of it now."""
    connection.execute(update(posts).where(posts.c.job_id == job_id, posts.c.part == part).values(**values))
