"""*Vary region*: a grid over a result, squares chosen, a form, and a picture that is another one there alone."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bot.demo import build_simulated
from bot.generation import Actor
from bot.prompts.regions import grid_over
from tests.simcord.conftest import World, start
from tests.simcord.test_commands import last_answer
from tests.simcord.test_pictures import STAR, job_of
from tests.support import labels, texts


async def pixels(world: World, message: Any) -> np.ndarray:
    data = await world.easel.client.http.get_from_cdn(message.attachments[0].url)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def selects(message: Any) -> dict[str, Any]:
    """The selects of a message by what they are called."""
    rows = [row for part in message.components for row in part.get("components", []) if row["type"] == 1]
    return {item["placeholder"]: item for row in rows for item in row["components"] if item["type"] == 3}


async def choose(world: World, member: Any, opened: Any, placeholder: str, *values: str) -> Any:
    """Choose in one of the selects of an open grid; what it shows then."""
    shown = last_answer(opened)
    await member.select(shown.message, list(values), custom_id=selects(shown)[placeholder]["custom_id"])
    return last_answer(opened)


def said(message: Any) -> str:
    return "\n".join(texts(message.components))


async def draw(world: World, **options: Any) -> Any:
    return await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=STAR, **{"steps": 1, **options}))


async def test_vary_region_redraws_the_chosen_squares_and_nothing_else(world: World) -> None:
    message = await draw(world, steps=4, seed=5)
    source = await job_of(world, message)
    opened = await world.bob.click(message.message, label="Vary region")
    shown = last_answer(opened)
    assert shown.ephemeral
    assert [file.filename for file in shown.attachments] == ["region.jpg"]
    assert list(selects(shown)) == ["Squares", "Or a region"]
    assert [option["label"] for option in selects(shown)["Squares"]["options"]][:5] == ["A1", "B1", "C1", "D1", "A2"]
    chosen = await choose(world, world.bob, opened, "Squares", "6", "10")
    assert "**Redraw C2, C3**" in said(chosen)
    form = await world.bob.click(chosen.message, label="Redraw…")
    values = {"prompt": "a red circle", "negative_prompt": "", "more": "strength: 1\nsteps: 6"}
    drawn = await world.drawn(await world.bob.submit_modal(form, values))
    request = (await job_of(world, drawn)).request
    assert (request.prompt, request.num_inference_steps, request.count) == ("a red circle", 6, 1)
    assert request.seed != source.request.seed
    before, after = await pixels(world, message), await pixels(world, drawn)
    grid = grid_over(128, 128)
    inside = np.zeros((128, 128), bool)
    for square in (6, 10):
        left, upper, right, lower = grid.box(square)
        inside[upper:lower, left:right] = True
    assert (before[~inside] == after[~inside]).all()
    assert abs(before[inside] - after[inside]).mean() > 5
    info = await world.ada.click(drawn.message, label="Info")
    assert "**From a picture** strength 1, a part of it" in "\n".join(texts(info.response.components))


async def test_vary_region_of_several_pictures_switches_between_them_and_keeps_the_choice(world: World) -> None:
    message = await draw(world, count=2, width=160, height=104, negative_prompt="fog")
    assert labels(message.components)[:5] == ["Upscale 1", "Upscale 2", "Vary 1", "Vary 2", "Vary region"]
    opened = await world.ada.click(message.message, label="Vary region")
    assert list(selects(last_answer(opened))) == ["Picture", "Squares", "Or a region"]
    chosen = await choose(world, world.ada, opened, "Or a region", "Top row")
    assert "**Redraw A1, B1, C1, D1, E1, F1**" in said(chosen)
    marked = [option["label"] for option in selects(chosen)["Squares"]["options"] if option.get("default")]
    assert marked == ["A1", "B1", "C1", "D1", "E1", "F1"]
    switched = await choose(world, world.ada, opened, "Picture", "1")
    assert "**Redraw A1, B1" in said(switched)
    form = await world.ada.click(switched.message, label="Redraw…")
    assert STAR in str(form.modal)
    values = {"prompt": STAR, "negative_prompt": "", "more": "strength: 0.8\nsteps: 5\ncount: 2"}
    drawn = await world.drawn(await world.ada.submit_modal(form, values))
    request = (await job_of(world, drawn)).request
    assert (request.strength, request.count, request.negative_prompt) == (0.8, 2, "")
    second = await job_of(world, message)
    with Image.open(second.files[1].path) as file:
        before = np.asarray(file.convert("RGB"))
    assert (before[24:] == (await pixels(world, drawn))[24:]).all()


async def test_vary_region_without_a_square_says_so(world: World) -> None:
    opened = await world.ada.click((await draw(world)).message, label="Vary region")
    refused = await world.ada.click(last_answer(opened).message, label="Redraw…")
    assert refused.ephemeral
    assert "Choose at least one square first" in last_answer(refused).content
    await choose(world, world.ada, opened, "Squares", "3")
    emptied = await choose(world, world.ada, opened, "Squares")
    assert "**Redraw a part**" in said(emptied)


async def test_vary_region_begun_before_a_restart_goes_on_after_it(world: World) -> None:
    message = await draw(world)
    opened = await world.bob.click(message.message, label="Vary region")
    await choose(world, world.bob, opened, "Squares", "0")
    await world.easel.drain(5.0)
    easel, patience = build_simulated(start(world.data_dir))
    patience.env = world.env
    await world.env.restart_bot(easel.client)
    try:
        chosen = await choose(world, world.bob, opened, "Squares", "5")
        assert "**Redraw B2**" in said(chosen)
        form = await world.bob.click(chosen.message, label="Redraw…")
        values = {"prompt": "a red circle", "negative_prompt": "", "more": "steps: 2"}
        drawn = await world.drawn(await world.bob.submit_modal(form, values))
        request = (await easel.service.get(drawn.attachments[0].filename.split("-")[1])).request
        assert request.mask
    finally:
        patience.env = None
        await easel.drain(5.0)


async def test_vary_region_of_a_picture_that_went_says_so_at_every_press(world: World) -> None:
    message = await draw(world)
    opened = await world.bob.click(message.message, label="Vary region")
    chosen = await choose(world, world.bob, opened, "Squares", "5")
    form = await world.bob.click(chosen.message, label="Redraw…")
    job = await job_of(world, message)
    await world.easel.service.delete(job.id, Actor(world.ada.id))
    custom_id = selects(chosen)["Squares"]["custom_id"]
    values = {"prompt": "a red circle", "negative_prompt": "", "more": ""}
    for refused in (
        await world.bob.click(message.message, label="Vary region"),
        await world.bob.select(chosen.message, ["1"], custom_id=custom_id),
        await world.bob.click(chosen.message, label="Redraw…"),
        await world.bob.submit_modal(form, values),
    ):
        assert refused.ephemeral
        assert "no longer kept" in last_answer(refused).content


async def test_vary_region_refused_form_hands_the_prompt_back(world: World) -> None:
    opened = await world.ada.click((await draw(world)).message, label="Vary region")
    chosen = await choose(world, world.ada, opened, "Or a region", "Centre")
    form = await world.ada.click(chosen.message, label="Redraw…")
    values = {"prompt": "a long considered prompt", "negative_prompt": "", "more": "strength: 0"}
    refused = await world.ada.submit_modal(form, values)
    assert refused.ephemeral
    assert "Strength goes from just above 0" in refused.response.content
    assert "a long considered prompt" in refused.response.content


async def test_vary_region_shows_no_withheld_adult_picture(world: World) -> None:
    message = await draw(world, count=2, seed=5)
    job = await job_of(world, message)
    assert [file.flagged for file in job.files] == [True, False]
    opened = await world.ada.click(message.message, label="Vary region")
    shown = last_answer(opened)
    assert list(selects(shown)) == ["Squares", "Or a region"]
    assert f":{job.id}:2:0" in selects(shown)["Squares"]["custom_id"]


class Prudish:
    """Takes the picture of seed 5 for an adult one."""

    threshold = 0.5

    def score(self, picture: Any) -> float:
        return 0.9 if picture.seed == 5 else 0.1


@pytest.fixture
def classifier(request: pytest.FixtureRequest) -> Any:
    from bot.safety.classifier import OpenNsfw

    return Prudish() if "adult" in request.node.name else OpenNsfw()
