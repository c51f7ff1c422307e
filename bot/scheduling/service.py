"""What the floors above call: one façade over the store, the queue, the GPU thread and the files."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, TypeVar

from bot import limits
from bot.catalogue.models import Catalogue
from bot.catalogue.parts import needs
from bot.engine.base import Weights
from bot.engine.metrics import Metrics
from bot.errors import (
    DatabaseDamaged,
    EaselError,
    JobNotFound,
    NotPermitted,
    RequestError,
    StorageError,
)
from bot.files.archive import Archive
from bot.files.bundle import bundle_bytes
from bot.files.export import Export
from bot.generation import (
    Actor,
    GenerationOptions,
    GenerationRequest,
    InputRef,
    Job,
    JobStatus,
    Origin,
    PictureFile,
    Place,
    PostedTo,
    UpscaleOptions,
)
from bot.moderation import ADULT_BY_DEFAULT, AdultPolicy, Moderator
from bot.prompts.choices import NO_WILDCARDS, Wildcards
from bot.prompts.upscaling import resolve_upscale
from bot.provenance import PictureInfo
from bot.scheduling.announcer import Announcer
from bot.scheduling.board import BATCHES_ADMITTED, Board, QueueOverview, Run
from bot.scheduling.describing import Describer
from bot.scheduling.dispatcher import Dispatcher, WhyNot, never
from bot.scheduling.estimates import StepTimes
from bot.scheduling.events import Cancelled, Failed, JobEvent, Queued, QueueMoved, Rendered
from bot.scheduling.fetching import ModelShelf
from bot.scheduling.gpu_thread import GpuThread
from bot.scheduling.intake import Intake
from bot.scheduling.outbox import Outbox
from bot.scheduling.patience import Patience
from bot.scheduling.privacy import Erased, Holdings, Privacy, forget_inputs
from bot.scheduling.regions import Regions
from bot.scheduling.tidying import Tidying
from bot.store.jobs import JobStore

log = logging.getLogger(__name__)
T = TypeVar("T")

MEASUREMENTS = 200
GPU_END_S = 2.0
GIVEN_UP = (
    "Drawing this stopped the whole program {attempts} times, so it was given up. "
    "Try a smaller size, fewer pictures or another model."
)

_TOO_LATE = {
    JobStatus.POSTING: "Its pictures are being shown right now; use Delete on them instead.",
    JobStatus.POSTED: "It is finished already; use Delete on its pictures instead.",
    JobStatus.FAILED: "It has failed already; there is nothing to cancel.",
    JobStatus.CANCELLED: "It was cancelled already.",
}


class GenerationService:
    """Takes requests, keeps them, has them drawn and tells how they fare. Event loop only; nothing here blocks it."""

    def __init__(
        self,
        *,
        store: JobStore,
        archive: Archive,
        gpu: GpuThread,
        weights: Weights,
        catalogue: Catalogue,
        moderator: Moderator,
        patience: Patience,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
        new_seed: Callable[[], int],
        max_attempts: int,
        keep_days: int,
        budget: int | None = None,
        why_not: WhyNot = never,
        room: int = BATCHES_ADMITTED,
        tick: Callable[[], float] = time.monotonic,
        adult: AdultPolicy = ADULT_BY_DEFAULT,
        wildcards: Wildcards = NO_WILDCARDS,
    ) -> None:
        """`clock` gives aware moments, `tick` monotonic seconds on any thread; `gpu` may be starting already.

        `room` is how many pictures are with the engine at once; `budget` what a member may use a day, in pixel-steps.
        `why_not` says whether a member may still draw, when work on a request starts that has waited.
        """
        self._store = store
        self._archive = archive
        self._gpu = gpu
        self._catalogue = catalogue
        self._moderator = moderator
        self._patience = patience
        self._clock = clock
        self._new_seed = new_seed
        self._max_attempts = max_attempts
        self._tick = tick
        self._adult = adult
        self._wildcards = wildcards
        self.outbox = Outbox(store)
        """The records of results that take more than one message."""
        self.regions = Regions(archive, adult)
        """Finished pictures whose parts are chosen."""
        self._board = Board(room, functools.partial(needs, catalogue))
        self._announcer = Announcer(patience)
        self._dispatcher = Dispatcher(
            board=self._board, store=store, archive=archive, gpu=gpu, announcer=self._announcer,
            patience=patience, clock=clock, tick=tick, why_not=why_not, adult=adult,
        )  # fmt: skip
        self._shelf = ModelShelf(
            weights, self._board, self._announcer, patience,
            tick=tick, arrived=self._dispatcher.look, fail=self._dispatcher.fail,
        )  # fmt: skip
        self._dispatcher.shelf = self._shelf
        self._privacy = Privacy(
            store=store, archive=archive, board=self._board, announcer=self._announcer, clock=clock,
            budgeted=budget is not None,
        )  # fmt: skip
        self.describer = Describer(
            archive=archive, gpu=gpu, weights=weights, catalogue=catalogue, moderator=moderator, patience=patience, adult=adult
        )  # fmt: skip
        """What puts pictures into words."""
        self._tidying = Tidying(store, archive, patience, clock=clock, tick=tick, keep_days=keep_days)
        self._intake = Intake(
            board=self._board, store=store, archive=archive, gpu=gpu, clock=clock, new_id=new_id, budget=budget
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._firm: set[asyncio.Task[Any]] = set()

    @property
    def catalogue(self) -> Catalogue:
        """The models there are."""
        return self._catalogue

    @property
    def engine_ready(self) -> bool:
        """Whether the engine has started and can draw."""
        return self._gpu.ready.done() and self._gpu.ready.exception() is None

    @property
    def engine_metrics(self) -> Metrics:
        """The engine's numbers so far: steps a second, rows a pass, memory, what was known already, each by model."""
        return self._gpu.metrics

    @property
    def budgeted(self) -> bool:
        """Whether members have a budget a day."""
        return self._privacy.budgeted

    @property
    def damaged(self) -> Future[DatabaseDamaged]:
        """Done once the open database turns out to be damaged; nothing is taken from then on. Any thread."""
        return self._store.damaged

    @property
    def measured(self) -> StepTimes:
        """The step times learnt so far."""
        return self._board.measured

    async def start(self) -> None:
        """Open the store, take up what an earlier process left, begin to draw.

        Subscribers hear of every waiting request (Queued), every one still to be shown (Rendered), and those
        whose end was not told yet (Failed, Cancelled). Raises StorageError or a kind of it.
        """
        await self._store.open()
        found = await self._store.recover(self._clock(), self._max_attempts, GIVEN_UP)
        for past in await self._store.measurements(MEASUREMENTS):
            self._board.measured.learn(past.request, past.denoise_s, past.draw_s)
        # Before the first request of this process: what is not known now and has files is nobody's. A crash may also
        # have come between a request's end and the removal of what was written for it.
        known = await self._store.with_files()
        for job in found.waiting:
            self._board.add(job)
        ends = [Failed(job) if job.status is JobStatus.FAILED else Cancelled(job) for job in found.ended]
        self._announcer.announce(*ends)
        self._announcer.announce(*(Rendered(job) for job in found.rendered))
        self._announcer.announce(*(Queued(job) for job in found.waiting))
        if found.waiting or found.rendered:
            log.info("taken up: %d waiting, %d to be shown", len(found.waiting), len(found.rendered))
        self._intake.open = True
        self._spawn("announcer", self._announcer.run())
        self._spawn("dispatcher", self._work(known))
        self._spawn("tidying", self._tidying.run())

    async def stop(self, deadline_s: float) -> None:
        """Take no more, let what is drawn end within `deadline_s` seconds or put it back in line, end the GPU thread.

        An attempt that is put back does not count. Reading and recording go on until `close`, so that results can
        still be shown. Repeatable, and harmless where `start` failed.
        """
        self._intake.open = False
        end = self._tick() + deadline_s
        if self._firm:
            await asyncio.wait(set(self._firm), timeout=deadline_s)
        self._dispatcher.stop_taking()
        budget_s = max(0.0, end - self._tick() - min(GPU_END_S, deadline_s / 4))
        # The longest first: what it leaves of the GPU, the others have.
        for run in sorted(self._board.runs.values(), key=lambda run: self._board.remaining_s(run) or 0.0, reverse=True):
            if (self._board.remaining_s(run) or 0.0) > budget_s:
                await self._put_back(run)
        work = self._tasks.get("dispatcher")
        if work is not None and self._gpu.ready.done() and not work.done():  # before, nothing is drawn
            await asyncio.wait({work}, timeout=budget_s)
        await self._end("dispatcher")
        await self._dispatcher.cancel_all()
        for run in list(self._board.runs.values()):
            await self._put_back(run)
        await self._shelf.stop()
        await self._end("tidying")
        await asyncio.get_running_loop().run_in_executor(None, self._gpu.stop, max(0.0, end - self._tick()))
        self._announcer.flush()
        await self._end("announcer")

    async def close(self) -> None:
        """Close the store and the files; the last call, after the messages are done. Repeatable."""
        await self._store.close()
        await asyncio.get_running_loop().run_in_executor(None, self._archive.close)

    def subscribe(self, listener: Callable[[JobEvent], None]) -> None:
        """Be told of everything, in order, from a task of the service; the listener must return at once."""
        self._announcer.subscribe(listener)

    def prepare(self, options: GenerationOptions) -> GenerationRequest:
        """Check what was asked and fill in the rest. Raises RequestError or a kind of it. Pure: before acknowledging."""
        request = limits.resolve(options, self._catalogue, new_seed=self._new_seed, wildcards=self._wildcards)
        self._moderator.check_request(request, options.lines)
        return request

    def prepare_upscale(self, options: UpscaleOptions) -> GenerationRequest:
        """Check what is to be enlarged and fill in the rest, as `prepare` does. Raises RequestError or a kind of it. Pure."""
        request = resolve_upscale(options, self._catalogue, new_seed=self._new_seed)
        self._moderator.check(request.prompt, request.negative_prompt)
        return request

    def check_room(self, user_id: int) -> None:
        """Refuse where a request could not be taken now.

        Raises LimitReached, DiskFull, GenerationError where the engine cannot draw, RequestError while stopping,
        DatabaseDamaged.
        """
        self._intake.check_room(user_id)

    async def submit(self, request: GenerationRequest, origin: Origin) -> Job:
        """Commit a request and let it wait its turn; what is returned survives a crash.

        The same interaction again gives the same job. Raises as `check_room` does, and StorageError.
        """
        return await self._firmly(self._submit(request, origin))

    def place(self, job_id: str) -> Place | None:
        """Tell where a request waits; None where it does not wait."""
        return self._board.place(job_id)

    def overview(self, user_id: int) -> QueueOverview:
        """Tell what is drawn, how many wait, and where a member's own stand."""
        return self._board.overview(user_id)

    async def get(self, job_id: str) -> Job:
        """Find a request in any state. Raises JobNotFound."""
        job = self._board.get(job_id) or await self._store.get(job_id, self._clock())
        if job is None:
            raise JobNotFound("This request is no longer kept: it was deleted, or is older than the bot keeps them.")
        return job

    async def history(self, user_id: int, *, limit: int, before: str | None = None) -> tuple[Job, ...]:
        """List a member's finished requests, newest first; older than the job `before` where it is given."""
        return await self._store.history(user_id, limit=limit, before=before, now=self._clock())

    async def cancel(self, job_id: str, actor: Actor) -> Job:
        """Cancel a request that is not shown yet; once this returns, nothing of it is shown.

        Raises JobNotFound, NotPermitted, or RequestError where it is too late.
        """
        self._check_rights(await self.get(job_id), actor, "cancel")
        return await self._firmly(self._cancel(job_id))

    async def abandon(self, job_id: str) -> None:
        """Cancel quietly: there is no message to say so in. Nothing where it has ended."""
        await self._firmly(self._abandon(job_id))

    async def delete(self, job_id: str, actor: Actor) -> Job:
        """Remove a request in any state with its rows and files; what it was. No event tells of it but QueueMoved.

        Raises JobNotFound or NotPermitted.
        """
        self._check_rights(await self.get(job_id), actor, "delete")
        return await self._firmly(self._delete(job_id))

    async def begin_posting(self, job_id: str) -> Job | None:
        """Claim a rendered request for showing; None where it was cancelled or deleted."""
        return await self._store.begin_posting(job_id, self._clock())

    async def mark_posted(self, job_id: str, posted_to: PostedTo, message_id: int | None) -> None:
        """Record where the pictures were shown. Nothing where the request was deleted meanwhile."""
        if await self._store.mark_posted(job_id, posted_to, message_id, self._clock()) is None:
            log.info("request %s was deleted while it was shown", job_id)

    async def mark_told(self, job_id: str) -> None:
        """Record that a failed or cancelled request's message says so; else the next start tells it again."""
        await self._store.mark_told(job_id)

    async def set_message(self, job_id: str, message_id: int) -> None:
        """Record which message shows a request."""
        self._board.set_message(job_id, message_id)
        await self._store.set_message(job_id, message_id)

    async def export_member(self, user_id: int, limit_bytes: int) -> Export:
        """Write all that is kept of a member into one file; see `Privacy.export`. Raises RequestError, StorageError."""
        return await self._privacy.export(user_id, limit_bytes)

    async def holdings(self, user_id: int) -> Holdings:
        """Count what is kept of a member. Raises StorageError."""
        return await self._privacy.holdings(user_id)

    async def erase_member(self, user_id: int) -> Erased:
        """Remove all that is kept of a member, also what is being drawn; see `Privacy.erase`. Raises StorageError."""
        return await self._firmly(self._privacy.erase(user_id))

    async def read_picture(self, file: PictureFile) -> bytes:
        """Read a finished picture's file. Raises JobNotFound where it is gone, StorageError."""
        return await self._archive.read(file)

    async def read_smaller(self, file: PictureFile, limit_bytes: int) -> tuple[str, bytes]:
        """Encode a finished picture anew so that it fits, with its marks; a file name and the bytes.

        Raises JobNotFound, StorageError.
        """
        return await self._archive.read_smaller(file, limit_bytes)

    async def bundle(self, files: Sequence[PictureFile]) -> bytes:
        """Pack finished pictures into one ZIP archive. Raises JobNotFound where one is gone, StorageError."""
        return await self._archive.bundle(files)

    def bundle_bytes(self, files: Sequence[PictureFile]) -> int:
        """Tell how large that archive is, from what is known of the files."""
        return bundle_bytes(files)

    async def take_input(
        self, data: bytes, *, age_restricted: bool, mask: bool = False, whole: bool = False
    ) -> InputRef:
        """Open, judge and keep a picture to draw from; a `mask` says where. Name it in a request within the hour.

        `whole`: in its own size or not at all (RequestError). Raises AttachmentRefused, ModerationRefused where it may not be used, StorageError.
        """
        allowed = self._adult.allows(age_restricted=age_restricted)
        return (await self._archive.take_input(data, adult_allowed=allowed, mask=mask, whole=whole)).ref

    async def widen_input(self, ref: InputRef, side: str, amount: int) -> tuple[InputRef, InputRef]:
        """Give an input picture room by side, `amount` percent of it: the wider picture and the mask of the room. Raises RequestError."""
        return await self._archive.widen(ref, side, amount)

    async def take_result(self, job: Job, n: int, *, age_restricted: bool) -> InputRef:
        """Keep picture `n` (from 0) of a finished request as one to draw from, as `take_input` does.

        Raises JobNotFound where there is none, ModerationRefused where it may not be shown either, StorageError.
        """
        return await self._archive.adopt(self.regions.usable(job, n, age_restricted=age_restricted))

    async def read_info(self, data: bytes) -> PictureInfo | None:
        """Read how any picture was made; None where it does not say. Raises AttachmentRefused."""
        return await self._archive.read_info(data)

    async def _submit(self, request: GenerationRequest, origin: Origin) -> Job:
        added = await self._intake.commit(request, origin)
        if added.created:
            self._announcer.announce(Queued(added.job), QueueMoved())
            self._dispatcher.look()
        return added.job

    async def _cancel(self, job_id: str) -> Job:
        cancelled = await self._store.cancel(job_id, self._clock())
        if cancelled is None:
            now = await self.get(job_id)
            raise RequestError(_TOO_LATE.get(now.status, "It can no longer be cancelled."))
        await self._leave(job_id)
        self._announcer.announce(Cancelled(cancelled), QueueMoved())
        return cancelled

    async def _abandon(self, job_id: str) -> None:
        if await self._store.cancel(job_id, self._clock(), told=True) is not None:
            log.info("request %s was abandoned: its interaction could not be answered", job_id)
            await self._leave(job_id)
            self._announcer.announce(QueueMoved())

    async def _delete(self, job_id: str) -> Job:
        job = await self._store.delete(job_id)
        if job is None:
            raise JobNotFound("This request was deleted already.")
        if self._board.remove(job_id):
            self._announcer.announce(QueueMoved())
        await self._archive.delete(job_id)
        await forget_inputs(self._store, self._archive, [job])
        return job

    async def _leave(self, job_id: str) -> None:
        """Take a cancelled job off the board; its files go, and those still being written when they are done."""
        self._board.remove(job_id)
        try:
            await self._archive.delete(job_id)
        except (EaselError, OSError) as error:
            log.warning("the files of request %s are still there: %s", job_id, error)

    @staticmethod
    def _check_rights(job: Job, actor: Actor, verb: str) -> None:
        if not actor.may_end(job):
            raise NotPermitted(f"Only the member who asked for this, or a moderator, can {verb} it.")

    async def _put_back(self, run: Run) -> None:
        try:
            queued = await self._store.put_back(run.job.id)
        except StorageError as error:
            log.error("request %s could not be put back, so its attempt counts: %s", run.job.id, error)
            return
        if queued is not None:
            self._board.put_back(queued)
            self._announcer.announce(Queued(queued))

    async def _work(self, known: frozenset[str]) -> None:
        await self._tidying.remove_orphans(known)
        await self._dispatcher.run()

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"service-{name}")
        task.add_done_callback(_log_failure)
        self._tasks[name] = task

    async def _end(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _firmly(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry `work` through also where the caller is cancelled, so that memory never falls behind the store."""
        task = asyncio.create_task(work)
        self._firm.add(task)
        task.add_done_callback(self._firm.discard)
        return await asyncio.shield(task)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s ended in an unexpected way", task.get_name(), exc_info=error)


__all__ = ["GenerationService", "QueueOverview"]
