"""The records of results that take more than one message, for whoever shows them."""

from __future__ import annotations

from collections.abc import Sequence

from bot.generation import Post
from bot.store.jobs import JobStore


class Outbox:
    """Which message of a result shows which pictures, and which stand already. Every method is one transaction.

    Event loop only. Raises StorageError or a kind of it.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store

    async def plan(self, job_id: str, pictures: Sequence[Sequence[int]]) -> tuple[Post, ...]:
        """Record the messages before the first is sent; what an earlier try recorded holds."""
        return await self._store.plan_posts(job_id, pictures)

    async def posts(self, job_id: str) -> tuple[Post, ...]:
        """List the messages of a result; none where it takes only one."""
        return await self._store.posts(job_id)

    async def note(self, job_id: str, part: int, message_id: int | None, channel_id: int | None, *, done: bool) -> None:
        """Record a message; `done` once it shows its pictures. An id that is None leaves what is known."""
        await self._store.note_post(job_id, part, message_id, channel_id, done=done)
