"""What a member does with `/grid`: one prompt over values, one sheet."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from bot.files.sheet import lay_out
from bot.generation import PostedTo
from bot.provenance import EASEL_KEY, parse_easel
from tests.simcord.conftest import World
from tests.simcord.test_batch import data_of, job_of
from tests.simcord.test_commands import last_answer
from tests.support import labels, texts

STAR = "a blue star on a yellow background"


async def test_grid_gives_one_labelled_sheet_that_says_what_it_compares(world: World) -> None:
    asked: dict[str, Any] = {"prompt": STAR, "x": "steps: 1, 2, 4", "y": "guidance: 1, 4", "seed": 7}
    message = await world.drawn(await world.ada.slash(world.channel, "grid", **asked))
    assert [a.filename[-6:] for a in message.attachments] == ["-1.png"]
    job = await job_of(world, message)
    assert [job.request.alone(n).seed for n in range(6)] == [7] * 6
    assert [(c.num_inference_steps, c.guidance_scale) for c in map(job.request.alone, (0, 2, 3))] == [
        (1, 1.0), (4, 1.0), (1, 4.0),
    ]  # fmt: skip
    image = Image.open(io.BytesIO(await data_of(world, message.attachments[0])))
    assert image.size == lay_out(job.request).size
    record = parse_easel(image.info[EASEL_KEY])
    assert record is not None
    assert record.alone == job.request
    assert "X Type: steps" in image.info["parameters"]
    assert labels(message.components) == ["Again", "Info", "Delete"]
    assert "steps 1, 2, 4 × guidance 1, 4" in texts(message.components)[-1]
    info = await world.bob.click(message.message, label="Info")
    assert "**Compares** steps 1, 2, 4 × guidance 1, 4" in "\n".join(texts(info.response.components))


async def test_grid_again_compares_the_same_with_another_seed_and_delete_takes_it(world: World) -> None:
    message = await world.drawn(await world.ada.slash(world.channel, "grid", prompt=STAR, x="steps: 1, 2"))
    again = await world.drawn(await world.bob.click(message.message, label="Again"))
    first, second = (await job_of(world, message)).request, (await job_of(world, again)).request
    assert (first.axes, first.count) == (second.axes, second.count)
    assert first.seed != second.seed
    for member, one in ((world.ada, message), (world.bob, again)):
        await member.click(one.message, label="Delete")
    assert not list((world.data_dir / "pictures").rglob("*.png"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"x": "10, 20"}, "x is “10, 20”; write what to compare"),
        ({"x": "colour: a, b"}, "x compares steps, guidance, sampler, seed, model, style, lora weight, not “colour”."),
        ({"x": "model: pocket, nonsuch"}, "model “nonsuch”: There is no model 'nonsuch'"),
        ({"x": "model: pocket, qwen-image"}, "model “qwen-image”: "),
        ({"x": "lora weight: 0, 1"}, "lora weight “0”: There is no LoRA to weigh"),
        ({"x": "steps: 1, two"}, "steps takes whole numbers, not “two”."),
        ({"x": "steps: 1, 500"}, "steps “500”: Steps goes from 1 to 100"),
        ({"x": "steps: 1, 2", "y": "sampler: Euler a, Nonsuch"}, "sampler “Nonsuch”: There is no sampler"),
        ({"x": "steps: 1, 2", "y": "steps: 3, 4"}, "Both sides compare steps"),
        ({"x": "steps: 1"}, "steps takes at least two values"),
        ({"x": "steps: 1, 2, 1"}, "steps has “1” twice"),
        ({"x": "seed: 1,2,3,4,5,6", "y": "steps: 1,2,3,4,5"}, "That makes 30 pictures; at most 25"),
        ({"x": "steps: 1, 2", "prompt": "naked child"}, "Easel does not draw"),
    ],
    ids=["no axis", "no option", "no model", "size of a model", "no lora", "no number", "too many steps", "y", "same", "one", "twice", "cells", "minors"],
)  # fmt: skip
async def test_grid_that_will_not_do_gets_one_private_sentence(
    world: World, options: dict[str, Any], words: str
) -> None:
    answer = last_answer(await world.ada.slash(world.channel, "grid", **{"prompt": STAR, **options}))
    assert answer.ephemeral
    assert words in answer.content
    assert len(answer.content) < 300
    assert not world.easel.service.overview(world.ada.id).mine


async def test_grid_over_styles_and_a_loras_weight_is_one_sheet_of_what_each_draws(world: World) -> None:
    asked: dict[str, Any] = {
        "prompt": STAR,
        "x": "lora weight: 0, 1",
        "y": "style: none, neon",
        "lora": "chalk",
        "steps": 4,
    }
    message = await world.drawn(await world.ada.slash(world.channel, "grid", **asked))
    request = (await job_of(world, message)).request
    cells = [request.alone(n) for n in range(4)]
    assert [(cell.style, cell.loras) for cell in cells] == [
        (style, (("chalk", weight),)) for style in ("", "neon") for weight in (0.0, 1.0)
    ]  # fmt: skip
    assert cells[2].told.prompt == f"{STAR}, neon lights, glowing at night"
    image = Image.open(io.BytesIO(await data_of(world, message.attachments[0])))
    layout = lay_out(request)
    drawn = []
    for n in range(4):
        left, top = layout.place(n)
        drawn.append(image.convert("RGB").crop((left, top, left + request.width, top + request.height)).tobytes())
    assert len(set(drawn)) == 4
    info = "\n".join(texts((await world.bob.click(message.message, label="Info")).response.components))
    assert "**LoRA** chalk\n" in info
    assert "**Compares** lora weight 0, 1 × style none, neon" in info


async def test_grid_autocomplete_offers_examples_then_the_names_that_may_come_next(world: World) -> None:
    async def offered(typed: str, side: str = "x") -> list[str]:
        return [choice["value"] for choice in await world.ada.autocomplete(world.channel, "grid", side, typed)]

    assert (await offered(""))[:2] == ["steps: 10, 20, 30", "guidance: 2, 5, 8"]
    assert await offered("model", "y") == ["model: pocket, sd15, sdxl"]
    assert await offered("model: pocket, turbo") == [
        "model: pocket, turbo", "model: pocket, sdxl-turbo", "model: pocket, z-image-turbo",
    ]  # fmt: skip
    assert (await offered("style:"))[:2] == ["style:", "style: none"]
    assert "style: none, neon" in await offered("style: none, ne")
    assert await offered("steps: 1,") == ["steps: 1,"]


class Doubtful:
    """Takes every third picture for an adult one."""

    threshold = 0.5
    asked = 0

    def score(self, picture: Any) -> float:
        self.asked += 1
        return 0.9 if self.asked % 3 == 0 else 0.1


@pytest.fixture
def classifier(request: pytest.FixtureRequest) -> Any:
    from bot.safety.classifier import OpenNsfw

    return Doubtful() if "adult" in request.node.name else OpenNsfw()


async def test_grid_with_one_adult_picture_is_withheld(world: World) -> None:
    asked = await world.ada.slash(world.channel, "grid", prompt=STAR, x="seed: 1, 2, 3", steps=1)
    await world.until(lambda: "classifier takes this" in texts(asked.response.components)[0], "the end")
    assert (await world.easel.service.history(world.ada.id, limit=1))[0].posted_to is PostedTo.WITHHELD
