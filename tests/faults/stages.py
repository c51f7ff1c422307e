"""Bots of these tests' own: the victim of `tests/crash`, which does what its prompts and its folder of traps say."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.loopback import BotProcess, Invocation, LoopbackDiscord, Message
from tests.loopback.stage import HF_TOKEN, ROOM, Stage, is_drawn

VICTIM = ("-m", "tests.crash.victim")
START_S, ENDS_WITHIN_S = 400.0, 600.0
"""How long a start and a request may take, on a machine that has other things to do."""


class VictimStage(Stage):
    """A stage with a victim on it."""

    @property
    def traps(self) -> Path:
        return self.bot.data_dir / "traps"

    @property
    def database_path(self) -> Path:
        return self.bot.data_dir / "data" / "easel.db"

    @contextmanager
    def fault(self, name: str) -> Any:
        """Have a fault of `tests/crash/traps.py` for as long as the block lasts."""
        file = self.traps / f"fault-{name}"
        file.touch()
        try:
            yield
        finally:
            file.unlink()

    async def start(self) -> None:
        """Start the process, or start it again, and wait until it serves."""
        await self.bot.start()
        await self.bot.ready(timeout_s=START_S)

    async def drawn(self, one: Invocation) -> Message:
        """Wait for the pictures; gives their message."""
        await one.wait_for(is_drawn, timeout_s=ENDS_WITHIN_S)
        assert one.message is not None
        return one.message

    def row(self, interaction_id: int) -> dict[str, Any]:
        """The request's row."""
        with closing(sqlite3.connect(f"file:{self.database_path}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            return dict(database.execute("SELECT * FROM jobs WHERE interaction_id = ?", (interaction_id,)).fetchone())


Victims = Callable[..., Awaitable[VictimStage]]


def victim_of(discord: LoopbackDiscord, folder: Path, environment: Mapping[str, str] | None = None) -> VictimStage:
    """Make a victim, not yet started, on a server."""
    traps = {"VICTIM_TRAPS": str(folder / "traps"), "HF_TOKEN": HF_TOKEN}
    stage = VictimStage(
        discord, BotProcess(discord, folder, environment={**traps, **(environment or {})}, arguments=VICTIM)
    )
    stage.traps.mkdir(parents=True, exist_ok=True)
    return stage


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def shared_victim(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VictimStage]:
    """One victim for many tests, with room for four pictures at once."""
    async with LoopbackDiscord(heartbeat_interval_s=0.5) as discord:
        stage = victim_of(discord, tmp_path_factory.mktemp("victim"), ROOM)
        try:
            await stage.start()
            yield stage
            assert await stage.bot.terminate(timeout_s=60) == 0
        finally:
            await stage.bot.kill()
        stage.check()


@pytest_asyncio.fixture(loop_scope="session")
async def victim(shared_victim: VictimStage) -> AsyncIterator[VictimStage]:
    """The shared victim, which must outlive the test."""
    yield shared_victim
    for fault in shared_victim.discord.injections:
        fault.lift()
    assert shared_victim.bot.returncode is None
    shared_victim.check()


@pytest_asyncio.fixture(loop_scope="session")
async def victims(tmp_path: Path) -> AsyncIterator[Victims]:
    """Make a server and a victim of the test's own: `await victims(environment, start=False, **server)`."""
    made: list[VictimStage] = []
    async with AsyncExitStack() as stack:

        async def make(
            environment: Mapping[str, str] | None = None, *, start: bool = True, **server: Any
        ) -> VictimStage:
            discord = await stack.enter_async_context(LoopbackDiscord(**server))
            stage = victim_of(discord, tmp_path / f"bot-{len(made)}", environment)
            stack.push_async_callback(stage.bot.kill)
            made.append(stage)
            if start:
                await stage.start()
            return stage

        yield make
        for one in made:
            one.check()
