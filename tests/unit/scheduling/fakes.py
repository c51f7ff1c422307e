"""An engine and weights that do what a test says, and a service around them."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from bot.catalogue.models_file import parse_catalogue
from bot.engine.base import EngineInfo, Order, Question, Work
from bot.engine.metrics import Metrics
from bot.errors import GenerationCancelled
from bot.files.archive import Archive
from bot.generation import FetchProgress, GenerationRequest, GenerationResult, Job, Origin, Progress, RawPicture
from bot.moderation import Moderator
from bot.scheduling.events import JobEvent
from bot.scheduling.gpu_thread import GpuThread
from bot.scheduling.patience import Patience
from bot.scheduling.service import GenerationService
from bot.store.jobs import JobStore
from tests.unit.files.pictures import marker
from tests.unit.store.support import NOW, address, origin, request

T = TypeVar("T")
PATIENCE_S = 20.0

CATALOGUE = parse_catalogue(
    """
    [models.pocket]
    name = "Pocket"
    source = "models/pocket"
    family = "sd15"
    licence = "MIT"
    base_px = 64
    [models.far]
    name = "Far"
    source = "owner/far"
    family = "sd15"
    licence = "MIT"
    base_px = 64
    """,
    origin="the test's catalogue",
)


def raw(n: int, seed: int) -> RawPicture:
    return RawPicture(n, seed, 8, 8, bytes(8 * 8 * 3))


class FakeEngine:
    """Draws at once, unless the prompt is in `gates` (then it stays among the others until that opens) or in `errors`."""

    def __init__(self) -> None:
        self.drawn: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self.errors: dict[str, BaseException] = {}
        self.notes: dict[str, str] = {}
        self.begun: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self.start_error: BaseException | None = None
        self.turn_error: BaseException | None = None
        self.hang: threading.Event | None = None
        self.deaf = False
        self.closed = False
        self.starts = 0
        self.most_at_once = 0
        self.work: Work | None = None
        self.metrics = Metrics()
        self.asked: list[Question] = []
        self.words: str | BaseException | None = "the sea at night"  # None: no answer comes
        self._orders: list[Order] = []
        self._started: set[Order] = set()
        self._listed: dict[Order, dict[int, RawPicture]] = {}

    def start(self) -> EngineInfo:
        self.starts += 1
        if self.start_error is not None:
            raise self.start_error
        return EngineInfo("cpu", "fake", "fp32", None)

    def admit(self, order: Order) -> None:
        self._orders.append(order)
        self.most_at_once = max(self.most_at_once, len(self._orders))

    def ask(self, question: Question) -> None:
        self.asked.append(question)
        if isinstance(self.words, BaseException):
            question.fail(self.words)
        elif self.words is not None:
            question.finish(self.words)

    @property
    def busy(self) -> bool:
        return bool(self._orders)

    def turn(self) -> bool:
        if self.turn_error is not None:
            error, self.turn_error = self.turn_error, None
            raise error
        for order in list(self._orders):
            if order.over or self._draw(order):
                self._orders.remove(order)
        if self._orders:
            time.sleep(0.002)
        return self.busy

    def _draw(self, order: Order) -> bool:
        """Take an order as far as it goes; whether it has ended."""
        request, listener = order.request, order.listener
        if order not in self._started:
            self._started.add(order)
            self.drawn.append(request.prompt)
            self.begun[request.prompt].set()
            if request.prompt in self.errors:
                order.fail(self.errors[request.prompt])
                return True
            listener.on_load(FetchProgress(request.model, 1, 2))
            preview = raw(0, request.seed) if listener.wants_preview() else None
            listener.on_progress(Progress(1, request.num_inference_steps, preview))
            if self.hang is not None:
                self.work = Work("a step", (order,), 0.0, 10.0)
                self.hang.wait(20.0)
                self.work = None
        if request.listed:
            return self._draw_list(order)
        gate = self.gates.get(request.prompt)
        if gate is not None and not gate.is_set():
            if not listener.cancelled() or self.deaf:
                return False
            order.fail(GenerationCancelled("cancelled"))
            return True
        pictures = tuple(self.picture(request, n) for n in range(self.count(request)))
        note = self.notes.get(request.prompt, "")
        order.finish(GenerationResult(pictures, 0.5, 0.75, "cpu", "fp32", note))
        return True

    def _draw_list(self, order: Order) -> bool:
        """Draw the next missing picture of a list, unless a test holds its line; whether the order has ended."""
        request, before = order.request, self._listed.setdefault(order, {})
        missing = [n for n in range(request.count) if n not in order.done and n not in before]
        if order.listener.cancelled():
            order.fail(GenerationCancelled("cancelled"))
        elif not missing:
            pictures = tuple(before[n] for n in sorted(before))
            order.finish(GenerationResult(pictures, 0.5, 0.75, "cpu", "fp32"))
        else:
            line = request.alone(missing[0]).prompt
            gate = self.gates.get(line)
            self.begun[line].set()
            if gate is None or gate.is_set():
                before[missing[0]] = picture = self.picture(request, missing[0])
                self.drawn.append(line)
                step = len(order.done) + len(before)
                order.listener.on_progress(Progress(step, request.count, None, (picture,), "cpu", "fp32"))
        return order.over

    def count(self, request: GenerationRequest) -> int:
        return request.count

    def picture(self, request: GenerationRequest, n: int) -> RawPicture:
        return raw(n, request.seed + n)

    def close(self) -> None:
        self._orders.clear()
        self.closed = True


class FakeWeights:
    """Has what is in `local`; `fetch` waits for the model's gate, tells progress, and raises what is in `errors`."""

    def __init__(self) -> None:
        self.local = {"pocket"}
        self.gates: dict[str, threading.Event] = {}
        self.errors: dict[str, BaseException] = {}
        self.fetched: list[str] = []
        self.ended_early = threading.Event()

    def is_local(self, model_id: str) -> bool:
        return model_id in self.local

    def fetch(self, model_id: str, on_progress: Callable[[FetchProgress], None], stopped: Callable[[], bool]) -> None:
        self.fetched.append(model_id)
        on_progress(FetchProgress(model_id, 1_000, 3_000))
        gate = self.gates.get(model_id)
        while gate is not None and not gate.wait(0.002):
            if stopped():
                self.ended_early.set()
                return
        if model_id in self.errors:
            raise self.errors[model_id]
        self.local.add(model_id)


