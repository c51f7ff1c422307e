"""Guidance that is dropped before the end: as diffusers' own loop does it by its step callback."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from bot.engine.families import Family
from bot.engine.lanes.lane import Formation, Lane
from bot.engine.lanes.samplers import build_scheduler
from bot.generation import GenerationRequest
from tests.unit.engine.fakes import Notes, request
from tests.unit.engine.test_engine_families import engine_of
from tests.unit.engine.test_lanes import asked, counted, family, lane, same

BY_ROW = ("prompt_embeds", "add_text_embeds", "add_time_ids", "pooled_prompt_embeds")


def theirs(drawer: Family, wanted: GenerationRequest, guided: int) -> torch.Tensor:
    """The pipeline's own call, whose guidance is switched off after so many steps, as diffusers' guide to callbacks does it."""
    pipe: Any = drawer.pipe
    names = [name for name in BY_ROW if name in pipe._callback_tensor_inputs]

    def drop(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == guided - 1:
            pipe._guidance_scale = 0.0
            values.update({name: values[name].chunk(2)[-1] for name in names})
        return values

    own, pipe.scheduler = pipe.scheduler, build_scheduler(wanted.sampler, pipe.scheduler)
    try:
        return pipe(
            wanted.prompt, negative_prompt=wanted.negative_prompt or None, width=wanted.width, height=wanted.height,
            num_inference_steps=wanted.num_inference_steps, guidance_scale=wanted.guidance_scale,
            generator=torch.Generator().manual_seed(wanted.seed), output_type="latent", callback_on_step_end=drop,
            callback_on_step_end_tensor_inputs=["latents", *names],
        ).images  # fmt: skip
    finally:
        pipe.scheduler = own


@torch.inference_mode()
def together(drawer: Family, lanes: list[Lane]) -> list[torch.Tensor]:
    """Draw lanes to their ends, in one formation for as long as they are guided alike."""
    while present := [one for one in lanes if not one.done]:
        running = Formation(drawer, present)
        while running.fits(present) and not any(one.done for one in present):
            running.step()
        running.dissolve()
    return [one.state[0][None] for one in lanes]


@pytest.mark.parametrize(("name", "sampler"), [("sd15", "Euler a"), ("sdxl", "DPM++ 2M"), ("sd3", "Default")])
def test_guidance_end_alone_and_beside_a_guided_lane_equals_the_pipelines_loop(name: str, sampler: str) -> None:
    drawer = family(name)
    wanted = asked(sampler=sampler, num_inference_steps=5, negative_prompt="blue", guidance_end=0.4)
    beside = asked("a cat", sampler=sampler, num_inference_steps=4, seed=3)
    reference = theirs(drawer, wanted, 2)
    assert float((reference - theirs(drawer, wanted, 5)).abs().max()) > 1e-2
    calls = counted(drawer)
    same(together(drawer, [lane(drawer, wanted)])[0], reference)
    assert calls[0] == 5
    ours = together(drawer, [lane(drawer, wanted), lane(drawer, beside)])
    same(ours[0], reference)
    same(ours[1], theirs(drawer, beside, 4))


def test_guidance_end_of_a_request_reaches_its_lanes_and_saves_rows(monkeypatch: Any, tmp_path: Any) -> None:
    engine, _ = engine_of("sdxl", tmp_path, monkeypatch)
    wanted = request(model="tiny", sampler="Default", num_inference_steps=6)
    engine.generate(wanted, Notes())
    engine.generate(replace(wanted, guidance_end=0.5), Notes())
    assert engine.metrics.models[0].rows == 12 + 9
