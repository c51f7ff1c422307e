"""Tells listeners what happens, in order, from one task of the service."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from bot.scheduling.events import JobEvent, QueueMoved
from bot.scheduling.patience import Patience
from bot.scheduling.progress import Bell

log = logging.getLogger(__name__)

_AT_ONCE = 50


class Announcer:
    """A line of events and the task that hands them out.

    Callbacks from threads and other people's tasks only put events in line: what listeners do, REST calls above
    all, starts from this task, which was made in the bot's own context. Event loop only.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._listeners: list[Callable[[JobEvent], None]] = []
        self._line: deque[JobEvent] = deque()
        self._bell = Bell()

    def subscribe(self, listener: Callable[[JobEvent], None]) -> None:
        """Add a listener; it must return at once."""
        self._listeners.append(listener)

    def announce(self, *events: JobEvent) -> None:
        """Put events in line."""
        for event in events:
            if isinstance(event, QueueMoved) and self._line and isinstance(self._line[-1], QueueMoved):
                continue
            self._line.append(event)
        self._bell.ring()

    async def run(self) -> None:
        """Hand out events until cancelled."""
        while True:
            self.flush(_AT_ONCE)
            if self._line:
                await asyncio.sleep(0)  # thousands at a restart must not hold the loop
            else:
                await self._bell.heard(self._patience, "news of requests")

    def flush(self, at_most: int | None = None) -> None:
        """Hand out what is in line now, or the first `at_most` of it."""
        count = len(self._line) if at_most is None else min(at_most, len(self._line))
        for _ in range(count):
            event = self._line.popleft()
            for listener in self._listeners:
                try:
                    listener(event)
                except Exception:
                    log.exception("a listener failed on %s", type(event).__name__)
