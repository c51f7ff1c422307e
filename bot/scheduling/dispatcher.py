"""The loop that takes jobs to the GPU thread, as many as there is room for, and sees them through to files on disk.

Each state is committed before the next thing happens: running before the engine gets the job, rendered after its
files are on disk. Encoding runs in the archive's pool while the GPU draws others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from bot.errors import (
    DatabaseDamaged,
    DeviceLost,
    DiskFull,
    EaselError,
    GenerationCancelled,
    ModelError,
    StorageError,
)
from bot.files.archive import Archive
from bot.generation import FetchProgress, GenerationResult, Job, Origin, PictureFile, Progress
from bot.moderation import AdultPolicy
from bot.scheduling.announcer import Announcer
from bot.scheduling.board import Board, Run
from bot.scheduling.events import Drawing, Failed, Fetching, QueueMoved, Rendered
from bot.scheduling.fetching import ModelShelf
from bot.scheduling.gpu_thread import UNEXPECTED, GpuThread
from bot.scheduling.keeping import Keeper
from bot.scheduling.patience import Patience
from bot.scheduling.progress import Bell, GpuListener, Mailbox
from bot.store.jobs import JobStore

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_FINISHING = 3
"""While pictures of so many jobs wait for the pool, no further job is taken: drawn pixels are large."""

STORAGE_RETRY_S = 5.0

RIGHTS_FRESH_S = 5.0
"""A request that starts so soon after it was made has just been checked: Discord sends a member's rights with it."""

WhyNot = Callable[[Origin], Awaitable[str | None]]
"""Says in a sentence why a member may no longer draw where they asked; None where they may."""


