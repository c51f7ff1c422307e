"""Lanes draw what diffusers' own pipelines draw: alone, and together with lanes that come and go."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from bot.engine.families import Family, family_of
from bot.engine.families.flux2 import Flux2Klein
from bot.engine.lanes.lane import Formation, Lane, new_lane
from bot.engine.lanes.networks import Network
from bot.engine.lanes.samplers import build_scheduler, sampler_names
from bot.engine.lanes.timetables import read_timetable
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
    drawer = found(pipe)
    if name.startswith(("flux2", "z-image")):
        drawer.max_sequence_length = tiny.PROMPT_TOKENS  # type: ignore[attr-defined]
    return drawer


def takes_negative_prompt(pipe: Any) -> bool:
    takes = inspect.signature(type(pipe).__call__).parameters
    return "negative_prompt" in takes and "true_cfg_scale" not in takes


def lane(drawer: Family, wanted: GenerationRequest) -> Lane:
    if not takes_negative_prompt(drawer.pipe):
        wanted = replace(wanted, negative_prompt="")  # as the engine does, told so by the catalogue
    scheduler = build_scheduler(wanted.sampler, drawer.pipe.scheduler)
    drawer.set_timesteps(scheduler, wanted)
    return new_lane(
        drawer, read_timetable(scheduler), drawer.encode(wanted), owner=wanted, member=0, n=0, seed=wanted.seed,
        size=(wanted.width, wanted.height), model="tiny", guidance_until=wanted.guidance_end,
    )  # fmt: skip


def theirs(drawer: Family, wanted: GenerationRequest, output_type: str = "latent", **more: Any) -> torch.Tensor:
    """What the pipeline's own call, told this and `more`, ends with."""
    pipe = drawer.pipe
    own = pipe.scheduler
    pipe.scheduler = build_scheduler(wanted.sampler, own)
    if hasattr(pipe.scheduler, "noise_sampler_seed"):
        pipe.scheduler.noise_sampler_seed = wanted.seed  # it takes no generator
    takes = inspect.signature(type(pipe).__call__).parameters
    options: dict[str, Any] = {**more}
    if takes_negative_prompt(pipe):
        options["negative_prompt"] = wanted.negative_prompt or None
    if "max_sequence_length" in takes:
        options["max_sequence_length"] = drawer.max_sequence_length  # type: ignore[attr-defined]
    try:
        return pipe(
            prompt=wanted.prompt, width=wanted.width, height=wanted.height, num_inference_steps=wanted.num_inference_steps,
            guidance_scale=wanted.guidance_scale, generator=torch.Generator().manual_seed(wanted.seed),
            output_type=output_type, **options,
        ).images  # fmt: skip
    finally:
        pipe.scheduler = own


def same(ours: torch.Tensor, reference: torch.Tensor) -> None:
    assert ours.shape == reference.shape
    assert float((ours - reference).abs().max()) <= 1e-4 * max(1.0, float(reference.abs().max()))


@torch.inference_mode()
def drawn(
    drawer: Family, wanted: Sequence[GenerationRequest], starts: Sequence[int], network: Network | None = None
) -> list[torch.Tensor]:
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
            running = running or Formation(drawer, present, network)
            running.step()
        turn += 1
    if running is not None:
        running.dissolve()
    latents = [one.state[0][None] for one in lanes]
    if isinstance(drawer, Flux2Klein):  # its pipeline's "latent" is already on the VAE's scale
        return [drawer.unpacked(each, one.width, one.height) for each, one in zip(latents, wanted, strict=True)]
    return latents


IN_EVERY_RUN = {
    ("sd15", "Default"), ("sd15", "DPM++ 2M Karras"), ("sd15", "DPM++ SDE"), ("sd21", "Euler a"), ("lcm", "Default"),
    ("sdxl", "UniPC"), ("sdxl", "Heun"), ("sdxl-turbo", "Default"), ("sdxl-lightning", "LMS Karras"),
    ("sdxl-lcm", "Default"), ("sd3", "Default"), ("flux-dev", "Default"), ("flux-schnell", "Euler"),
    ("flux2-klein", "Default"), ("flux2-klein-base", "Euler"), ("z-image", "Default"),
}  # fmt: skip


