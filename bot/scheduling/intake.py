"""How a request gets in: who may add one now, and the commit that makes it stand. Event loop only."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime

from bot import limits
from bot.errors import DiskFull, GenerationError, LimitReached, RequestError
from bot.files.archive import Archive
from bot.generation import GenerationRequest, Origin
from bot.scheduling.board import Board
from bot.scheduling.gpu_thread import GpuThread
from bot.store.jobs import Added, JobStore

log = logging.getLogger(__name__)


class Intake:
    """Checks limits and commits. `open` says whether anything is taken at all."""

    def __init__(
        self,
        *,
        board: Board,
        store: JobStore,
        archive: Archive,
        gpu: GpuThread,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
        budget: int | None,
    ) -> None:
        """`budget` is what a member may use a day, in pixel-steps; None is no limit."""
        self.open = False
        self._board = board
        self._store = store
        self._archive = archive
        self._gpu = gpu
        self._clock = clock
        self._new_id = new_id
        self._budget = budget
        self._reserved: Counter[int] = Counter()

    def check_room(self, user_id: int) -> None:
        """Refuse where a request could not be taken now; the day's budget is checked by the commit.

        Raises LimitReached, DiskFull, GenerationError where the engine cannot draw, RequestError while stopping,
        DatabaseDamaged.
        """
        if not self.open:
            raise RequestError("Easel is restarting; try again in a minute.")
        if self._gpu.ready.done() and (error := self._gpu.ready.exception()) is not None:
            raise GenerationError(f"Nothing can be drawn now: {error}") from error
        if self._gpu.lost.done():
            raise GenerationError(self._gpu.lost.result())
        if self._store.damaged.done():
            raise self._store.damaged.result()
        if self._board.waiting_of(user_id) + self._reserved[user_id] >= limits.MAX_WAITING:
            raise LimitReached(
                f"You have {limits.MAX_WAITING} requests waiting, as many as one member may. "
                "Let one finish, or cancel one with /cancel."
            )
        self._archive.check_space()

    async def commit(self, request: GenerationRequest, origin: Origin) -> Added:
        """Commit a request and let it join the line; the known job where its interaction made one already.

        Raises as `check_room` does, LimitReached where the day's budget has no room, and StorageError.
        """
        try:
            self.check_room(origin.user_id)
        except (LimitReached, DiskFull):
            # The same interaction delivered twice may itself fill the last place.
            known = await self._store.by_interaction(origin.interaction_id, self._clock())
            if known is None:
                raise
            return Added(known, created=False)
        # Reserved before the first wait, or parallel requests would all see the last free place.
        self._reserved[origin.user_id] += 1
        try:
            added = await self._add(request, origin)
        finally:
            self._reserved[origin.user_id] -= 1
            if not self._reserved[origin.user_id]:
                del self._reserved[origin.user_id]
        if added.created:
            self._board.add(added.job)
        return added

    async def _add(self, request: GenerationRequest, origin: Origin) -> Added:
        while True:
            added = await self._store.add(self._new_id(), request, origin, self._clock(), budget=self._budget)
            if added is not None:
                return added
            log.info("an id was taken; another one")
