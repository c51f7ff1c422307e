"""Weights, blends and long prompts equal what the pipelines draw with Compel's own embeddings, beside lanes of plain words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import compel
import numpy as np
import pytest
import torch

from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.families import Family
from bot.prompts.weights import read_weights
from tests.unit.engine.fakes import Notes, request
from tests.unit.engine.test_diffusers_engine import pixels
from tests.unit.engine.test_lanes import asked, drawn, family, same

LONG = ", ".join(f"a house with {n} windows and a red door" for n in range(16))
CASES = {
    "weight": ("a (red:1.4) circle", "a (red)1.4 circle"),
    "less": ("a [red] circle", "a (red)0.9091 circle"),
    "signs": ("a red++ circle", "a (red)1.21 circle"),
    "nested": ("a (big (red:1.2) door:1.1)", "a (big )1.1(red)1.32( door)1.1"),
    "blend": ('("a red circle", "a blue square").blend(0.7, 0.3)', '("a red circle", "a blue square").blend(0.7, 0.3)'),
    "long": (LONG, LONG),
}


def theirs(drawer: Family, wanted: Any, compels: str) -> torch.Tensor:
    """The pipeline's own call with embeddings that Compel made of its own spelling."""
    library: Any = compel
    pipe = drawer.pipe
    negative = wanted.negative_prompt
    options: dict[str, Any]
    if hasattr(pipe, "text_encoder_2"):
        teller = library.CompelForSDXL(pipe)
        made = teller(compels, negative_prompt=negative)
        options = {
            # Compel pools the prompt with its brackets and numbers; ours, the words alone.
            "pooled_prompt_embeds": teller(read_weights(wanted.prompt).words).pooled_embeds,
            "negative_pooled_prompt_embeds": made.negative_pooled_embeds,
        }
    else:
        made, options = library.CompelForSD(pipe)(compels, negative_prompt=negative), {}
    return pipe(
        prompt_embeds=made.embeds, negative_prompt_embeds=made.negative_embeds, width=wanted.width, height=wanted.height,
        num_inference_steps=wanted.num_inference_steps, guidance_scale=wanted.guidance_scale,
        generator=torch.Generator().manual_seed(wanted.seed), output_type="latent", **options,
    ).images  # fmt: skip


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize("case", CASES)
def test_lane_with_weights_equals_the_pipeline_with_compels_embeddings_beside_plain_lanes(name: str, case: str) -> None:
    drawer = family(name)
    ours, compels = CASES[case]
    wanted = asked(ours, negative_prompt="a blue house")
    plain = asked("a cat", seed=9, negative_prompt="")
    if case == "long":  # more tokens than its neighbour's: they take turns
        same(drawn(drawer, [wanted], [0])[0], theirs(drawer, wanted, compels))
        return
    weighted, beside = drawn(drawer, [wanted, plain], [1, 0])
    same(weighted, theirs(drawer, wanted, compels))
    same(beside, drawn(drawer, [plain], [0])[0])


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_lane_with_plain_brackets_taken_away_is_the_plain_prompt(name: str) -> None:
    drawer = family(name)
    escaped, plain = asked(r"a \(red\) circle"), asked("a (red circle")
    first = drawn(drawer, [escaped], [0])[0]
    from tests.unit.engine.test_lanes import theirs as plainly

    same(first, plainly(drawer, replace(escaped, prompt="a (red) circle")))
    same(drawn(drawer, [plain], [0])[0], plainly(drawer, plain))


def test_pocket_more_of_a_colour_moves_the_picture(engine: DiffusersEngine) -> None:
    def picture(weight: float) -> np.ndarray:
        wanted = request(f"a (red:{weight}) circle on a white background", width=96, height=96, num_inference_steps=12,
                         guidance_scale=4.0, sampler="DDIM", seed=4)  # fmt: skip
        return pixels(engine.generate(wanted, Notes()).pictures[0]).astype(float)

    weak, plain, strong = picture(0.5), picture(1.0), picture(1.5)
    assert np.abs(strong - weak).mean() > 3
    redness = [float((image[..., 0] - image[..., 1:].mean(-1)).mean()) for image in (weak, plain, strong)]
    assert redness[0] < redness[2]