class Clean:
    """A classifier that sees nothing."""

    threshold = 0.5

    def score(self, picture: RawPicture) -> float:
        return 0.0


class World:
    """A service with everything under it; the clock stands still unless a test moves `now`.

    There is room for one request at a time, so that others wait in line; tests of what shares the GPU pass a larger `room`.
    """

    def __init__(self, folder: Path, *, free_bytes: int = 10**12, **changes: Any) -> None:
        self.folder = folder
        self.path = folder / "easel.db"
        self.engine = FakeEngine()
        self.weights = FakeWeights()
        self.store = JobStore(address(self.path))
        self.free_bytes = free_bytes
        self.archive = Archive(
            folder / "pictures",
            classifier=Clean(),
            marker=marker(),
            version="test",
            model_names={},
            free_bytes=lambda _: self.free_bytes,
        )
        self.gpu = GpuThread(self.engine)
        self.now = NOW
        self.ticks = 0.0
        self.events: list[JobEvent] = []
        self._heard = asyncio.Event()
        self._interactions = itertools.count(1_000_000)
        ids = (f"{folder.name[-3:]}{n:05}" for n in itertools.count(1))
        values: dict[str, Any] = {
            "store": self.store, "archive": self.archive, "gpu": self.gpu, "weights": self.weights,
            "catalogue": CATALOGUE, "moderator": Moderator(), "patience": Patience(), "clock": lambda: self.now,
            "new_id": lambda: next(ids), "new_seed": lambda: 42, "max_attempts": 3, "keep_days": 30,
            "room": 1, "tick": lambda: self.ticks,
        }  # fmt: skip
        self.service = GenerationService(**(values | changes))
        self.service.subscribe(self._hear)

    async def __aenter__(self) -> World:
        self.gpu.start()
        await self.service.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for gate in (*self.engine.gates.values(), *self.weights.gates.values()):
            gate.set()
        await self.service.stop(PATIENCE_S)
        await self.service.close()

    def _hear(self, event: JobEvent) -> None:
        self.events.append(event)
        self._heard.set()

    def hold(self, prompt: str) -> threading.Event:
        """Make the engine wait in the middle of this prompt until the event is set."""
        return self.engine.gates.setdefault(prompt, threading.Event())

    async def begun(self, prompt: str) -> None:
        """Wait until the engine has begun with a prompt."""
        assert await asyncio.to_thread(self.engine.begun[prompt].wait, PATIENCE_S), prompt

    async def submit(self, prompt: str = "a cat", user_id: int = 7, **changes: Any) -> Job:
        return await self.service.submit(request(prompt=prompt, **changes), self.origin(user_id))

    def origin(self, user_id: int = 7, **changes: Any) -> Origin:
        later = self.now + timedelta(minutes=15)
        return origin(next(self._interactions), user_id, expires_at=later, **changes)

    async def heard(self, kind: type[T], job_id: str | None = None, *, times: int = 1) -> T:
        """Wait for an event of that kind (about that job); the last of `times`."""

        async def look() -> T:
            while True:
                found = [event for event in self.events if isinstance(event, kind) and _about(event, job_id)]
                if len(found) >= times:
                    return found[times - 1]
                self._heard.clear()
                await self._heard.wait()

        return await asyncio.wait_for(look(), PATIENCE_S)

    def told(self, kind: type[T], job_id: str | None = None) -> list[T]:
        return [event for event in self.events if isinstance(event, kind) and _about(event, job_id)]

    def picture_files(self) -> list[str]:
        return sorted(file.name for file in (self.folder / "pictures").rglob("*.png"))


def _about(event: Any, job_id: str | None) -> bool:
    return (
        job_id is None
        or getattr(event, "job_id", None) == job_id
        or getattr(getattr(event, "job", None), "id", None) == job_id
    )


def result_of(future: Future[T]) -> T:
    return future.result(PATIENCE_S)