async def never(origin: Origin) -> str | None:
    """Let everybody draw: where nobody's rights can change, as in tests."""
    return None


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
        why_not: WhyNot,
        adult: AdultPolicy,
    ) -> None:
        """`clock` gives aware moments, `tick` monotonic seconds; `shelf` is to be set before `run`.

        `why_not` is asked when work on a request starts that has waited.
        """
        self.shelf: ModelShelf
        self._board = board
        self._store = store
        self._archive = archive
        self._gpu = gpu
        self._announcer = announcer
        self._patience = patience
        self._clock = clock
        self._tick = tick
        self._why_not = why_not
        self._adult = adult
        self._bell = Bell()
        self._stopping = False
        self._under_way: set[asyncio.Task[None]] = set()
        self._finishing: set[asyncio.Task[None]] = set()
        self._previews: dict[str, asyncio.Task[None]] = {}
        self._keeper = Keeper(store, archive)

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
            full = len(self._finishing) >= MAX_FINISHING or self._gpu.lost.done()
            run = None if full else self._board.take(self.shelf.is_local, self._listener)
            if run is None:
                await self._bell.heard(self._patience, "a request, or room for one")
            else:
                self._start(self._under_way, self._draw(run), f"draw-{run.job.id}")
        while tasks := self._under_way | self._finishing:
            await self._patience.wait(
                asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED), "what is drawn and written"
            )

    def _start(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            self._bell.ring()

        task.add_done_callback(ended)

    async def cancel_all(self) -> None:
        """End the tasks of this loop at once; what they asked the store for is still done."""
        tasks = [*self._under_way, *self._finishing, *self._previews.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._keeper.cancel_all()

    async def fail(self, job: Job, sentence: str) -> None:
        """Give a job up, commit it and tell."""
        failed = await self._insist(lambda: self._store.fail(job.id, sentence, self._clock()))
        self._board.remove(job.id)
        if failed is not None:
            log.warning("request %s failed: %s", job.id, sentence)
            self._announcer.announce(Failed(failed), QueueMoved())
        await self._clear(job.id)

    async def _draw(self, run: Run) -> None:
        try:
            await self._count_and_draw(run)
        except Exception:  # a fault of ours must cost one request, not the queue
            log.exception("request %s was lost track of", run.job.id)
            await self.fail(run.job, UNEXPECTED)

    async def _count_and_draw(self, run: Run) -> None:
        """Count the attempt, then draw. A cancel on the way removes the run from the board and wins in the store."""
        job_id = run.job.id
        if not await self._still_allowed(run):
            return
        try:
            inputs = await self._patience.wait(self._archive.input_pictures(run.job.request), "a request's pictures")
        except EaselError as error:
            if self._board.runs.get(job_id) is run:
                await self.fail(run.job, str(error))
            return
        started = await self._insist(lambda: self._store.start(job_id, self._clock()))
        if self._board.runs.get(job_id) is not run:
            return  # cancelled or deleted meanwhile
        if started is None:
            self._board.remove(job_id)
            return
        self._board.update(started)
        run.started = True
        self._announcer.announce(QueueMoved())
        run.kept = await self._patience.wait(self._keeper.found(started), "a list's files")
        before = frozenset(run.kept)
        run.thumbnails.update(dict.fromkeys(before))
        if len(before) < started.request.count:
            order = self._gpu.submit(started.request, run.listener, started.origin.user_id, inputs, before)
            try:
                result = await self._patience.wait(asyncio.wrap_future(order), "the GPU thread")
            except EaselError as error:
                await self._not_drawn(run, error)
                return
        else:  # the process went down between its last picture and its end
            result = GenerationResult((), 0.0, 0.0, "", "")
        run.drawn = True
        if self._board.runs.get(job_id) is not run:
            return  # cancelled in its last step
        if not before:
            self._board.measured.learn(started.request, result.denoise_s, result.total_s)
        self._start(self._finishing, self._finish(run, result, whole=not before), f"finish-{job_id}")

    async def _still_allowed(self, run: Run) -> bool:
        """Ask for the member's rights again; where they are lost, the request ends with the sentence and is refunded."""
        if (self._clock() - run.job.created_at).total_seconds() < RIGHTS_FRESH_S:
            return True
        refusal = await self._patience.wait(self._why_not(run.job.origin), "a member's rights")
        if refusal is None:
            return True
        if self._board.runs.get(run.job.id) is run:  # else it was cancelled or put back meanwhile
            await self.fail(run.job, refusal)
        return False

    async def _not_drawn(self, run: Run, error: EaselError) -> None:
        if self._board.runs.get(run.job.id) is not run:
            return  # cancelled, or put back by a stop: the store knows
        if isinstance(error, DeviceLost):
            self._board.remove(run.job.id)  # it stays running in the store, as after a crash: the next process sorts it
            return
        if isinstance(error, ModelError):
            self.shelf.forget(run.job.request)
        if isinstance(error, GenerationCancelled):
            log.error("the engine cancelled request %s, which nobody had asked for", run.job.id)
            await self.fail(run.job, UNEXPECTED)
            return
        await self.fail(run.job, str(error))

    async def _finish(self, run: Run, result: GenerationResult, *, whole: bool) -> None:
        """Write the pictures, then commit them, then tell. Whoever cancels meanwhile wins in the store.

        `whole`: none of them was drawn before, so that what they took can be learnt from.
        """
        try:
            await self._keep(run, result, whole=whole)
        except Exception as error:
            if self._board.runs.get(run.job.id) is not run:  # the folder went away under it, with the job
                await self._clear(run.job.id)
            elif isinstance(error, EaselError):
                await self.fail(run.job, str(error))
            else:
                log.exception("the pictures of request %s could not be kept", run.job.id)
                await self.fail(run.job, UNEXPECTED)

    async def _keep(self, run: Run, result: GenerationResult, *, whole: bool) -> None:
        job = run.job
        await self._keeper.settled(run)
        rest = replace(result, pictures=tuple(picture for picture in result.pictures if picture.n not in run.kept))
        written = {file.n: file for file in await self._write(run, rest)}
        pictures = [file for _, file in sorted((run.kept | written).items())]
        denoise_s = result.denoise_s if whole else None
        rendered = await self._insist(
            lambda: self._store.render(job.id, pictures, draw_s=result.total_s, denoise_s=denoise_s, note=result.note)
        )
        if self._board.runs.get(job.id) is run:
            self._board.remove(job.id)
        if rendered is None:
            await self._clear(job.id)  # cancelled or deleted while its files were written
            return
        self._announcer.announce(Rendered(rendered), QueueMoved())

    async def _write(self, run: Run, result: GenerationResult) -> tuple[PictureFile, ...]:
        """Write the pictures. While the disk is full they wait in memory, and no further job is taken before long."""
        while True:
            try:
                return await self._archive.write(run.job.id, run.job.request, result)
            except DiskFull as error:
                if self._board.runs.get(run.job.id) is not run:
                    raise
                log.warning("request %s is drawn and waits for room on the disk (%s)", run.job.id, error)
                await self._patience.sleep(STORAGE_RETRY_S, "room on the disk")

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
        if run.job.request.listed and news.finished:
            self._keeper.take(run, news)
        if run.job.request.variants:
            if run.fresh and job_id not in self._previews:
                self._previews[job_id] = asyncio.create_task(self._show_finished(run), name=f"preview-{job_id}")
            else:
                self._announcer.announce(self._drawing(run, None))
        elif news.preview is not None and job_id not in self._previews:
            task = asyncio.create_task(self._show_preview(run, news), name=f"preview-{job_id}")
            self._previews[job_id] = task
        else:
            self._announcer.announce(self._drawing(run, None))

    async def _show_preview(self, run: Run, news: Progress) -> None:
        try:
            assert news.preview is not None
            allowed = self._adult.allows(age_restricted=run.job.origin.age_restricted)
            preview = await self._archive.preview(news.preview, adult_allowed=allowed)
        except Exception:
            log.exception("a preview of request %s could not be made", run.job.id)
            preview = None
        finally:
            self._previews.pop(run.job.id, None)
        if self._board.runs.get(run.job.id) is run and not run.drawn:
            self._announcer.announce(self._drawing(run, preview))

    async def _show_finished(self, run: Run) -> None:
        """Show what is finished of a long request, and what is finished meanwhile, until that is all."""
        allowed = self._adult.allows(age_restricted=run.job.origin.age_restricted)
        try:
            while run.fresh and self._board.runs.get(run.job.id) is run and not run.drawn:
                fresh, run.fresh = run.fresh, []
                for picture in fresh:
                    run.thumbnails[picture.n] = await self._archive.thumbnail(picture, adult_allowed=allowed)
                preview = await self._archive.contact(run.thumbnails, run.job.request)
                if self._board.runs.get(run.job.id) is run and not run.drawn:
                    self._announcer.announce(self._drawing(run, preview))
        except Exception:
            log.exception("the finished pictures of request %s could not be shown yet", run.job.id)
        finally:
            self._previews.pop(run.job.id, None)

    def _drawing(self, run: Run, preview: bytes | None) -> Drawing:
        eta_s = self._board.remaining_s(run)
        return Drawing(run.job.id, run.step, run.steps, eta_s, preview, len(run.thumbnails))
