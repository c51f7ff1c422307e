"""Sequences of what members do, against the service with an engine that draws at once, by Hypothesis' state machine.

Whatever the order: every committed request is in exactly one state and shown once at most, what was cancelled or
deleted is never shown, nobody has more waiting than allowed, and nothing raises but refusals.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bot import limits
from bot.errors import EaselError, JobNotFound, LimitReached, ModelError, NotPermitted, RequestError
from bot.generation import Actor, GenerationOptions, Job, JobStatus, Origin, PostedTo
from bot.prompts.again import options_of
from bot.scheduling.events import Cancelled, Failed, JobEvent, Rendered
from tests.unit.scheduling.fakes import PATIENCE_S, World

T = TypeVar("T")
ALLOWED = 3
USERS = (1, 2, 3)
GUILD = 5
MODERATOR = Actor(99, GUILD)


@dataclass(slots=True)
class Known:
    """What the test knows of a request it committed."""

    user: int
    prompt: str
    interaction: int
    held: bool
    fails: bool = False
    cancelled: bool = False
    deleted: bool = False


class Faults(logging.Handler):
    """Notes what the bot logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(self.format(record))


class Actions(RuleBasedStateMachine):
    """The machine; each of its rules is one thing that somebody does."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz"))
        self.known: dict[str, Known] = {}
        self.shown: Counter[str] = Counter()
        self.showing: set[asyncio.Task[None]] = set()
        self.numbers = itertools.count(1)
        self.full = False
        self.faults = Faults()
        logging.getLogger("bot").addHandler(self.faults)
        self.loop.set_exception_handler(lambda loop, context: self.faults.seen.append(str(context)))
        self.allowed = limits.MAX_WAITING
        limits.MAX_WAITING = ALLOWED
        self.world: World

    # --- the house around the service ---

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(PATIENCE_S):
                return await work

        return self.loop.run_until_complete(limited())

    @initialize()
    def open(self) -> None:
        self.run(self._open())

    async def _open(self) -> None:
        world = World(self.folder, new_id=lambda: f"{next(self.numbers):08}", room=2)
        for one in self.known.values():
            if one.held:
                world.hold(one.prompt)
            if one.fails:
                world.engine.errors[one.prompt] = ModelError("It does not fit.")
        world.service.subscribe(self._on_event)
        world.free_bytes = 0 if self.full else 10**12
        self.world = world
        world.gpu.start()
        await world.service.start()

    def _on_event(self, event: JobEvent) -> None:
        if isinstance(event, Rendered | Failed | Cancelled):
            task = self.loop.create_task(self._show(event))
            self.showing.add(task)
            task.add_done_callback(self._shown)

    async def _show(self, event: Rendered | Failed | Cancelled) -> None:
        """What delivery does, without Discord."""
        if not isinstance(event, Rendered):
            await self.world.service.mark_told(event.job.id)
            return
        job = await self.world.service.begin_posting(event.job.id)
        if job is None:
            return
        one = self.known.get(job.id)
        self.shown[job.id] += 1
        assert one is None or not (one.cancelled or one.deleted), "it was shown after a confirmed cancel or delete"
        await self.world.service.mark_posted(job.id, PostedTo.CHANNEL, 1000)

    def _shown(self, task: asyncio.Task[None]) -> None:
        self.showing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.faults.seen.append(f"showing raised {error!r}")

    async def _close(self, *, graceful: bool) -> None:
        while self.showing:
            await asyncio.wait(set(self.showing))
        if graceful:
            await self.world.service.stop(0.2)
        else:  # as a kill does: whatever was under way is left as it is in the database
            mine = asyncio.current_task()
            tasks = [task for task in asyncio.all_tasks() if task is not mine]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.showing.clear()
            for gate in self.world.engine.gates.values():
                gate.set()
            await asyncio.to_thread(self.world.gpu.stop, 5.0)
        while self.showing:
            await asyncio.wait(set(self.showing))
        await self.world.service.close()

    def _origin(self, user: int, interaction: int | None = None) -> Origin:
        number = next(self.numbers) + 10**6 if interaction is None else interaction
        return replace(self.world.origin(user), interaction_id=number, guild_id=GUILD)

    def _waiting(self, user: int) -> int:
        return len(self.world.service.overview(user).mine)

    async def _submit(self, user: int, held: bool, fails: bool, count: int, model: str = "pocket") -> Job | None:
        prompt = f"picture {next(self.numbers)}"
        if held:
            self.world.hold(prompt)
        if fails:
            self.world.engine.errors[prompt] = ModelError("It does not fit.")
        request = self.world.service.prepare(GenerationOptions(prompt, model=model, count=count, steps=2))
        origin = self._origin(user)
        try:
            job = await self.world.service.submit(request, origin)
        except EaselError as error:
            self._refused(error)
            return None
        self.known[job.id] = Known(user, prompt, origin.interaction_id, held, fails)
        return job

    def _refused(self, error: EaselError) -> None:
        if not (self.full or isinstance(error, LimitReached)):
            raise error

    # --- what members do ---

    users = st.sampled_from(USERS)
    which = st.integers(0, 10**6)

    def _choose(self, which: int) -> tuple[str, Known]:
        ids = sorted(self.known)
        return ids[which % len(ids)], self.known[ids[which % len(ids)]]

    @rule(user=users, held=st.booleans(), fails=st.booleans(), count=st.integers(1, 4), far=st.booleans())
    def submit(self, user: int, held: bool, fails: bool, count: int, far: bool) -> None:
        before = self._waiting(user)
        job = self.run(self._submit(user, held, fails and not held, count, "far" if far else "pocket"))
        if before >= ALLOWED:
            assert job is None or self._waiting(user) <= ALLOWED

    @rule(user=users, number=st.integers(2, 6))
    def submit_at_once(self, user: int, number: int) -> None:
        async def several() -> list[Job | None]:
            return await asyncio.gather(*(self._submit(user, True, False, 1) for _ in range(number)))

        free = ALLOWED - self._waiting(user)
        made = [job for job in self.run(several()) if job is not None]
        # As many as there were places, and those that began meanwhile: two fit beside each other.
        assert len(made) <= max(free, 0) + 2

    @precondition(lambda self: self.known)
    @rule(which=which)
    def deliver_the_interaction_again(self, which: int) -> None:
        job_id, one = self._choose(which)
        if one.deleted:
            return
        request = self.world.service.prepare(GenerationOptions(one.prompt))
        again = self.run(self.world.service.submit(request, self._origin(one.user, one.interaction)))
        assert again.id == job_id

    @precondition(lambda self: self.known)
    @rule(which=which, who=st.sampled_from(["owner", "stranger", "moderator"]))
    def cancel(self, which: int, who: str) -> None:
        job_id, one = self._choose(which)
        actor = {"owner": Actor(one.user), "stranger": Actor(77, GUILD + 1), "moderator": MODERATOR}[who]
        try:
            job = self.run(self.world.service.cancel(job_id, actor))
        except JobNotFound:
            assert one.deleted
        except NotPermitted:
            assert who == "stranger"
        except RequestError:
            assert self.run(self.world.service.get(job_id)).status in (JobStatus.POSTING, JobStatus.POSTED, JobStatus.FAILED, JobStatus.CANCELLED)  # fmt: skip
        else:
            assert who != "stranger"
            assert job.status is JobStatus.CANCELLED
            assert not self.shown[job_id]
            one.cancelled = True

    @precondition(lambda self: self.known)
    @rule(which=which, who=st.sampled_from(["owner", "stranger", "moderator"]))
    def delete(self, which: int, who: str) -> None:
        job_id, one = self._choose(which)
        actor = {"owner": Actor(one.user), "stranger": Actor(77, GUILD + 1), "moderator": MODERATOR}[who]
        try:
            self.run(self.world.service.delete(job_id, actor))
        except JobNotFound:
            assert one.deleted
        except NotPermitted:
            assert who == "stranger"
        else:
            assert who != "stranger"
            one.deleted = True

    @precondition(lambda self: self.known)
    @rule(which=which, user=users)
    def again(self, which: int, user: int) -> None:
        job_id, one = self._choose(which)

        async def draw() -> None:
            try:
                old = await self.world.service.get(job_id)
            except JobNotFound:
                assert one.deleted
                return
            request = self.world.service.prepare(replace(options_of(old.request), seed=None))
            origin = self._origin(user)
            try:
                self.world.service.check_room(user)
                job = await self.world.service.submit(request, origin)
            except EaselError as error:
                self._refused(error)
                return
            self.known[job.id] = Known(user, one.prompt, origin.interaction_id, one.held, one.fails)

        self.run(draw())

    @precondition(lambda self: self.known)
    @rule(which=which)
    def let_it_be_drawn(self, which: int) -> None:
        _, one = self._choose(which)
        for other in self.known.values():
            if other.prompt == one.prompt:
                other.held = False
        if (gate := self.world.engine.gates.get(one.prompt)) is not None:
            gate.set()
        self.run(asyncio.sleep(0.01))

    @rule(pause_s=st.sampled_from([0.0, 0.001]))
    def wait(self, pause_s: float) -> None:
        self.run(asyncio.sleep(pause_s))

    @rule()
    def wait_until_quiet(self) -> None:
        """Let all that is not held end, unless what is held takes all the room."""

        async def quiet() -> None:
            for _ in range(200):
                unfinished = {job.id for job in await self.world.store.unfinished()}
                held = {job_id for job_id, one in self.known.items() if one.held}
                if not self.showing and (not unfinished - held or len(unfinished & held) >= 2):
                    return
                await asyncio.sleep(0.005)

        self.run(quiet())

    @rule()
    def fill_or_clear_the_disk(self) -> None:
        self.full = not self.full
        self.world.free_bytes = 0 if self.full else 10**12

    @rule(graceful=st.booleans())
    def restart(self, graceful: bool) -> None:
        self.run(self._close(graceful=graceful))
        self.run(self._open())

    @rule(user=users, which=which)
    def look(self, user: int, which: int) -> None:
        """`/queue` and `/history`, from the newest and from any entry."""
        overview = self.world.service.overview(user)
        assert overview.waiting >= len(overview.mine) >= 0
        for _, place in overview.mine:
            assert 1 <= place.position <= overview.waiting
            assert place.eta_s is None or place.eta_s >= 0
        before = self._choose(which)[0] if self.known else None
        for start in (None, before, "no such id"):
            for job in self.run(self.world.service.history(user, limit=4, before=start)):
                assert job.origin.user_id == user
                assert job.status is JobStatus.POSTED
                assert self.shown[job.id] == 1

    # --- what holds after every step ---

    @invariant()
    def every_request_is_in_one_state(self) -> None:
        if hasattr(self, "world"):
            self.run(self._check())

    async def _check(self) -> None:
        assert not self.faults.seen, self.faults.seen
        ids = await self.world.store.ids()
        assert ids == {job_id for job_id, one in self.known.items() if not one.deleted}
        assert all(number >= 0 for number in self.world.service._intake._reserved.values())
        assert not self.world.service._intake._reserved
        for user in USERS:
            assert self.world.service._board.waiting_of(user) >= 0
        for job_id, one in self.known.items():
            assert self.shown[job_id] <= 1
            if one.deleted:
                assert self.world.service.place(job_id) is None
                continue
            job = await self.world.store.get(job_id)
            assert job is not None
            assert (job.request.prompt, job.origin.user_id) == (one.prompt, one.user)
            assert not one.cancelled or job.status is JobStatus.CANCELLED
            if job.status.final:
                assert self.world.service.place(job_id) is None
                assert self.shown[job_id] == (1 if job.status is JobStatus.POSTED else 0)

    # --- the end: everything has come to its own ---

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.run(self._end())
        finally:
            limits.MAX_WAITING = self.allowed
            logging.getLogger("bot").removeHandler(self.faults)
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    async def _end(self) -> None:
        self.world.free_bytes = 10**12
        for gate in self.world.engine.gates.values():
            gate.set()
        while await self.world.store.unfinished() or self.showing:
            await asyncio.sleep(0.005)
        await self._check()
        posted = {job_id for job_id in await self.world.store.ids() if self.shown[job_id]}
        folders = {file.parent.name for file in (self.folder / "pictures").rglob("*.png")}
        assert folders == posted
        await self._close(graceful=True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestActions(Actions.TestCase):  # type: ignore[name-defined]
    """Hypothesis' entry."""

    settings = settings(max_examples=max(12, settings().max_examples // 4))


SEQUENCES: dict[str, list[tuple[Any, ...]]] = {
    "cancel when it is shown": [("submit", 1, False, False, 1, False), ("wait_until_quiet",), ("cancel", 0, "owner")],
    "cancel while it is drawn, again": [("submit", 1, True, False, 2, False), ("wait", 0.001), ("cancel", 0, "owner"), ("let_it_be_drawn", 0), ("wait_until_quiet",), ("again", 0, 2), ("wait_until_quiet",)],
    "delete what waits, runs and is shown": [("submit", 1, True, False, 1, False), ("submit", 2, False, False, 1, False), ("wait_until_quiet",), ("submit", 1, True, False, 1, False), ("submit", 3, True, False, 1, False), ("delete", 0, "owner"), ("delete", 1, "moderator"), ("delete", 3, "owner"), ("delete", 3, "owner")],
    "strangers": [("submit", 1, True, False, 1, False), ("cancel", 0, "stranger"), ("delete", 0, "stranger"), ("cancel", 0, "moderator")],
    "many at once": [("submit_at_once", 1, 6), ("submit_at_once", 1, 6), ("look", 1, 0)],
    "delivered twice": [("submit", 1, False, False, 1, False), ("deliver_the_interaction_again", 0), ("wait_until_quiet",), ("deliver_the_interaction_again", 0)],
    "restart and kill": [("submit", 1, True, False, 1, False), ("submit", 2, False, False, 1, True), ("wait_until_quiet",), ("restart", True), ("restart", False), ("wait_until_quiet",), ("cancel", 1, "owner")],
    "full disk": [("fill_or_clear_the_disk",), ("submit", 1, False, False, 1, False), ("fill_or_clear_the_disk",), ("submit", 1, False, True, 1, False), ("wait_until_quiet",), ("again", 0, 1), ("look", 1, 0)],
}  # fmt: skip


@pytest.mark.parametrize("steps", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_actions_in_a_known_order_keep_every_promise(steps: list[tuple[Any, ...]]) -> None:
    machine = Actions()
    machine.open()
    try:
        for name, *values in steps:
            getattr(machine, name)(*values)
            machine.every_request_is_in_one_state()
    finally:
        machine.teardown()