def cases() -> list[Any]:
    """Each family with each of its samplers: every family and every kind of sampler in each run, all pairs in `make test-all`."""
    return [
        pytest.param(
            name, sampler, id=f"{name}-{sampler}", marks=() if (name, sampler) in IN_EVERY_RUN else pytest.mark.slow
        )
        for name in tiny.FAMILIES
        for sampler in (SAMPLERS if name in tiny.DIFFUSION else FLOW_SAMPLERS)
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


# The schedulers of DPM2 take long to make, and Karras changes no more than numbers.
OF_EACH_KIND = [name for name in SAMPLERS if not name.endswith("Karras") and name != "DPM2"]


@pytest.mark.parametrize(
    "samplers", [OF_EACH_KIND, pytest.param(SAMPLERS, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_lanes_of_different_samplers_share_a_pass_and_equal_the_pipeline(samplers: Sequence[str]) -> None:
    drawer = family("sd15")
    wanted = [
        asked(f"number {n}", sampler=name, seed=n, num_inference_steps=3 + n % 2) for n, name in enumerate(samplers)
    ]
    calls = counted(drawer)
    together = drawn(drawer, wanted, [0] * len(wanted))
    assert calls[0] == 2 * 4 - 1  # the longest of them call the denoiser twice a step, and once in the last
    for ours, one in zip(together, wanted, strict=True):
        same(ours, theirs(drawer, one))


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux-dev", "flux2-klein", "z-image"])
def test_two_requests_at_different_steps_share_one_denoiser_call(name: str) -> None:
    drawer = family(name)
    calls = counted(drawer)
    drawn(
        drawer,
        [
            asked("a sunset over a beach", num_inference_steps=6, sampler="Euler"),
            asked("a cat", num_inference_steps=4, sampler="Euler"),
        ],
        [0, 2],
    )
    assert calls[0] == 6


def test_lanes_of_a_size_and_its_upright_twin_do_not_share_a_pass() -> None:
    """FLUX packs both into the same shape, but a formation tells all its rows the same places."""
    drawer = family("flux-dev")
    wide, upright = (lane(drawer, asked(width=width, height=160 - width)) for width in (96, 64))
    assert wide.state.shape == upright.state.shape
    assert wide.key != upright.key


@pytest.mark.parametrize(
    ("name", "guidance", "expected"),
    [("flux-dev", 3.5, True), ("flux-schnell", 0.0, True), ("flux-schnell", 3.5, False), ("sd15", 7.0, True)],
)
def test_expresses_guidance_that_a_flux_model_is_not_told_is_left_to_its_pipeline(
    name: str, guidance: float, expected: bool
) -> None:
    assert family(name).expresses(asked(guidance_scale=guidance)) is expected


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux-dev", "flux2-klein", "z-image"])
def test_decode_equals_the_pipeline(name: str) -> None:
    drawer = family(name)
    wanted = asked(num_inference_steps=2)
    with torch.inference_mode():
        one = lane(drawer, wanted)
        formation = Formation(drawer, [one])
        while not one.done:
            formation.step()
        formation.dissolve()
        ours = drawer.decode(one.state[:1], wanted.width, wanted.height)
    assert float((ours - torch.from_numpy(theirs(drawer, wanted, "np"))).abs().max()) < 1e-4


def test_decode_sdxl_in_fp16_is_done_in_fp32_and_leaves_the_vae_as_it_was() -> None:
    drawer = family("sdxl")
    wanted = asked(num_inference_steps=2)
    latents = theirs(drawer, wanted)
    with torch.inference_mode():
        exact = drawer.decode(latents, wanted.width, wanted.height)
        drawer.pipe.vae.to(torch.float16)
        ours = drawer.decode(latents, wanted.width, wanted.height)
    assert drawer.pipe.vae.dtype == torch.float16
    assert float((ours - exact).abs().max()) < 0.01


def counted(drawer: Family) -> list[int]:
    """Count the denoiser's calls from here on."""
    calls = [0]
    original: Callable[..., Any] = drawer.denoiser.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return original(*args, **kwargs)

    drawer.denoiser.forward = forward
    return calls
