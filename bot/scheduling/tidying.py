"""What is removed in time: expired interaction tokens, old requests and their files, files that are nobody's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from bot.errors import EaselError
from bot.files.archive import Archive
from bot.scheduling.patience import Patience
from bot.store.jobs import JobStore

log = logging.getLogger(__name__)

TIDY_INTERVAL_S = 20.0
"""A token counts as expired a minute before its 15 are over (`bot/ui/house.py`): so it is gone in time."""
KEEP_INTERVAL_S = 86_400.0
_BATCH = 100


class Tidying:
    """Removes what has had its time. Event loop only."""

    def __init__(
        self,
        store: JobStore,
        archive: Archive,
        patience: Patience,
        *,
        clock: Callable[[], datetime],
        tick: Callable[[], float],
        keep_days: int,
    ) -> None:
        """`clock` gives aware moments, `tick` monotonic seconds."""
        self._store = store
        self._archive = archive
        self._patience = patience
        self._clock = clock
        self._tick = tick
        self._keep = timedelta(days=keep_days)

    async def run(self) -> None:
        """Erase expired tokens every 20 seconds and old requests every day, beginning now, until cancelled."""
        due = self._tick()
        while True:
            try:
                await self._store.forget_tokens(self._clock())
                if self._tick() >= due:
                    await self.remove_old()
                    due = self._tick() + KEEP_INTERVAL_S
            except (EaselError, OSError) as error:
                log.warning("tidying failed, again soon: %s", error)
            await self._patience.sleep(TIDY_INTERVAL_S, "the next tidying")

    async def remove_old(self) -> None:
        """Remove requests that ended longer ago than they are kept, rows first: files without rows go at a start."""
        await self._store.forget_ledger(self._clock())
        before = self._clock() - self._keep
        while job_ids := await self._store.remove_finished(before, _BATCH):
            for job_id in job_ids:
                await self._archive.delete(job_id)
        await self._archive.sweep_inputs(await self._store.inputs())

    async def remove_orphans(self, known: frozenset[str]) -> None:
        """Remove files of requests that are not in `known`; only while no request is drawn."""
        try:
            gone = await self._archive.sweep(known)
        except (EaselError, OSError) as error:
            log.warning("left-over pictures could not be removed: %s", error)
        else:
            if gone:
                log.info("removed the pictures of %d requests that are no longer kept", gone)
