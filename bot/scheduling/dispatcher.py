"""The loop that takes jobs to the GPU thread, one at a time, and sees them through to files on disk.

Each state is committed before the next thing happens: running before the engine gets the job, rendered after its
files are on disk. Encoding runs in the archive's pool while the GPU draws the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from bot.errors import DatabaseDamaged, EaselError, GenerationCancelled, ModelError, StorageError
from bot.files.archive import Archive
from bot.generation import FetchProgress, GenerationResult, Job, Progress
from bot.scheduling.announcer import Announcer
from bot.scheduling.board import Board, Run
from bot.scheduling.events import Drawing, Failed, Fetching, QueueMoved, Rendered
from bot.scheduling.fetching import ModelShelf
from bot.scheduling.gpu_thread import UNEXPECTED, GpuThread
from bot.scheduling.patience import Patience
from bot.scheduling.progress import Bell, GpuListener, Mailbox
from bot.store.jobs import JobStore

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_FINISHING = 3
"""Jobs whose pictures wait for the pool, at most: drawn pixels are large."""

STORAGE_RETRY_S = 5.0


class Dispatcher:
    """Takes what waits on the board to the GPU thread. Event loop only."""

    def __init__(
        self,
        *,
        board: Board,
        store: JobStore,
        archive: Archive,
        gpu: GpuThread,
        announcer: Announcer,
        patience: Patience,
        clock: Callable[[], datetime],
        tick: Callable[[], float],
    ) -> None:
        """`clock` gives aware moments, `tick` monotonic seconds; `shelf` is to be set before `run`."""
        self.shelf: ModelShelf
        self._board = board
        self._store = store
        self._archive = archive
        self._gpu = gpu
        self._announcer = announcer
        self._patience = patience
        self._clock = clock
        self._tick = tick
        self._bell = Bell()
        self._stopping = False
        self._finishing: set[asyncio.Task[None]] = set()
        self._previews: dict[str, asyncio.Task[None]] = {}

    def look(self) -> None:
        """Look at the board again: something joined it, or a model arrived."""
        self._bell.ring()

    def stop_taking(self) -> None:
        """Finish what runs, take no more; `run` returns then."""
        self._stopping = True
        self._bell.ring()

    async def run(self) -> None:
        """Draw until `stop_taking`. Returns early where the engine cannot start; the jobs stay as they are."""
        try:
            await self._patience.wait(asyncio.wrap_future(self._gpu.ready), "the engine's start")
        except EaselError as error:
            log.error("nothing can be drawn: %s", error)
            return
        while not self._stopping:
            self.shelf.want_all()
            run = self._board.take(self.shelf.is_local, self._listener)
            if run is None:
                await self._bell.heard(self._patience, "a request")
                continue
            try:
                await self._draw(run)
            except Exception:  # a fault of ours must cost one request, not the queue
                log.exception("request %s was lost track of", run.job.id)
                await self.fail(run.job, UNEXPECTED)
            while len(self._finishing) >= MAX_FINISHING:
                await self._patience.wait(
                    asyncio.wait(self._finishing, return_when=asyncio.FIRST_COMPLETED), "room in the file pool"
                )
        while self._finishing:
            await self._patience.wait(asyncio.wait(self._finishing), "pictures being written")

    async def cancel_all(self) -> None:
        """End the tasks of this loop at once; what they asked the store for is still done."""
        tasks = [*self._finishing, *self._previews.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def fail(self, job: Job, sentence: str) -> None:
        """Give a job up, commit it and tell."""
        failed = await self._insist(lambda: self._store.fail(job.id, sentence, self._clock()))
        self._board.remove(job.id)
        if failed is not None:
            log.warning("request %s failed: %s", job.id, sentence)
            self._announcer.announce(Failed(failed), QueueMoved())
        await self._clear(job.id)

    async def _draw(self, run: Run) -> None:
        """Count the attempt, then draw. A cancel on the way removes the run from the board and wins in the store."""
        job_id = run.job.id
        started = await self._insist(lambda: self._store.start(job_id, self._clock()))
        if self._board.runs.get(job_id) is not run:
            return  # cancelled or deleted meanwhile
        if started is None:
            self._board.remove(job_id)
            return
        self._board.update(started)
        run.started = True
        self._announcer.announce(QueueMoved())
        drawing = asyncio.wrap_future(self._gpu.submit(started.request, run.listener))
        try:
            result = await self._patience.wait(drawing, "the GPU thread")
        except EaselError as error:
            await self._not_drawn(run, error)
            return
        run.drawn = True
        if self._board.runs.get(job_id) is not run:
            return  # cancelled in its last step
        self._board.measured.learn(started.request, result.denoise_s, result.total_s)
        task = asyncio.create_task(self._finish(run, result), name=f"finish-{job_id}")
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def _not_drawn(self, run: Run, error: EaselError) -> None:
        if self._board.runs.get(run.job.id) is not run:
            return  # cancelled, or put back by a stop: the store knows
        if isinstance(error, ModelError):
            self.shelf.forget(run.job.request.model)
        if isinstance(error, GenerationCancelled):
            log.error("the engine cancelled request %s, which nobody had asked for", run.job.id)
            await self.fail(run.job, UNEXPECTED)
            return
        await self.fail(run.job, str(error))

    async def _finish(self, run: Run, result: GenerationResult) -> None:
        """Write the pictures, then commit them, then tell. Whoever cancels meanwhile wins in the store."""
        try:
            await self._keep(run, result)
        except Exception as error:
            if self._board.runs.get(run.job.id) is not run:  # the folder went away under it, with the job
                await self._clear(run.job.id)
            elif isinstance(error, EaselError):
                await self.fail(run.job, str(error))
            else:
                log.exception("the pictures of request %s could not be kept", run.job.id)
                await self.fail(run.job, UNEXPECTED)

    async def _keep(self, run: Run, result: GenerationResult) -> None:
        job = run.job
        pictures = await self._archive.write(job.id, job.request, result)
        rendered = await self._insist(
            lambda: self._store.render(job.id, pictures, draw_s=result.total_s, denoise_s=result.denoise_s)
        )
        if self._board.runs.get(job.id) is run:
            self._board.remove(job.id)
        if rendered is None:
            await self._clear(job.id)  # cancelled or deleted while its files were written
            return
        self._announcer.announce(Rendered(rendered), QueueMoved())

    async def _clear(self, job_id: str) -> None:
        try:
            await self._archive.delete(job_id)
        except (EaselError, OSError) as error:
            log.warning("the files of request %s are still there: %s", job_id, error)

    async def _insist(self, commit: Callable[[], Awaitable[T]]) -> T:
        """Commit, and again while the disk is full or the database locked: nothing goes on uncommitted."""
        while True:
            try:
                return await commit()
            except StorageError as error:
                if isinstance(error, DatabaseDamaged):
                    log.error("%s", error)
                log.warning("the database refuses (%s), again in %g s", error, STORAGE_RETRY_S)
                await self._patience.sleep(STORAGE_RETRY_S, "the database")

    def _listener(self, job_id: str) -> GpuListener:
        loop = asyncio.get_running_loop()
        return GpuListener(Mailbox(loop, lambda news: self._heard(job_id, news)), self._tick)

    def _heard(self, job_id: str, news: Progress | FetchProgress) -> None:
        """Take news from the GPU thread; called by the loop itself, so nothing is done here but putting it in line."""
        if isinstance(news, FetchProgress):
            if job_id in self._board.runs:
                self._announcer.announce(Fetching(job_id, news, loading=True))
            return
        run = self._board.progressed(job_id, news)
        if run is None:
            return
        if news.preview is not None and job_id not in self._previews:
            task = asyncio.create_task(self._show_preview(run, news), name=f"preview-{job_id}")
            self._previews[job_id] = task
        else:
            self._announcer.announce(self._drawing(run, None))

    async def _show_preview(self, run: Run, news: Progress) -> None:
        try:
            assert news.preview is not None
            preview = await self._archive.preview(news.preview)
        except Exception:
            log.exception("a preview of request %s could not be made", run.job.id)
            preview = None
        finally:
            self._previews.pop(run.job.id, None)
        if self._board.runs.get(run.job.id) is run and not run.drawn:
            self._announcer.announce(self._drawing(run, preview))

    def _drawing(self, run: Run, preview: bytes | None) -> Drawing:
        eta_s = self._board.measured.remaining_s(run.job.request, run.step, run.steps)
        return Drawing(run.job.id, run.step, run.steps, eta_s, preview)
