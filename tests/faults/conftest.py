"""The bots these tests share: the loopback tests' own fixtures, one in this process, and one that says all it knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.house import House, open_house
from tests.faults.stages import shared_victim, victim, victims
from tests.loopback import BotProcess, LoopbackDiscord
from tests.loopback.conftest import set_up, shared_stage, stage
from tests.loopback.stage import HF_TOKEN, ROOM, Stage

__all__ = [
    "house", "loud_stage", "set_up", "shared_house", "shared_stage", "shared_victim", "stage", "victim", "victims"
]  # fmt: skip

FRESH_S = 1.0
"""How long a request may have waited before its member's rights are looked up; five seconds out of the box."""

LOUD = """
import logging
from bench import still
from bot import logs
from bot.exits import leave
from bot.scheduling import dispatcher

dispatcher.RIGHTS_FRESH_S = {fresh}
quiet = logs.set_up_logging

def loud(level, style, secrets):
    quiet(level, style, secrets)
    for name in ("discord", "discord.http", "discord.gateway", "aiohttp", "asyncio", "urllib3", "httpx"):
        logging.getLogger(name).setLevel(logging.DEBUG)

logs.set_up_logging = loud
leave(still.main(["engine", "classifier"]))
""".replace("{fresh}", str(FRESH_S))
"""The bot with every library's debug log on, which it keeps off itself, and without what takes the time: none of these
cases is about drawing."""

BUDGET = 66
"""Megapixel-steps a member and day: ten requests of BIG, and what the other tests draw."""
BIG: dict[str, Any] = {"width": 128, "height": 128, "steps": 100, "count": 4, "prompt": "a circle, drawn forever"}
"""6.5536 megapixel-steps, drawn until it is cancelled."""


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def loud_stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One bot with all debug logs and a budget of BUDGET; a test may kill it and start it again."""
    environment = {
        "EASEL_LOG_LEVEL": "debug", "EASEL_BUDGET_MEGAPIXEL_STEPS": str(BUDGET), "HF_TOKEN": HF_TOKEN, **ROOM
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("loud")
    async with (
        LoopbackDiscord() as discord,
        BotProcess(discord, folder, environment=environment, arguments=("-c", LOUD)) as bot,
    ):
        await bot.ready(timeout_s=180)
        yield Stage(discord, bot)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared_house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A bot in this process, shared by a module's tests."""
    async with open_house(tmp_path_factory.mktemp("house")) as house:
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def house(shared_house: House) -> AsyncIterator[House]:
    """The shared bot, with nothing in its way before and nothing wrong after."""
    yield shared_house
    for fault in shared_house.discord.injections:
        fault.lift()
    for gate in shared_house.engine.gates.values():
        gate.set()
    shared_house.engine.gates.clear()
    for user in shared_house.discord.users.values():
        user.dms_closed = False
    for channel in shared_house.discord.channels.values():
        channel.forbidden = channel.hidden = channel.deleted = False
    shared_house.clock.ahead *= 0
    shared_house.check()
