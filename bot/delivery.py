"""From job events to messages: one card a request, edited until it shows the pictures.

Events arrive on the event loop from a task of the service. Each request has one following task, so its edits are in
order; progress edits keep `EDIT_INTERVAL_S` between them, the final one waits for nothing. How a message is reached
(interaction token, then the bot itself, then elsewhere) is `bot/ui/messenger.py`'s knowledge, how many messages a result
takes `bot/posting.py`'s. While Discord is down, ends wait as they are recorded, and go out at a pace when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import discord
from discord import ui

from bot.catalogue.parts import name_of
from bot.errors import EaselError, JobNotFound, StorageError
from bot.generation import Job, JobStatus, PictureFile, Post, PostedTo
from bot.moderation import ADULT_BY_DEFAULT, AdultPolicy
from bot.posting import Poster
from bot.scheduling.events import Cancelled, Drawing, Failed, Fetching, JobEvent, Queued, QueueMoved, Rendered
from bot.scheduling.patience import Patience
from bot.scheduling.service import GenerationService
from bot.transport import Transport, jittered
from bot.ui import cards
from bot.ui.messenger import Attachment, Messenger, Unanswered, Undeliverable

log = logging.getLogger(__name__)

EDIT_INTERVAL_S = 2.0
NEAR_THE_FRONT = 5
"""Further back than this, a message is edited the more seldom the further: its place matters less, and there are many.

In proportion, so that 10,000 of them take 23 edits a second together (a harmonic sum), and Discord's 50 are not used up."""
NOTIFY_AFTER_S = 60.0
END_AGAIN_S = (2.0, 10.0, 60.0, 300.0)
UNANSWERED_AGAIN_S = (5.0, 15.0, 60.0, *(300.0 for _ in range(12)))
"""Where Discord fails for one message alone, about an hour; while all of it is down the tries do not count."""
PACE_S = 0.05
BURST = 20
LATE_EDIT_INTERVAL_S = 60.0
"""Without its token a message is edited by the bot itself, on a budget that the whole channel shares."""

Last = Rendered | Failed | Cancelled


@dataclass(slots=True, eq=False)
class _Card:
    """What is known of one request's message. `last` is set once, by the event after which nothing follows."""

    job: Job
    state: Queued | Fetching | Drawing
    news: asyncio.Future[None]
    ended: asyncio.Future[Last]
    preview: bytes | None = field(default=None, repr=False)
    position: int = 1
    shown: object = None
    shown_at: datetime | None = None

    def wake(self) -> None:
        if not self.news.done():
            self.news.set_result(None)


