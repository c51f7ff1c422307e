"""How fast submit, position and cancel are while 10,000 requests wait: the real service, database and delivery.

Each call is timed from the event loop's view, to its answer: submit and cancel until their transaction is on the disk,
with `synchronous=FULL`. The disk's own part is measured beside it, since no program can be faster: one commit of one row
in a file of the same kind. Nothing is drawn, and messages are edited at once, by a messenger that knows no Discord.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert

from bench.numbers import percentile
from bench.still import StillEngine, Unscored
from bot.catalogue.models_file import parse_catalogue
from bot.delivery import Delivery
from bot.engine.base import EngineInfo
from bot.files.archive import Archive
from bot.generation import Actor, GenerationRequest, Job, Origin
from bot.limits import MAX_WAITING
from bot.moderation import Moderator
from bot.scheduling.board import BATCHES_ADMITTED
from bot.scheduling.gpu_thread import GpuThread
from bot.scheduling.patience import Patience
from bot.scheduling.service import GenerationService
from bot.store import ledger
from bot.store.jobs import JobStore
from bot.store.rows import origin_values, request_text
from bot.store.schema import jobs

TARGET_S = 0.010

CATALOGUE = parse_catalogue(
    '[models.pocket]\nname = "Pocket"\nsource = "models/pocket"\nfamily = "sd15"\nlicence = "MIT"\nbase_px = 64\n',
    origin="the bench",
)
REQUEST = GenerationRequest("a red circle", "", "pocket", 64, 64, 1, 20, 7.0, 42, "Default")


class Held(StillEngine):
    """An engine that never finishes, so that everybody waits."""

    def start(self) -> EngineInfo:
        """Be ready."""
        return EngineInfo("cpu", "held", "fp32", None)

    def turn(self) -> bool:
        """Let cancelled orders go, and nothing else."""
        time.sleep(0.01)
        for order in list(self._orders):
            if order.over or order.listener.cancelled():
                del self._orders[order]
        return self.busy


class Here:
    """Weights that are all there."""

    def is_local(self, model_id: str) -> bool:
        """Say yes."""
        return True

    def fetch(self, model_id: str, on_progress: Callable[..., None], stopped: Callable[[], bool]) -> None:
        """Fetch nothing."""


class Nowhere:
    """A messenger whose edits are done as soon as they are asked for."""

    shown = 0

    def token_lives(self, job: Job) -> bool:
        """Say yes."""
        return True

    async def update(self, job: Job, view: Any, files: Any, *, final: bool = False) -> int:
        """Count."""
        self.shown += 1
        return 1


@dataclass(frozen=True, slots=True)
class Times:
    """What each kind of call took, in seconds."""

    submit: list[float]
    position: list[float]
    cancel: list[float]
    disk: list[float]

    def report(self) -> list[tuple[str, str, bool | None]]:
        """Give name, value and whether the target was met; the disk's own has no target."""
        lines: list[tuple[str, str, bool | None]] = []
        for name in ("submit", "position", "cancel", "disk"):
            values = getattr(self, name)
            p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
            met = None if name == "disk" else p99 <= TARGET_S
            lines.append((name, f"{p50 * 1000:.2f} / {p99 * 1000:.2f} ms", met))
        return lines


def _origin(number: int, user_id: int, now: datetime) -> Origin:
    return Origin(
        number, 1, f"token-{number}", now + timedelta(minutes=15), user_id, "a member", 5, 6, False, 10 * 2**20
    )


async def _timed(call: Callable[[], Awaitable[Any]], spent: list[float]) -> Any:
    begun = time.perf_counter()
    value = await call()
    spent.append(time.perf_counter() - begun)
    return value


async def measure(waiting: int, samples: int, folder: Path | None = None) -> Times:
    """Let `waiting` requests wait, then time `samples` of each call."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="easel-waiting-") as name:
            return await measure(waiting, samples, Path(name))
    now, ids, numbers = datetime.now(UTC), itertools.count(), itertools.count(1)
    jobs = await _fill(folder / "easel.db", waiting, numbers, now)
    gpu = GpuThread(Held())
    gpu.start()
    unsigned: Any = None  # nothing is drawn here
    service = GenerationService(
        store=JobStore(f"sqlite:///{folder / 'easel.db'}"),
        archive=Archive(folder / "pictures", classifier=Unscored(), marker=unsigned, version="bench", model_names={}),
        gpu=gpu, weights=Here(), catalogue=CATALOGUE, moderator=Moderator(), patience=Patience(), clock=lambda: now,
        new_id=lambda: f"job{next(ids):07}", new_seed=lambda: 1, max_attempts=3, keep_days=30,
    )  # fmt: skip
    messenger: Any = Nowhere()
    delivery = Delivery(messenger, service, patience=Patience(), clock=lambda: datetime.now(UTC))
    delivery.start()
    await service.start()
    try:
        async with asyncio.timeout(600):
            # Each card is shown once, as after any restart, and the engine has what it takes at once.
            while messenger.shown < waiting or len(service.overview(0).running) < BATCHES_ADMITTED:
                await asyncio.sleep(0.1)
        return await _time(service, jobs, samples, numbers, now, folder)
    finally:
        await service.stop(5.0)
        await delivery.stop(0.0)
        await service.close()


async def _fill(path: Path, waiting: int, numbers: Any, now: datetime) -> list[str]:
    """Write what an earlier process left: one transaction, where that many submits would be as many."""
    store = JobStore(f"sqlite:///{path}")
    await store.open()
    ids = [f"old{n:07}" for n in range(waiting + BATCHES_ADMITTED)]

    def work(connection: Connection) -> None:
        for n, job_id in enumerate(ids):
            origin = _origin(next(numbers), 100 + n // (MAX_WAITING - 1), now)
            ledger.reserve(connection, job_id, REQUEST, origin, now, None)
            values = {**origin_values(origin), "id": job_id, "request": request_text(REQUEST), "created_at": now}
            connection.execute(insert(jobs).values(**values, status="queued", attempt=0, told=False, message_id=n + 1))

    await store._database.run(work)
    await store.close()
    return ids


async def _time(
    service: GenerationService, jobs: list[str], samples: int, numbers: Any, now: datetime, folder: Path
) -> Times:
    times = Times([], [], [], [])
    line = [job_id for job_id in jobs if service.place(job_id) is not None]  # the first are with the engine
    step = max(1, len(line) // samples)
    with closing(sqlite3.connect(folder / "disk.db", isolation_level=None, check_same_thread=False)) as disk:
        disk.execute("PRAGMA journal_mode=WAL")
        disk.execute("PRAGMA synchronous=FULL")
        disk.execute("CREATE TABLE row (text TEXT)")
        for n in range(samples):
            # Members whose line is not full; every one of them is another, as in a crowd.
            asked = _origin(next(numbers), 1_000_000 + n, now)
            job = await _timed(lambda asked=asked: service.submit(REQUEST, asked), times.submit)
            victim = await service.get(line[n * step])
            for one in (job, victim):
                begun = time.perf_counter()
                place = service.place(one.id)
                times.position.append(time.perf_counter() - begun)
                if place is None:
                    raise RuntimeError(f"{one.id} does not wait")
            await _timed(lambda job=victim: service.cancel(job.id, Actor(job.origin.user_id)), times.cancel)
            begun = time.perf_counter()
            await asyncio.to_thread(disk.execute, "INSERT INTO row VALUES (?)", ("x" * 500,))
            times.disk.append(time.perf_counter() - begun)
    return times
