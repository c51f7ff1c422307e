"""Delivery alone, with a messenger and a service that can be held and broken: what races and failures leave shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bot import delivery as delivery_module
from bot.delivery import Delivery, Pace
from bot.errors import DatabaseDamaged
from bot.generation import GenerationRequest, Job, JobStatus, Origin, PictureFile, PostedTo
from bot.moderation import AdultPolicy
from bot.scheduling.events import Cancelled, Drawing, Failed, Queued, Rendered
from bot.scheduling.patience import Patience
from bot.ui.messenger import Unanswered, Undeliverable
from bot.ui.parcels import Limits
from tests.support import texts

NOW = datetime(2026, 11, 21, tzinfo=UTC)
REQUEST = GenerationRequest("a beach", "", "pocket", 64, 64, 1, 20, 4.0, 42, "DDIM")
ORIGIN = Origin(1, 2, "token", NOW + timedelta(minutes=14), 3, "ada", 4, 5, False, 10_000_000)
PICTURE = PictureFile(0, "/x/1.png", "easel-abc123-1.png", 42, 64, 64, 9, 0.1, False)
JOB = Job("abc123", REQUEST, ORIGIN, JobStatus.QUEUED, NOW)


class Messages:
    """Stands for the messenger: remembers what was shown; progress waits while `held` is set."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.delivered: list[list[str]] = []
        self.direct: list[str] = []
        self.held: asyncio.Event | None = None
        self.reachable = True
        self.failures = 0
        self.failure: Exception = RuntimeError("something nobody thought of")

    def token_lives(self, job: Job) -> bool:
        return self.reachable

    def limits(self, job: Job) -> Limits:
        return Limits(job.origin.attachment_size_limit)

    async def update(self, job: Job, view: Any, files: Any, *, final: bool = False) -> int:
        if self.held is not None and not final:
            await self.held.wait()
        if not self.reachable:
            raise Undeliverable("Its message can no longer be edited.")
        self.shown.append(texts(view.to_components())[0].split("\n")[-1])
        return 77

    async def deliver(self, job: Job, view: Any, files: Any) -> tuple[PostedTo, int]:
        if self.failures:
            self.failures -= 1
            raise self.failure
        self.delivered.append([file.name for file in files])
        return PostedTo.CHANNEL, 77

    async def tell_directly(self, job: Job, view: Any) -> None:
        self.direct.append(texts(view.to_components())[0].split("\n")[-1])


class Service:
    """Stands for the service: one job, whose state the tests set."""

    def __init__(self) -> None:
        self.listener: Callable[[Any], None] = lambda event: None
        self.job = replace(JOB, status=JobStatus.RENDERED, files=(PICTURE,))
        self.cancelled = False
        self.locked = 0
        self.calls: list[str] = []

    class _Catalogue:
        def name_of(self, model: str) -> str:
            return model

        def get(self, model: str) -> None:
            return None

    catalogue = _Catalogue()

    class _Outbox:
        async def posts(self, job_id: str) -> tuple[()]:
            return ()

    outbox = _Outbox()

    def subscribe(self, listener: Callable[[Any], None]) -> None:
        self.listener = listener

    def place(self, job_id: str) -> None:
        return None

    async def get(self, job_id: str) -> Job:
        return replace(self.job, status=JobStatus.CANCELLED) if self.cancelled else self.job

    async def begin_posting(self, job_id: str) -> Job | None:
        return None if self.cancelled else self.job

    async def mark_posted(self, job_id: str, where: PostedTo, message_id: int | None) -> None:
        if self.locked:
            self.locked -= 1
            raise DatabaseDamaged("The database is locked by another program.")
        self.calls.append(f"posted {where}")

    async def mark_told(self, job_id: str) -> None:
        self.calls.append("told")

    async def set_message(self, job_id: str, message_id: int) -> None:
        self.calls.append(f"message {message_id}")

    async def read_picture(self, file: PictureFile) -> bytes:
        return b"png"


class World:
    def __init__(self) -> None:
        self.messages, self.service = Messages(), Service()
        self.delivery = Delivery(
            self.messages, self.service, patience=Patience(), clock=lambda: NOW, edit_interval_s=0.0  # type: ignore[arg-type]
        )  # fmt: skip
        self.delivery.start()

    def hear(self, event: Any) -> None:
        self.service.listener(event)

    async def posted(self, where: str) -> None:
        await self.until(lambda: f"posted {where}" in self.service.calls)

    async def until(self, happened: Callable[[], Any]) -> None:
        async with asyncio.timeout(5):
            while not happened():
                await asyncio.sleep(0.001)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(delivery_module, "END_AGAIN_S", (0.0, 0.0))
    return World()


async def test_delivery_happy_road_shows_wait_steps_and_result_once(world: World) -> None:
    world.hear(Queued(JOB))
    await world.until(lambda: world.messages.shown)
    world.hear(Drawing(JOB.id, 3, 20, None))
    await world.until(lambda: len(world.messages.shown) == 2)
    world.hear(Rendered(world.service.job))
    await world.until(lambda: "posted channel" in world.service.calls)
    assert "step 3 of 20" in world.messages.shown[1]
    assert world.messages.delivered == [["easel-abc123-1.png"]]
    assert world.service.calls == ["message 77", "posted channel"]


