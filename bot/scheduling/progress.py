"""From threads to the event loop: what the GPU thread tells of a request, and a bell for tasks that wait."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace

from bot.generation import FetchProgress, Progress
from bot.scheduling.patience import Patience

PREVIEW_INTERVAL_S = 1.5
LOAD_INTERVAL_S = 0.5


class Bell:
    """Wakes one waiting task; a ring while nobody waits is kept. Event loop only."""

    def __init__(self) -> None:
        self._rung = False
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake the task, now or when it next waits."""
        self._rung = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def heard(self, patience: Patience, reason: str) -> None:
        """Wait for a ring since the last time."""
        if not self._rung:
            self._waiting = asyncio.get_running_loop().create_future()
            await patience.wait(self._waiting, reason)
        self._rung = False


class Mailbox:
    """Carries the newest of a stream of news from any thread to the loop: `put` there, `deliver` is called here.

    However fast news come, at most one call waits on the loop; of what was not delivered yet the preview and the finished
    pictures survive. Once the loop is gone, news are dropped.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[Progress | FetchProgress], None]) -> None:
        self._loop = loop
        self._deliver = deliver
        self._lock = threading.Lock()
        self._newest: Progress | FetchProgress | None = None

    def put(self, news: Progress | FetchProgress) -> None:
        """Hand over; any thread, returns at once."""
        with self._lock:
            waiting = self._newest
            if isinstance(waiting, Progress) and isinstance(news, Progress):
                finished = (*waiting.finished, *news.finished)
                news = replace(news, preview=news.preview or waiting.preview, finished=finished)
            elif isinstance(waiting, Progress) and waiting.finished:
                return  # that a model is loaded again is told once more; what is finished is not
            self._newest = news
            if waiting is not None:
                return
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        with self._lock:
            news, self._newest = self._newest, None
        if news is not None:
            self._deliver(news)


class GpuListener:
    """The engine's view of one request: asks and tells on the GPU thread, is cancelled from the loop."""

    def __init__(self, mailbox: Mailbox, tick: Callable[[], float]) -> None:
        """`tick` gives monotonic seconds, on any thread."""
        self._mailbox = mailbox
        self._tick = tick
        self._cancelled = threading.Event()
        self._preview_at = tick() + PREVIEW_INTERVAL_S / 2
        self._load_at = 0.0

    def cancel(self) -> None:
        """Ask the engine to stop after its current step. Any thread."""
        self._cancelled.set()

    def cancelled(self) -> bool:
        """Whether to stop. GPU thread."""
        return self._cancelled.is_set()

    def wants_preview(self) -> bool:
        """Whether it is time for another preview. GPU thread."""
        return self._tick() >= self._preview_at

    def on_progress(self, progress: Progress) -> None:
        """Pass on a finished step. GPU thread."""
        if progress.preview is not None:
            self._preview_at = self._tick() + PREVIEW_INTERVAL_S
        self._mailbox.put(progress)

    def on_load(self, progress: FetchProgress) -> None:
        """Pass on how far the model is loaded, twice a second. GPU thread."""
        now = self._tick()
        if now >= self._load_at:
            self._load_at = now + LOAD_INTERVAL_S
            self._mailbox.put(progress)
