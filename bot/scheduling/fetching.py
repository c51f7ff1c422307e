"""Models that are not here yet: found out, downloaded beside the drawing, their requests told how far it is."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass

from bot.engine.base import Weights
from bot.errors import EaselError
from bot.generation import FetchProgress, GenerationRequest, Job, Progress
from bot.scheduling.announcer import Announcer
from bot.scheduling.board import Board
from bot.scheduling.events import Fetching, Queued
from bot.scheduling.patience import Patience
from bot.scheduling.progress import Mailbox

log = logging.getLogger(__name__)

FETCH_INTERVAL_S = 0.5
UNEXPECTED = "The model could not be fetched. It was logged; try again, and tell whoever runs the bot if it stays."


@dataclass(slots=True, eq=False)
class _Download:
    """One download as its thread sees it."""

    mailbox: Mailbox
    tick: Callable[[], float]
    unwanted: Callable[[], bool]
    due: float = 0.0
    given_up: bool = False

    def stopped(self) -> bool:
        """Whether to end early; once said, it stays, so that half a model never counts as a whole one."""
        self.given_up = self.given_up or self.unwanted()
        return self.given_up

    def on_progress(self, progress: FetchProgress) -> None:
        now = self.tick()
        if now >= self.due:
            self.due = now + FETCH_INTERVAL_S
            self.mailbox.put(progress)


class ModelShelf:
    """Knows which models are local and brings those that waiting requests need. Event loop only."""

    def __init__(
        self,
        weights: Weights,
        board: Board,
        announcer: Announcer,
        patience: Patience,
        *,
        tick: Callable[[], float],
        arrived: Callable[[], None],
        fail: Callable[[Job, str], Awaitable[None]],
    ) -> None:
        """`arrived` is called when a model can be used; `fail` gives a waiting job up with a sentence."""
        self._weights = weights
        self._board = board
        self._announcer = announcer
        self._patience = patience
        self._tick = tick
        self._arrived = arrived
        self._fail = fail
        self._local: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    def is_local(self, model: str) -> bool:
        """Whether the model is known to be here."""
        return model in self._local

    def want_all(self) -> None:
        """See to the models that waiting jobs need and that are not known to be here."""
        for model in self._board.waiting_models():
            if model not in self._local and model not in self._tasks and not self._stopping:
                task = asyncio.create_task(self._bring(model), name=f"model-{model}")
                self._tasks[model] = task

    def forget(self, request: GenerationRequest) -> None:
        """Look at the disk again before the next request that needs what this one does."""
        self._local.difference_update(self._board.needs(request))

    async def stop(self) -> None:
        """End the downloads; what they have so far stays on disk for the next time."""
        self._stopping = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _bring(self, model: str) -> None:
        try:
            if await self._look_and_fetch(model):
                self._local.add(model)
        except EaselError as error:
            await self._give_up(model, str(error))
        except Exception:
            log.exception("model %s could not be fetched", model)
            await self._give_up(model, UNEXPECTED)
        finally:
            self._tasks.pop(model, None)
            if not self._stopping:
                self._arrived()

    async def _look_and_fetch(self, model: str) -> bool:
        loop = asyncio.get_running_loop()
        if await loop.run_in_executor(None, self._weights.is_local, model):
            return True
        mailbox = Mailbox(loop, lambda progress: self._tell(model, progress))
        download = _Download(mailbox, self._tick, lambda: self._stopping or not self._board.waits_for(model))
        done = self._start_download(model, download)
        try:
            await self._patience.wait(asyncio.wrap_future(done), f"the download of {model}")
        except EaselError:
            if not download.given_up:
                raise
        if download.given_up:
            return False  # nobody wanted it any more; a request that came since looks again
        for job in self._board.waiting_on(model):
            self._announcer.announce(Queued(job))
        return True

    def _start_download(self, model: str, download: _Download) -> Future[None]:
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # a task that stops waiting must not cancel what the thread will set

        def work() -> None:
            try:
                self._weights.fetch(model, download.on_progress, download.stopped)
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        # A daemon: a connection that hangs must not keep the process from ending.
        threading.Thread(target=work, name=f"fetch-{model}", daemon=True).start()
        return done

    def _tell(self, model: str, progress: Progress | FetchProgress) -> None:
        if isinstance(progress, FetchProgress) and model in self._tasks and not self._stopping:
            events = [Fetching(job.id, progress, loading=False) for job in self._board.waiting_on(model)]
            self._announcer.announce(*events)

    async def _give_up(self, model: str, sentence: str) -> None:
        for job in self._board.waiting_on(model):
            await self._fail(job, sentence)
