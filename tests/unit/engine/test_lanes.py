"""Lanes draw what diffusers' own pipelines draw: alone, and together with lanes that come and go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from bot.engine.families import Family, family_of
from bot.engine.lanes import Formation, Lane, new_lane
from bot.engine.samplers import build_scheduler, sampler_names
from bot.engine.timetables import read_timetable
from bot.generation import GenerationRequest
from tests.unit.engine import tiny
from tests.unit.engine.fakes import request

SAMPLERS = tuple(name for name in sampler_names("EulerDiscreteScheduler"))
FLOW_SAMPLERS = sampler_names("FlowMatchEulerDiscreteScheduler")


def asked(prompt: str = "a red circle", **changes: Any) -> GenerationRequest:
    values: dict[str, Any] = {"num_inference_steps": 5, "sampler": "Default", "guidance_scale": 3.5, **changes}
    return request(prompt, **values)


def family(name: str) -> Family:
    pipe = tiny.pipeline(name)
    found = family_of(pipe)
    assert found is not None
    return found(pipe)


def lane(drawer: Family, wanted: GenerationRequest) -> Lane:
    scheduler = build_scheduler(wanted.sampler, drawer.pipe.scheduler)
    drawer.set_timesteps(scheduler, wanted)
    return new_lane(
        drawer, read_timetable(scheduler), drawer.encode(wanted), owner=wanted, member=0, n=0, seed=wanted.seed,
        size=(wanted.width, wanted.height), model="tiny",
    )  # fmt: skip


def theirs(drawer: Family, wanted: GenerationRequest) -> torch.Tensor:
    """The latents that the pipeline's own call ends with."""
    pipe = drawer.pipe
    own = pipe.scheduler
    pipe.scheduler = build_scheduler(wanted.sampler, own)
    options: dict[str, Any] = {}
    if not type(pipe).__name__.startswith("Flux"):
        options["negative_prompt"] = wanted.negative_prompt or None
    try:
        return pipe(
            wanted.prompt, width=wanted.width, height=wanted.height, num_inference_steps=wanted.num_inference_steps,
            guidance_scale=wanted.guidance_scale, generator=torch.Generator().manual_seed(wanted.seed),
            output_type="latent", **options,
        ).images  # fmt: skip
    finally:
        pipe.scheduler = own


def same(ours: torch.Tensor, reference: torch.Tensor) -> None:
    assert ours.shape == reference.shape
    assert float((ours - reference).abs().max()) <= 1e-4 * max(1.0, float(reference.abs().max()))


@torch.inference_mode()
def drawn(drawer: Family, wanted: Sequence[GenerationRequest], starts: Sequence[int]) -> list[torch.Tensor]:
    """Draw requests together; each joins at its turn and leaves when it is done."""
    lanes = [lane(drawer, one) for one in wanted]
    running: Formation | None = None
    turn = 0
    while not all(one.done for one in lanes):
        present = [one for one, start in zip(lanes, starts, strict=True) if start <= turn and not one.done]
        if running is not None and not running.fits(present):
            running.dissolve()
            running = None
        if present:
            running = running or Formation(drawer, present)
            running.step()
        turn += 1
    if running is not None:
        running.dissolve()
    return [one.state[0][None] for one in lanes]


def cases() -> list[Any]:
    """Each family with each of its samplers: a few in every run, all in `make test-all`."""
    always = {("sd15", name) for name in ("Default", "DPM++ 2M Karras", "Euler a")} | {
        ("sdxl", "UniPC"),
        ("lcm", "LCM"),
    }
    always |= {("sdxl", "Heun"), ("sd3", "Default"), ("flux-dev", "Default"), ("flux-schnell", "Euler")}
    return [
        pytest.param(name, sampler, id=f"{name}-{sampler}", marks=() if (name, sampler) in always else pytest.mark.slow)
        for name in tiny.FAMILIES
        for sampler in (SAMPLERS if name in ("sd15", "lcm", "sdxl") else FLOW_SAMPLERS)
    ]


@pytest.mark.parametrize(("name", "sampler"), cases())
def test_lane_alone_equals_the_pipeline(name: str, sampler: str) -> None:
    drawer = family(name)
    wanted = asked(sampler=sampler, negative_prompt="blue")
    same(drawn(drawer, [wanted], [0])[0], theirs(drawer, wanted))


@pytest.mark.parametrize(("name", "sampler"), cases())
def test_lanes_that_come_and_go_equal_the_pipeline(name: str, sampler: str) -> None:
    drawer = family(name)
    wanted = [
        asked("a sunset over a beach", sampler=sampler, seed=1),
        asked("a cat", sampler=sampler, num_inference_steps=3, guidance_scale=7.0, seed=2, negative_prompt="a dog"),
        asked("two stars", sampler=sampler, num_inference_steps=7, guidance_scale=1.0, seed=3),
        asked("", sampler=sampler, num_inference_steps=1, guidance_scale=2.0, seed=4),
    ]
    together = drawn(drawer, wanted, [0, 1, 2, 4])
    for ours, one in zip(together, wanted, strict=True):
        same(ours, theirs(drawer, one))


def test_lanes_of_different_samplers_share_a_pass_and_equal_the_pipeline() -> None:
    drawer = family("sd15")
    wanted = [
        asked(f"number {n}", sampler=name, seed=n, num_inference_steps=3 + n % 4) for n, name in enumerate(SAMPLERS)
    ]
    calls = counted(drawer)
    together = drawn(drawer, wanted, [0] * len(wanted))
    assert calls[0] <= 2 * 6 + 1  # the longest of them, Heun, calls the denoiser twice a step
    for ours, one in zip(together, wanted, strict=True):
        same(ours, theirs(drawer, one))


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux-dev"])
def test_two_requests_at_different_steps_share_one_denoiser_call(name: str) -> None:
    drawer = family(name)
    calls = counted(drawer)
    drawn(
        drawer,
        [asked(num_inference_steps=6, sampler="Euler"), asked("a cat", num_inference_steps=4, sampler="Euler")],
        [0, 2],
    )
    assert calls[0] == 6


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_decode_equals_the_pipeline(name: str) -> None:
    drawer = family(name)
    wanted = asked(num_inference_steps=2)
    latents = theirs(drawer, wanted)
    with torch.inference_mode():
        ours = drawer.decode(latents, wanted.width, wanted.height)
    pipe = drawer.pipe
    own, pipe.scheduler = pipe.scheduler, build_scheduler(wanted.sampler, pipe.scheduler)
    picture = pipe(
        wanted.prompt, width=wanted.width, height=wanted.height, num_inference_steps=2, guidance_scale=wanted.guidance_scale,
        generator=torch.Generator().manual_seed(wanted.seed), output_type="np",
    ).images  # fmt: skip
    pipe.scheduler = own
    assert float((ours - torch.from_numpy(picture)).abs().max()) < 1e-4


def counted(drawer: Family) -> list[int]:
    """Count the denoiser's calls from here on."""
    calls = [0]
    original: Callable[..., Any] = drawer.denoiser.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return original(*args, **kwargs)

    drawer.denoiser.forward = forward
    return calls