async def test_delivery_cancel_that_wins_while_an_edit_hangs_is_shown_and_nothing_else(world: World) -> None:
    world.messages.held = asyncio.Event()
    world.hear(Queued(JOB))
    await asyncio.sleep(0.01)
    world.hear(Rendered(world.service.job))
    world.service.cancelled = True
    world.hear(Cancelled(replace(JOB, status=JobStatus.CANCELLED)))
    world.messages.held.set()
    await world.until(lambda: "told" in world.service.calls)
    assert world.messages.shown[-1] == "cancelled"
    assert world.messages.delivered == []


async def test_delivery_locked_database_after_showing_records_it_later(world: World) -> None:
    world.service.locked = 2
    world.hear(Rendered(world.service.job))
    await world.until(lambda: "posted channel" in world.service.calls)
    # Shown again each time, which is an edit of the same message.
    assert world.messages.delivered == [["easel-abc123-1.png"]] * 3


async def test_delivery_unexpected_error_is_tried_again(world: World) -> None:
    world.messages.failures = 1
    world.hear(Rendered(world.service.job))
    await world.until(lambda: "posted channel" in world.service.calls)
    assert len(world.messages.delivered) == 1


async def test_delivery_unanswered_call_is_repeated_until_it_is_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "UNANSWERED_AGAIN_S", (0.0,) * 5)
    world.messages.failures, world.messages.failure = 5, Unanswered("503")
    world.hear(Rendered(world.service.job))
    await world.posted("channel")
    assert len(world.messages.delivered) == 1


async def test_delivery_message_that_discord_never_takes_is_kept_in_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "UNANSWERED_AGAIN_S", (0.0,) * 5)
    world.messages.failures, world.messages.failure = 6, Unanswered("503")
    world.hear(Rendered(world.service.job))
    await world.posted("kept")
    assert world.messages.delivered == []


class Outage:
    """Stands for the transport: down until `back` is set."""

    def __init__(self) -> None:
        self.back = asyncio.Event()

    @property
    def down(self) -> bool:
        return not self.back.is_set()

    async def ready(self) -> None:
        await asyncio.sleep(0.001)


async def test_delivery_tries_while_discord_is_down_do_not_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "UNANSWERED_AGAIN_S", ())
    outage = Outage()
    monkeypatch.setattr(world.delivery, "_transport", outage)
    world.messages.failures, world.messages.failure = 10**6, Unanswered("down")
    world.hear(Rendered(world.service.job))
    await world.until(lambda: world.messages.failures < 10**6 - 20)
    assert world.service.calls == []
    world.messages.failures = 0
    outage.back.set()
    await world.posted("channel")


async def test_pace_lets_a_burst_pass_and_spaces_the_rest() -> None:
    waits: list[float] = []

    class Slept(Patience):
        async def sleep(self, delay_s: float, reason: str) -> None:
            waits.append(round(delay_s, 3))

    now = 100.0
    pace = Pace(Slept(), every_s=0.5, burst=3, tick=lambda: now)
    for _ in range(6):
        await pace.turn()
    assert waits == [0.5, 1.0, 1.5]
    now = 200.0
    for _ in range(3):
        await pace.turn()
    assert len(waits) == 3


async def test_delivery_private_failure_out_of_reach_is_told_directly(world: World) -> None:
    world.messages.reachable = False
    failed = replace(JOB, request=replace(REQUEST, private=True), status=JobStatus.FAILED, error="Out of memory.")
    world.hear(Failed(failed))
    await world.until(lambda: "told" in world.service.calls)
    assert world.messages.direct == ["Out of memory."]


async def test_delivery_public_failure_out_of_reach_is_not_marked_as_told(world: World) -> None:
    world.messages.reachable = False
    world.hear(Failed(replace(JOB, status=JobStatus.FAILED, error="No.")))
    await asyncio.sleep(0.02)
    assert world.service.calls == []
    assert world.messages.direct == []


async def test_delivery_flagged_picture_is_withheld(world: World) -> None:
    world.service.job = replace(world.service.job, files=(replace(PICTURE, flagged=True),))
    world.hear(Rendered(world.service.job))
    await world.until(lambda: "posted withheld" in world.service.calls)
    assert world.messages.delivered == []


async def test_delivery_flagged_picture_is_shown_in_an_age_restricted_channel(world: World) -> None:
    origin = replace(ORIGIN, age_restricted=True)
    world.service.job = replace(world.service.job, origin=origin, files=(replace(PICTURE, flagged=True),))
    world.hear(Rendered(world.service.job))
    await world.until(lambda: "posted channel" in world.service.calls)
    assert world.messages.delivered == [["easel-abc123-1.png"]]


async def test_delivery_flagged_picture_is_withheld_everywhere_where_the_policy_says_never(world: World) -> None:
    world.delivery._adult = AdultPolicy(in_age_restricted=False)
    origin = replace(ORIGIN, age_restricted=True)
    world.service.job = replace(world.service.job, origin=origin, files=(replace(PICTURE, flagged=True),))
    world.hear(Rendered(world.service.job))
    await world.until(lambda: "posted withheld" in world.service.calls)
    assert world.messages.delivered == []
