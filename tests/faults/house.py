"""The whole bot in this process, on a loopback Discord: the real client, cogs, store and delivery.

Only the drawing is not real: an engine that waits where a test says so. Waits of minutes are settings here or come from a
clock that the test turns.
"""

from __future__ import annotations

import asyncio
import io
import logging
import random
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route

from bot import delivery
from bot.app import Easel, Machine, build
from bot.config import read_settings
from bot.generation import GenerationRequest, RawPicture
from bot.logs import Redactor, _TextFormatter
from bot.scheduling.gpu_thread import GpuThread
from bot.scheduling.patience import Patience
from bot.transport import RefusedCalls, Timing, Transport
from bot.ui import messenger
from tests.loopback import LoopbackDiscord
from tests.loopback.stage import HF_TOKEN, Stage
from tests.unit.files.pictures import marker
from tests.unit.scheduling.fakes import CATALOGUE, Clean, FakeEngine, FakeWeights

QUICK = Timing(
    connect_s=5.0, silence_s=10.0, total_s=30.0, again_s=(0.05, 0.05, 0.05), probe_s=(0.05, 0.1), answer_s=1.3
)


class Engine(FakeEngine):
    """Draws as many pictures as `counts` says of a prompt, black ones, or noise of a side that `sides` says."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.sides: dict[str, int] = {}

    def count(self, request: GenerationRequest) -> int:
        return self.counts.get(request.prompt, request.count)

    def picture(self, request: GenerationRequest, n: int) -> RawPicture:
        side = self.sides.get(request.prompt)
        if side is None:
            return super().picture(request, n)
        pixels = random.Random(request.seed + n).randbytes(side * side * 3)
        return RawPicture(n, request.seed + n, side, side, pixels)


@dataclass
class InProcess:
    """Stands where tests of the process have a `BotProcess`."""

    data_dir: Path
    log: io.StringIO
    returncode: int | None = None

    @property
    def all_logs(self) -> str:
        return self.log.getvalue()


@dataclass
class House(Stage):
    """One server and one bot in this process; what a test may turn is here."""

    easel: Easel = field(kw_only=True)
    engine: Engine = field(kw_only=True)
    weights: FakeWeights = field(kw_only=True)
    transport: Transport = field(kw_only=True)
    patch: pytest.MonkeyPatch = field(kw_only=True)
    clock: Clock = field(kw_only=True)
    ticks: Ticks = field(kw_only=True)

    async def until_status(self, one: Any, *wanted: str) -> None:
        """As for a process, with the patience that a busy machine needs."""
        async with asyncio.timeout(180):
            while self.status_of(one) not in wanted:
                await asyncio.sleep(0.05)

    def hold(self, prompt: str) -> Any:
        """Make the engine wait in the middle of this prompt until the event is set."""
        return self.engine.gates.setdefault(prompt, threading.Event())

    async def held(self, name: str, prompt: str, **options: Any) -> Any:
        """A request that is being drawn, and stays so until `hold(prompt).set()`."""
        self.hold(prompt)
        asked = await self.imagine(name, prompt=prompt, **options)
        # With its progress on show nothing more is said of it until it ends, which faults put in the way then meet.
        await asked.wait_for(lambda one: "step 1 of" in one.text, timeout_s=60)
        return asked

    def job_id(self, asked: Any) -> str:
        return next(id for id, _, interaction in self.jobs() if interaction == asked.interaction.id)

    def posts(self, asked: Any) -> list[tuple[Any, ...]]:
        """The records of a result's messages: part, pictures, message id, done."""
        query = "SELECT part, pictures, message_id, done FROM posts WHERE job_id = ? ORDER BY part"
        return self._read(query, self.job_id(asked))

    def row(self, asked: Any, *columns: str) -> tuple[Any, ...]:
        """Columns of a request's row."""
        return self._read(f"SELECT {', '.join(columns)} FROM jobs WHERE interaction_id = ?", asked.interaction.id)[0]

    def _read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        path = self.bot.data_dir / "data" / "easel.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return database.execute(query, values).fetchall()