class Pace:
    """Lets `burst` pass at once, then one every `every_s`: what piled up must not go out in one moment."""

    def __init__(
        self, patience: Patience, *, every_s: float = PACE_S, burst: int = BURST,
        tick: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._patience = patience
        self._every_s = every_s
        self._burst_s = every_s * burst
        self._tick = tick
        self._due = 0.0

    async def turn(self) -> None:
        """Wait for one's turn."""
        now = self._tick()
        self._due = max(self._due, now - self._burst_s) + self._every_s
        if self._due > now:
            await self._patience.sleep(self._due - now, "its turn to be posted")


class Delivery:
    """Follows every unfinished request and keeps its message true. Event loop only."""

    def __init__(
        self,
        messenger: Messenger,
        service: GenerationService,
        *,
        patience: Patience,
        clock: Callable[[], datetime],
        adult: AdultPolicy = ADULT_BY_DEFAULT,
        transport: Transport | None = None,
        edit_interval_s: float = EDIT_INTERVAL_S,
        notify_after_s: float = NOTIFY_AFTER_S,
    ) -> None:
        """`transport` says when Discord may be called; None where it always may, as in the demo."""
        self._messenger = messenger
        self._poster = Poster(messenger, service)
        self._transport = transport
        self._pace = Pace(patience)
        self._service = service
        self._patience = patience
        self._clock = clock
        self._adult = adult
        self._edit_interval_s = edit_interval_s
        self._notify_after_s = notify_after_s
        self._cards: dict[str, _Card] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Listen; to be called before the service starts, so that what it restores is heard."""
        self._service.subscribe(self.on_event)

    async def stop(self, deadline_s: float) -> None:
        """Let final messages finish for up to `deadline_s` seconds, then leave the rest to the next start."""
        posting = [self._tasks[job_id] for job_id, card in self._cards.items() if card.ended.done()]
        if posting:
            await asyncio.wait(posting, timeout=deadline_s)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def forget(self, job_id: str) -> None:
        """Stop following a request whose message is being deleted."""
        self._cards.pop(job_id, None)
        task = self._tasks.pop(job_id, None)
        if task is not None:
            task.cancel()

    def on_event(self, event: JobEvent) -> None:
        """Take note of an event; the request's own task does the rest."""
        match event:
            case Queued(job):
                self._card(job)
            case QueueMoved():
                for card in self._cards.values():
                    if isinstance(card.state, Queued):
                        card.wake()
            case Fetching(job_id) | Drawing(job_id):
                card = self._cards.get(job_id)
                if card is not None:
                    card.state = event
                    if isinstance(event, Drawing) and event.preview is not None:
                        card.preview = event.preview
                    card.wake()
            case Rendered(job) | Failed(job) | Cancelled(job):
                card = self._card(job)
                if not card.ended.done():
                    card.ended.set_result(event)
                card.wake()

    def _card(self, job: Job) -> _Card:
        card = self._cards.get(job.id)
        if card is None:
            loop = asyncio.get_running_loop()
            card = _Card(job, Queued(job), loop.create_future(), loop.create_future())
            card.wake()
            self._cards[job.id] = card
            task = asyncio.create_task(self._follow(card), name=f"delivery-{job.id}")
            self._tasks[job.id] = task
            task.add_done_callback(lambda done: self._finished(job.id, done))
        else:  # put back in line, or the news of its end
            card.state = Queued(job)
            card.job = job if job.message_id else replace(job, message_id=card.job.message_id)
        return card

    def _finished(self, job_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(job_id) is task:
            del self._tasks[job_id]
            self._cards.pop(job_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the message of request %s was given up", job_id, exc_info=error)

    async def _follow(self, card: _Card) -> None:
        while not card.ended.done():
            await self._patience.wait(asyncio.wait({card.news}), "news of a request")
            card.news = asyncio.get_running_loop().create_future()
            if await self._patience.wait_first(card.ended, self._due_in(card), "the next edit of a message"):
                break
            await self._show_progress(card)
        await self._see_through(card.job.id, lambda: self._end(card, card.ended.result()), card.ended.result())

    async def _see_through(self, job_id: str, show: Callable[[], Awaitable[None]], event: Last) -> None:
        """Show an end, however often that takes: it is edits and notes that can be repeated."""
        unanswered, unexpected = iter(UNANSWERED_AGAIN_S), iter(END_AGAIN_S)
        while True:
            await self._may_post()
            try:
                await show()
                return
            except Unanswered as error:
                if self._transport is not None and self._transport.down:
                    continue  # not this message's fault
                delay_s = next(unanswered, None)
                log.warning("the end of request %s could not be shown: %s", job_id, error)
            except StorageError as error:
                # A database that was locked may be free again.
                delay_s = next(unexpected, None)
                log.error("the end of request %s could not be shown: %s", job_id, error)
            except Exception:
                delay_s = next(unexpected, None)
                log.exception("the end of request %s could not be shown", job_id)
            if delay_s is None:
                if isinstance(event, Rendered):
                    await self._service.mark_posted(job_id, PostedTo.KEPT, None)
                return
            await self._patience.sleep(jittered(delay_s), "another try to show an end")

    async def _may_post(self) -> None:
        """Wait while Discord is down or calls are held back, then for a turn."""
        if self._transport is not None:
            await self._patience.wait(self._transport.ready(), "Discord to be back")
        await self._pace.turn()

    def _due_in(self, card: _Card) -> float:
        if card.shown_at is None:
            return 0.0
        further = max(1.0, card.position / NEAR_THE_FRONT)
        interval_s = self._edit_interval_s * further
        if not self._messenger.token_lives(card.job):
            interval_s = max(interval_s, LATE_EDIT_INTERVAL_S)
        return max(0.0, interval_s - (self._clock() - card.shown_at).total_seconds())

    async def _show_progress(self, card: _Card) -> None:
        content, view, files = self._render(card)
        if content == card.shown:
            return
        card.shown, card.shown_at = content, self._clock()
        try:
            message_id = await self._messenger.update(card.job, view, files)
        except (discord.HTTPException, Undeliverable, Unanswered) as error:
            # Progress is a courtesy: the result finds its own way.
            log.info("progress of request %s could not be shown: %s", card.job.id, error)
            return
        if message_id is not None and card.job.message_id is None:
            await self._remember(card, message_id)

    async def _remember(self, card: _Card, message_id: int) -> None:
        card.job = replace(card.job, message_id=message_id)
        try:
            await self._service.set_message(card.job.id, message_id)
        except EaselError as error:
            log.warning("the message of request %s was not recorded: %s", card.job.id, error)

    def _render(self, card: _Card) -> tuple[object, ui.LayoutView, list[Attachment]]:
        """Give a key that differs when the picture of the state does, the view, and its files."""
        job, state = card.job, card.state
        match state:
            case Fetching(_, progress, loading):
                name = name_of(self._service.catalogue, progress.model)
                return state, cards.fetching(job, name, progress, loading=loading), []
            case Drawing():
                files = [] if card.preview is None else [Attachment(cards.PREVIEW_NAME, card.preview)]
                return state, cards.drawing(job, state, preview=bool(files)), files
            case _:
                place = self._service.place(job.id)
                card.position = 1 if place is None else place.position
                return cards.waiting_line(job, place), cards.waiting(job, place), []

    async def _end(self, card: _Card, event: Last) -> None:
        job = event.job if event.job.message_id else replace(event.job, message_id=card.job.message_id)
        match event:
            case Rendered():
                await self._post(job)
            case Failed():
                await self._tell(job, cards.failed(job))
            case Cancelled():
                await self._tell(job, cards.cancelled(job))

    async def _tell(self, job: Job, view: ui.LayoutView) -> None:
        """Show an end without pictures; what could not be told is told again by the next start."""
        told = await self._try_update(job, view)
        if not told and job.request.private and not self._messenger.token_lives(job):
            try:
                await self._messenger.tell_directly(job, view)
                told = True
            except (discord.HTTPException, Undeliverable) as error:
                log.info("the member of request %s could not be told directly: %s", job.id, error)
        if told:
            await self._service.mark_told(job.id)

    async def _try_update(self, job: Job, view: ui.LayoutView) -> bool:
        try:
            await self._messenger.update(job, view, [], final=True)
        except (discord.HTTPException, Undeliverable) as error:
            log.warning("the end of request %s (%s) could not be shown: %s", job.id, job.status, error)
            return False
        return True

    async def _post(self, job: Job) -> None:
        claimed = await self._service.begin_posting(job.id)
        if claimed is None:
            await self._show_cancelled(job)
            return
        adult = self._adult.allows(age_restricted=job.origin.age_restricted)
        shown = [file for file in job.files if adult or not file.flagged]
        if not shown:
            await self._withhold(job)
            return
        await self._deliver(job, shown)

    async def _show_cancelled(self, job: Job) -> None:
        """Show that a cancel won in the last moment; its event came when the end was settled already."""
        try:
            now = await self._service.get(job.id)
        except JobNotFound:
            return
        if now.status is JobStatus.CANCELLED:
            await self._tell(job, cards.cancelled(job))

    async def erase(self, job: Job) -> None:
        """Delete the message that shows a result."""
        await self._messenger.erase(job)

    async def erase_more(self, job: Job) -> None:
        """Delete the messages beyond the first of a result that took several."""
        await self._poster.erase_more(job)

    async def withdraw(self, job: Job, more: Sequence[Post] = ()) -> bool:
        """Stop following a request that is erased, and delete its messages in any state, `more` being those beyond the first.

        Whether the first is gone.
        """
        self.forget(job.id)
        for post in more:
            await self._messenger.erase_part(job, post)
        return await self._messenger.withdraw(job)

    async def _deliver(self, job: Job, shown: list[PictureFile]) -> None:
        try:
            where, message_id = await self._poster.show(job, shown)
        except Undeliverable as error:
            log.warning("request %s could not be delivered, it is kept: %s", job.id, error)
            await self._give_up(job, f"{error} They wait for you in `/history`.", PostedTo.KEPT)
            return
        except (OSError, JobNotFound):
            log.exception("the files of request %s cannot be read", job.id)
            await self._give_up(job, "The pictures were drawn, but their files are gone from the disk.", PostedTo.KEPT)
            return
        await self._service.mark_posted(job.id, where, message_id)
        waited = (self._clock() - job.created_at).total_seconds()
        if waited > self._notify_after_s and where is PostedTo.CHANNEL:
            await self._messenger.notify(job, message_id)

    async def _withhold(self, job: Job) -> None:
        await self._try_update(job, cards.withheld(job))
        await self._service.mark_posted(job.id, PostedTo.WITHHELD, job.message_id)

    async def _give_up(self, job: Job, why: str, where: PostedTo) -> None:
        with contextlib.suppress(Unanswered):  # it is in the history, and that is what is recorded
            await self._try_update(job, cards.not_shown(job, why))
        await self._service.mark_posted(job.id, where, job.message_id)
