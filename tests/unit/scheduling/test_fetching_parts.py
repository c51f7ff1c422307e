"""What a request needs besides its model is fetched before it is drawn, and keeps nobody else waiting."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from bot.errors import ModelError
from bot.scheduling.events import Failed, Fetching, Rendered
from tests.unit.files.test_inputs import png
from tests.unit.scheduling.fakes import CATALOGUE, World


def world_with_controls(folder: Path) -> World:
    spec = replace(CATALOGUE["pocket"], controls={"canny": "owner/edges"})
    return World(folder, catalogue=replace(CATALOGUE, models=(spec, *CATALOGUE.models[1:])))


async def follows_lines(world: World) -> dict[str, Any]:
    picture = await world.service.take_input(png(Image.new("RGB", (64, 64), "red")), age_restricted=False)
    return {"control": picture.digest, "control_type": "raw canny"}


async def test_fetching_a_control_network_lets_others_go_on_and_is_told(tmp_path: Path) -> None:
    async with world_with_controls(tmp_path) as world:
        gate = world.weights.gates.setdefault("pocket+canny", threading.Event())
        job = await world.submit("along the lines", **await follows_lines(world))
        await world.heard(Rendered, (await world.submit("near")).id)
        assert (await world.heard(Fetching, job.id)).progress.model == "pocket+canny"
        gate.set()
        await world.heard(Rendered, job.id)
        await world.heard(Rendered, (await world.submit("again", **await follows_lines(world))).id)
        assert world.weights.fetched == ["pocket+canny"]


async def test_fetching_a_control_network_that_fails_fails_only_those_that_follow_it(tmp_path: Path) -> None:
    async with world_with_controls(tmp_path) as world:
        world.weights.errors["pocket+canny"] = ModelError("Accept the licence.")
        job = await world.submit("along the lines", **await follows_lines(world))
        plain = await world.submit("plain")
        assert (await world.heard(Failed, job.id)).job.error == "Accept the licence."
        await world.heard(Rendered, plain.id)


async def test_control_network_that_went_away_is_looked_for_again(tmp_path: Path) -> None:
    async with world_with_controls(tmp_path) as world:
        await world.heard(Rendered, (await world.submit("lines", **await follows_lines(world))).id)
        world.weights.local.discard("pocket+canny")
        world.engine.errors["broken"] = ModelError("It is gone.")
        await world.heard(Failed, (await world.submit("broken", **await follows_lines(world))).id)
        await world.heard(Rendered, (await world.submit("again", **await follows_lines(world))).id)
        assert world.weights.fetched == ["pocket+canny"] * 2
