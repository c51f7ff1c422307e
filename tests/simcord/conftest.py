"""The whole bot on a simulated Discord, drawing with the built-in model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import discord
import pytest
import pytest_asyncio
import simcord

from bot.app import Easel, Machine, start_machine
from bot.config import read_settings
from bot.demo import as_discord, build_simulated
from bot.errors import EaselError
from bot.safety.classifier import OpenNsfw

PATIENCE_S = 60.0


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A GPU thread of the test's own; torch is imported by the first alone."""
    started = start(tmp_path)
    yield started
    started.gpu.stop(timeout_s=10)


def start(data_dir: Path, **more: str) -> Machine:
    """Start the machine on a data directory, as a fresh process would; four pictures fill it, and the next wait in line."""
    environment = {"EASEL_DATA_DIR": str(data_dir), "EASEL_DEVICE": "cpu", "EASEL_MAX_BATCH": "1", **more}
    machine = start_machine(read_settings(environment))
    machine.gpu.ready.result(timeout=120)
    return machine


@dataclass
class World:
    """A server with three members; eve moderates. `data_dir` outlives a restart of the bot."""

    env: simcord.Env
    easel: Easel
    guild: Any
    channel: Any
    ada: Any
    bob: Any
    eve: Any
    data_dir: Path

    async def until(self, happened: Callable[[], Any], what: str = "it") -> Any:
        """Let the bot work until `happened()` is true, and give what it gave."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            await self.env.settle(timeout=20)
            value = happened()
            if value:
                return value
            assert time.monotonic() < deadline, f"{what} did not happen:\n{self.env.transcript()[-3000:]}"
            await asyncio.sleep(0.02)

    async def drawn(self, result: Any) -> Any:
        """Wait until an answer shows its pictures; gives that message."""
        return await self.until(lambda: self.shows_pictures(result), "the pictures")

    @staticmethod
    def shows_pictures(result: Any) -> Any:
        """The answer's message, once its pictures are there."""
        message = result.response
        if message is not None and any(a.filename.startswith("easel-") for a in message.attachments):
            return message
        return None


def refusal(error: BaseException) -> bool:
    """Whether an error the simulator saw was one of ours, answered in words."""
    return isinstance(getattr(error, "original", error), EaselError)


@pytest.fixture
def classifier() -> Any:
    """The picture classifier in force; tests replace it."""
    return OpenNsfw()


@pytest_asyncio.fixture
async def world(machine: Machine, tmp_path: Path, classifier: Any) -> AsyncIterator[World]:
    """The bot, ready in a server."""
    easel, patience = build_simulated(machine, classifier=classifier)
    env = as_discord(simcord.Env(easel.client, settle_timeout=20))
    patience.env = env
    await env.start()
    guild = env.create_guild("Easel")
    channel = guild.create_text_channel("imagine")
    moderators = guild.create_role("Mods", permissions=discord.Permissions(manage_messages=True))
    ada, bob = (guild.add_member(env.create_user(name)) for name in ("ada", "bob"))
    eve = guild.add_member(env.create_user("eve"), roles=[moderators])
    try:
        yield World(env, easel, guild, channel, ada, bob, eve, tmp_path)
        unexpected = [error for error in env.errors if not refusal(error)]
        assert not unexpected, unexpected
    finally:
        patience.env = None
        await easel.drain(5.0)
        await env.shutdown()