class Clock:
    """The bot's time of day: the real one and what a test adds."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Ticks:
    """The transport's seconds: the real ones and what a test adds."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@contextmanager
def logged(secrets: list[str]) -> Iterator[io.StringIO]:
    """Collect the bot's log as it would be written, everything discord.py says included."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(_TextFormatter(Redactor(secrets)))
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("bot", "discord")}
    root.addHandler(handler)
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        yield out
    finally:
        root.removeHandler(handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@asynccontextmanager
async def open_house(
    folder: Path, *, timing: Timing = QUICK, refused_calls: RefusedCalls | None = None,
    discord: LoopbackDiscord | None = None, **server: Any,
) -> AsyncIterator[House]:  # fmt: skip
    """Start a server and a bot, and stop both. `discord` puts the bot on a server that is there already."""
    with pytest.MonkeyPatch.context() as patch:
        if discord is None:
            async with LoopbackDiscord(heartbeat_interval_s=1.0, **server) as made, _bot(
                folder, made, patch, timing, refused_calls
            ) as house:  # fmt: skip
                yield house
        else:
            async with _bot(folder, discord, patch, timing, refused_calls) as house:
                yield house


@asynccontextmanager
async def _bot(
    folder: Path, discord: LoopbackDiscord, patch: pytest.MonkeyPatch, timing: Timing, refused: RefusedCalls | None
) -> AsyncIterator[House]:
    patch.setattr(Route, "BASE", discord.api_url)
    patch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", yarl.URL(discord.gateway_url))
    patch.setattr(messenger, "RETRY_DELAYS_S", (0.1, 0.1, 0.1))
    patch.setattr(delivery, "UNANSWERED_AGAIN_S", (0.1,) * 4)
    patch.setattr(delivery, "END_AGAIN_S", (0.1, 0.1))
    patch.setattr(delivery, "EDIT_INTERVAL_S", 0.1)
    folder.mkdir(parents=True, exist_ok=True)
    settings = read_settings({"DISCORD_TOKEN": discord.token, "EASEL_DATA_DIR": str(folder / "data")})
    settings.data_dir.mkdir(exist_ok=True)
    weights, ticks = FakeWeights(), Ticks()
    engine, clock, identified = Engine(), Clock(), len(discord.gateway.identified_at)
    machine = Machine(settings, CATALOGUE, weights, marker(), GpuThread(engine))
    machine.gpu.start()
    built: asyncio.Future[tuple[Easel, Transport]] = asyncio.get_running_loop().create_future()

    async def talk() -> None:
        # All of the bot comes from this task, in whose context the transport is installed.
        transport = Transport(timing=timing, refused_calls=refused, clock=ticks)
        easel = build(
            machine, patience=Patience(), fetch=no_fetch, classifier=Clean(), clock=clock, transport=transport
        )
        built.set_result((easel, transport))
        await easel.client.login(discord.token)
        await easel.client.connect()

    with logged([discord.token, HF_TOKEN]) as log:
        task = asyncio.create_task(talk())
        easel, transport = await built
        house = House(
            discord, InProcess(folder, log), easel=easel, engine=engine, weights=weights, transport=transport,  # type: ignore[arg-type]
            patch=patch, clock=clock, ticks=ticks,
        )  # fmt: skip
        try:

            def ready() -> bool:
                there = len(discord.gateway.identified_at) > identified and discord.gateway.connected
                return task.done() or there

            await discord.bell.until(ready, timeout_s=60, what="the bot")
            if task.done():
                await task
            await easel.client.wait_until_ready()
            yield house
        finally:
            for fault in discord.injections:
                fault.lift()
            for gate in (*engine.gates.values(), *weights.gates.values()):
                gate.set()
            await easel.drain(5.0)
            await easel.client.close()
            await transport.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.to_thread(machine.gpu.stop, 5.0)


async def no_fetch(url: str, max_bytes: int) -> bytes:
    """Fetch nothing; these tests attach nothing."""
    raise AssertionError(url)
