"""A sheet over models, on a catalogue of two that are here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.app import Machine, start_machine
from bot.config import read_settings
from tests.simcord.conftest import World
from tests.simcord.test_batch import job_of
from tests.support import labels, texts
from tests.unit.engine.fakes import POCKET

MODEL = """
[models.{id}]
name = "Model {id}"
source = "{source}"
family = "sd15"
licence = "MIT"
base_px = {size}
size_multiple = 8
max_side = {size}
steps = {steps}
sampler = "{sampler}"
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A GPU thread with two models that are nearly the same."""
    entries = (("one", 96, 3, "DDIM"), ("two", 128, 5, "Euler a"))
    text = "".join(
        MODEL.format(id=name, size=size, steps=steps, sampler=sampler, source=POCKET.as_posix())
        for name, size, steps, sampler in entries
    )
    (tmp_path / "two.toml").write_text(text)
    environment = {
        "EASEL_DATA_DIR": str(tmp_path / "data"),
        "EASEL_DEVICE": "cpu",
        "EASEL_MODELS_FILE": str(tmp_path / "two.toml"),
    }
    started = start_machine(read_settings(environment))
    started.gpu.ready.result(timeout=120)
    yield started
    started.gpu.stop(timeout_s=10)


async def test_grid_over_models_draws_each_with_its_defaults_and_again_does_so_too(world: World) -> None:
    asked: dict[str, Any] = {"prompt": "a blue star", "x": "model: one, two", "y": "seed: 3, 4"}
    message = await world.drawn(await world.ada.slash(world.channel, "grid", **asked))
    request = (await job_of(world, message)).request
    cells = [request.alone(n) for n in range(4)]
    assert [(cell.model, cell.num_inference_steps, cell.sampler, cell.width) for cell in cells[:2]] == [
        ("one", 3, "DDIM", 96), ("two", 5, "Euler a", 96),
    ]  # fmt: skip
    facts = texts(message.components)[-1]
    assert "96×96 · guidance 5 · model one, two × seed 3, 4" in facts
    assert labels(message.components) == ["Again", "Info", "Delete"]
    info = "\n".join(texts((await world.bob.click(message.message, label="Info")).response.components))
    assert "**Model**" not in info
    assert "**Compares** model one, two × seed 3, 4" in info
    again = await world.drawn(await world.bob.click(message.message, label="Again"))
    repeated = (await job_of(world, again)).request
    assert (repeated.variants, repeated.axes) == (request.variants, request.axes)


async def test_grid_over_models_of_which_one_is_too_small_says_which(world: World) -> None:
    answer = await world.ada.slash(world.channel, "grid", prompt="a blue star", x="model: two, one")
    assert answer.ephemeral
    assert answer.response.content == "model “one”: Model one draws at most 96 px a side; 128 is too large."
