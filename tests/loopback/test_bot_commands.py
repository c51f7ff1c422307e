"""The registered commands: the same from the real process, from the demo and from the cogs; written only where they differ."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import simcord

from bot.app import Machine, start_machine
from bot.client import same_commands
from bot.config import read_settings
from bot.demo import build_simulated
from tests.loopback.stage import Stage
from tests.support import registered_commands

pytestmark = pytest.mark.asyncio(loop_scope="session")


def plain(payloads: Sequence[Any]) -> dict[str, Any]:
    """The payloads by name, without what only Discord adds."""
    added = {"id", "application_id", "version", "guild_id"}
    return {one["name"]: {key: value for key, value in one.items() if key not in added} for one in payloads}


async def demo_commands(folder: Path) -> list[dict[str, Any]]:
    """What the demo's bot registers with the simulated Discord."""
    machine: Machine = await asyncio.to_thread(
        start_machine, read_settings({"EASEL_DATA_DIR": str(folder), "EASEL_DEVICE": "cpu"})
    )
    easel, patience = build_simulated(machine)
    env = simcord.Env(easel.client, check_errors=False)
    patience.env = env
    await env.start()
    try:
        return [dict(one) for one in env.backend.commands[None].values()]
    finally:
        patience.env = None
        await easel.drain(5.0)
        await env.shutdown()
        await asyncio.to_thread(machine.gpu.stop, 10.0)


async def test_commands_of_run_and_demo_are_the_same(stage: Stage, tmp_path: Path) -> None:
    registered = stage.discord.calls("PUT", "/commands")[0].body
    demo = await demo_commands(tmp_path)
    assert {"imagine", "queue", "cancel", "models", "history", "info", "help"} <= set(plain(registered))
    assert set(plain(demo)) == set(plain(registered))
    assert same_commands(registered, demo)
    assert same_commands(registered, await registered_commands())
    imagine = {option["name"] for option in plain(demo)["imagine"]["options"]}
    assert imagine == {option["name"] for option in plain(registered)["imagine"]["options"]}
    assert imagine == {
        "prompt", "negative_prompt", "model", "aspect", "width", "height", "count", "steps", "guidance", "seed",
        "sampler", "style", "lora", "image", "strength", "mask", "control", "control_type", "control_scale", "reference", "tiling", "quality",
        "private", "spoiler",
    }  # fmt: skip


async def test_commands_that_differ_in_one_word_are_seen_as_different(stage: Stage) -> None:
    registered = stage.discord.calls("PUT", "/commands")[0].body
    changed = [{**one, "description": "something else"} if one["name"] == "queue" else one for one in registered]
    assert not same_commands(registered, changed)


async def test_commands_were_registered_once_by_the_first_start(stage: Stage) -> None:
    assert stage.discord.command_calls("PUT") == 1
    assert stage.discord.command_calls("GET") == 1
    assert stage.discord.gateway.identify is not None
    privileged = 1 << 1 | 1 << 8 | 1 << 15
    assert stage.discord.gateway.identify["intents"] & privileged == 0
