"""What members may do with all that is kept of them: have it, and have it removed. Event loop only."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from bot.errors import EaselError, StorageError
from bot.files.archive import Archive
from bot.files.export import Export
from bot.generation import Job, Post
from bot.scheduling.announcer import Announcer
from bot.scheduling.board import Board
from bot.scheduling.events import QueueMoved
from bot.store.jobs import JobStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holdings:
    """How much is kept of a member: requests, pictures on disk, and requests that are not finished."""

    requests: int
    pictures: int
    unfinished: int


@dataclass(frozen=True, slots=True)
class Erased:
    """What was removed; how many requests' files, and whether copies of the rows, were still there when they had gone.

    `posts` are the messages of results that took more than one, by job.
    """

    jobs: tuple[Job, ...]
    posts: dict[str, tuple[Post, ...]]
    files_left: int
    copies_left: bool


async def forget_inputs(store: JobStore, archive: Archive, gone: Iterable[Job]) -> None:
    """Remove the pictures that removed requests were drawn from, but for those that others name. Raises StorageError, OSError."""
    digests = {digest for job in gone for digest in job.request.inputs}
    if digests:
        await archive.drop_inputs(digests - await store.inputs())


class Privacy:
    """Reads and removes a member's rows and files."""

    def __init__(
        self,
        *,
        store: JobStore,
        archive: Archive,
        board: Board,
        announcer: Announcer,
        clock: Callable[[], datetime],
        budgeted: bool,
    ) -> None:
        """`budgeted`: whether members have a budget a day, of which what is used today outlives their data."""
        self._store = store
        self._archive = archive
        self._board = board
        self._announcer = announcer
        self._clock = clock
        self.budgeted = budgeted

    async def export(self, user_id: int, limit_bytes: int) -> Export:
        """Write all that is kept of a member as JSON, UTF-8, with the pictures they drew from, those of the newest requests first.

        What is more than `limit_bytes` is left out. Raises RequestError where not even the JSON fits, StorageError.
        """
        kept = await self._store.export_member(user_id)
        about = {
            "about": "Everything Easel keeps about you. The pictures it drew are in /history; those that a request was drawn from, named in "
            "drawn_from, lie beside this file in inputs/, as far as there was room.",
            "written_at": self._clock().isoformat(),
        }
        records = json.dumps({**about, **kept}, indent=1, ensure_ascii=False).encode("utf-8", "replace")
        digests = [digest for request in reversed(kept["requests"]) for digest in request["drawn_from"]]
        return await self._archive.export(records, digests, limit_bytes)

    async def holdings(self, user_id: int) -> Holdings:
        """Count what is kept of a member. Raises StorageError."""
        kept = await self._store.export_member(user_id)
        final = {"posted", "failed", "cancelled"}
        requests = kept["requests"]
        pictures = sum(len(request["pictures"]) for request in requests)
        return Holdings(len(requests), pictures, sum(request["status"] not in final for request in requests))

    async def erase(self, user_id: int) -> Erased:
        """Remove a member's requests in every state, also the one being drawn, their files and their quota's entries.

        Rows go first, so that nothing of them can be begun or shown any more; files whose rows are gone also go at the
        next start. No event tells of the requests but QueueMoved. Raises StorageError.
        """
        more = await self._store.posts_of_member(user_id)
        gone = await self._store.erase_member(user_id, self._clock(), keep_today=self.budgeted)
        for job in gone:
            self._board.remove(job.id)
        self._announcer.announce(QueueMoved())
        left = 0
        for job in gone:
            try:
                await self._archive.delete(job.id)
            except (EaselError, OSError) as error:
                left += 1
                log.warning("the files of request %s are still there: %s", job.id, error)
        try:
            await forget_inputs(self._store, self._archive, gone)
        except (EaselError, OSError) as error:
            left += 1
            log.warning("pictures that were drawn from are still there: %s", error)
        copies_left = False
        try:
            await self._store.scrub(user_id)
        except StorageError as error:
            copies_left = True
            log.warning("copies of erased rows are still there: %s", error)
        log.info("a member's data was erased: %d requests", len(gone))
        return Erased(gone, more, left, copies_left)
