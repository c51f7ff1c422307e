"""A bot that is shared by the tests which only use it, and bots of their own for those that stop, kill or misconfigure one.

All of them live on the session's event loop, as the shared one has to. It ends with this folder's tests: later ones may
keep the loop busy for so long that it would lose its gateway.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.loopback import BotProcess, LoopbackDiscord
from tests.loopback.stage import HF_TOKEN, ROOM, Stage

HEARTBEAT_S = 0.25

Raise = Callable[..., Awaitable[Stage]]


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def shared_stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One bot for many tests, which has drawn its first picture; it logs all it can, for the search for tokens."""
    environment = {"EASEL_LOG_LEVEL": "debug", "HF_TOKEN": HF_TOKEN, **ROOM}
    folder = tmp_path_factory.mktemp("bot")
    async with (
        LoopbackDiscord(heartbeat_interval_s=HEARTBEAT_S) as discord,
        BotProcess(discord, folder, environment=environment) as bot,
    ):
        await bot.ready()
        stage = Stage(discord, bot)
        await stage.draw("ada")
        yield stage
        assert await bot.terminate() == 0
        stage.check()


@pytest_asyncio.fixture(loop_scope="session")
async def stage(shared_stage: Stage) -> AsyncIterator[Stage]:
    """The shared bot, with nothing in its way before and nothing wrong after."""
    yield shared_stage
    for fault in shared_stage.discord.injections:
        fault.lift()
    for user in shared_stage.discord.users.values():
        user.dms_closed = False
    assert shared_stage.bot.returncode is None
    shared_stage.check()


@pytest_asyncio.fixture(loop_scope="session")
async def set_up(tmp_path: Path) -> AsyncIterator[Raise]:
    """Make a server and a bot of the test's own: `await set_up(environment, wait=False, arguments=…, **server)`."""
    made: list[Stage] = []
    async with AsyncExitStack() as stack:

        async def make(
            environment: Mapping[str, str] | None = None, *, wait: bool = True, start: bool = True,
            data_dir: Path | None = None, **server: Any,
        ) -> Stage:  # fmt: skip
            discord = await stack.enter_async_context(LoopbackDiscord(**server))
            folder = data_dir or tmp_path / f"bot-{len(made)}"
            bot = BotProcess(discord, folder, environment={"HF_TOKEN": HF_TOKEN, **ROOM, **(environment or {})})
            stack.push_async_callback(bot.kill)
            made.append(Stage(discord, bot))
            if start:
                await bot.start()
            if start and wait:
                await bot.ready()
            return made[-1]

        yield make
        for one in made:
            one.check()
