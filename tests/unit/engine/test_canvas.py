"""Lanes that begin from a picture, keep to a mask or follow a control map equal diffusers' own pipelines, beside lanes of words alone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from bot.engine.families import Family, family_of
from bot.engine.lanes.canvas import Hint, feathered, floats, make_canvas, planes
from bot.engine.lanes.lane import Formation, Lane, new_lane
from bot.engine.lanes.samplers import build_scheduler
from bot.engine.lanes.timetables import read_timetable
from bot.generation import GenerationRequest, InputPictures, RawPicture
from tests.unit.engine import tiny
from tests.unit.engine.test_lanes import asked, same, takes_negative_prompt
from tests.unit.engine.test_lanes import lane as plain_lane

SIZE = 64
FROM_PICTURES = ("sd15", "lcm", "sdxl", "sd3", "flux-dev")
SAMPLERS = (
    "Default",
    "Euler",
    "Euler a",
    "DPM++ 2M Karras",
    "DPM++ 2M SDE",
    "DPM++ SDE",
    "UniPC",
    "DDIM",
    "Heun",
    "LMS",
)


def raw(image: Image.Image) -> RawPicture:
    rgb = image.convert("RGB")
    return RawPicture(0, 0, rgb.width, rgb.height, rgb.tobytes())


def photo(seed: int = 3) -> Image.Image:
    """Soft patches of colour."""
    small = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def hole() -> Image.Image:
    """White where it is to be redrawn: a square that is no multiple of a latent."""
    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(255, (18, 22, 45, 50))
    return mask


@functools.cache
def family(name: str, *, inpainting: bool = False) -> Family:
    pipe = tiny.pipeline(name)
    if inpainting:
        pipe = tiny.inpainting(name)
    found = family_of(pipe)
    assert found is not None
    return found(pipe)


@functools.cache
def control_network(name: str) -> Any:
    torch.manual_seed(5)
    library: Any = diffusers
    network = library.ControlNetModel.from_unet(tiny.pipeline(name).unet, conditioning_embedding_out_channels=(8, 16))
    for part in [
        *network.controlnet_down_blocks,
        network.controlnet_mid_block,
        network.controlnet_cond_embedding.conv_out,
    ]:
        torch.nn.init.normal_(part.weight, std=0.05)
    return network.eval().requires_grad_(False)


def lane(drawer: Family, wanted: GenerationRequest, inputs: InputPictures, network: Any = None) -> Lane:
    if not takes_negative_prompt(drawer.pipe):
        wanted = replace(wanted, negative_prompt="")
    scheduler = build_scheduler(wanted.sampler, drawer.pipe.scheduler)
    drawer.set_timesteps(scheduler, wanted)
    canvas = make_canvas(drawer, inputs, wanted.strength)
    begin = None
    if canvas is not None:
        begin = drawer.first_step(wanted.num_inference_steps, wanted.strength) * getattr(scheduler, "order", 1)
    hint = None
    if inputs.control is not None:
        hint = Hint(network, planes(floats(inputs.control)), wanted.control_scale)
    return new_lane(
        drawer, read_timetable(scheduler, begin), drawer.encode(wanted), owner=wanted, member=0, n=0, seed=wanted.seed,
        size=(wanted.width, wanted.height), model="tiny", canvas=canvas, hint=hint,
    )  # fmt: skip


@torch.inference_mode()
def together(drawer: Family, lanes: Sequence[Lane], starts: Sequence[int]) -> list[torch.Tensor]:
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


_PIPELINES: dict[str, dict[str, str]] = {
    "image": {
        "sd15": "StableDiffusionImg2ImgPipeline", "lcm": "StableDiffusionImg2ImgPipeline",
        "sdxl": "StableDiffusionXLImg2ImgPipeline", "sd3": "StableDiffusion3Img2ImgPipeline",
        "flux-dev": "FluxImg2ImgPipeline",
    },
    "mask": {
        "sd15": "StableDiffusionInpaintPipeline", "lcm": "StableDiffusionInpaintPipeline",
        "sdxl": "StableDiffusionXLInpaintPipeline", "sd3-16": "StableDiffusion3InpaintPipeline",
        "flux-dev": "FluxInpaintPipeline",
    },
    "control": {
        "sd15": "StableDiffusionControlNetPipeline", "sdxl": "StableDiffusionXLControlNetPipeline",
    },
    "control image": {
        "sd15": "StableDiffusionControlNetImg2ImgPipeline",
        "sdxl": "StableDiffusionXLControlNetImg2ImgPipeline",
    },
    "control mask": {
        "sd15": "StableDiffusionControlNetInpaintPipeline",
        "sdxl": "StableDiffusionXLControlNetInpaintPipeline",
    },
}  # fmt: skip


def theirs(
    kind: str,
    name: str,
    drawer: Family,
    wanted: GenerationRequest,
    prepare: Callable[[Any], None] | None = None,
    **pictures: Any,
) -> torch.Tensor:
    """What diffusers' own pipeline for this, once prepared, ends with, made of the same parts."""
    parts = dict(drawer.pipe.components)
    parts["scheduler"] = build_scheduler(wanted.sampler, drawer.pipe.scheduler)
    if hasattr(parts["scheduler"], "noise_sampler_seed"):
        parts["scheduler"].noise_sampler_seed = wanted.seed
    if kind.startswith("control"):
        parts["controlnet"] = control_network(name)
    if name == "sd15" or name == "lcm":
        parts["requires_safety_checker"] = False
    if name == "sdxl":
        parts["add_watermarker"] = False
    library: Any = diffusers
    pipe = getattr(library, _PIPELINES[kind][name])(**parts)
    pipe.set_progress_bar_config(disable=True)
    if prepare is not None:
        prepare(pipe)
    options: dict[str, Any] = {**pictures}
    if takes_negative_prompt(drawer.pipe):
        options["negative_prompt"] = wanted.negative_prompt or None
    if hasattr(drawer, "max_sequence_length"):
        options["max_sequence_length"] = drawer.max_sequence_length  # type: ignore[attr-defined]
    if "image" in pictures and kind not in ("control",):
        options["strength"] = wanted.strength
    if kind.startswith("control"):
        options["controlnet_conditioning_scale"] = wanted.control_scale
    if "width" in inspect.signature(type(pipe).__call__).parameters:
        options |= {"width": wanted.width, "height": wanted.height}
    return pipe(
        prompt=wanted.prompt, num_inference_steps=wanted.num_inference_steps, guidance_scale=wanted.guidance_scale,
        generator=torch.Generator().manual_seed(wanted.seed), output_type="latent", **options,
    ).images  # fmt: skip


def pairs(names: Sequence[str]) -> list[Any]:
    """Each family by its own sampler, and Stable Diffusion with each kind of sampler; all pairs in `make test-all`."""
    flow = ("Default", "Euler")
    return [
        pytest.param(name, sampler, id=f"{name}-{sampler}", marks=() if _often(name, sampler) else pytest.mark.slow)
        for name in names
        for sampler in (SAMPLERS if name in tiny.DIFFUSION else flow)
    ]


def _often(name: str, sampler: str) -> bool:
    return sampler == "Default" or (name == "sd15" and sampler in ("Euler", "DPM++ 2M Karras", "Heun", "DPM++ SDE"))


@pytest.mark.parametrize("strength", [0.45, 1.0])
@pytest.mark.parametrize(("name", "sampler"), pairs(FROM_PICTURES))
def test_lane_from_a_picture_equals_the_pipeline_beside_lanes_of_words(
    name: str, sampler: str, strength: float
) -> None:
    drawer = family(name)
    wanted = asked(sampler=sampler, negative_prompt="blue", strength=strength, num_inference_steps=7)
    words = asked("a cat", sampler=sampler, seed=4)
    lanes = [lane(drawer, wanted, InputPictures(image=raw(photo()))), plain_lane(drawer, words)]
    ours, beside = together(drawer, lanes, [1, 0])
    same(ours, theirs("image", name, drawer, wanted, image=photo()))
    same(beside, together(drawer, [plain_lane(drawer, words)], [0])[0])


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize(("name", "sampler"), pairs(["sd15", "lcm", "sdxl", "sd3-16", "flux-dev"]))
def test_lane_with_a_mask_equals_the_pipeline_beside_lanes_of_words(name: str, sampler: str, strength: float) -> None:
    drawer = family(name)
    wanted = asked(sampler=sampler, negative_prompt="blue", strength=strength, num_inference_steps=6)
    inputs = InputPictures(image=raw(photo()), mask=raw(hole()))
    lanes = [plain_lane(drawer, asked("a cat", sampler=sampler, seed=4)), lane(drawer, wanted, inputs)]
    ours = together(drawer, lanes, [0, 2])[1]
    same(ours, theirs("mask", name, drawer, wanted, image=photo(), mask_image=hole()))


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_lane_of_inpainting_weights_equals_the_pipeline(name: str, strength: float) -> None:
    drawer = family(name, inpainting=True)
    assert drawer.inpaints
    wanted = [asked(f"number {n}", seed=n, strength=strength, guidance_scale=1.0 + 3 * n) for n in range(2)]
    inputs = [InputPictures(image=raw(photo(n)), mask=raw(hole())) for n in range(2)]
    lanes = [lane(drawer, one, pictures) for one, pictures in zip(wanted, inputs, strict=True)]
    for n, ours in enumerate(together(drawer, lanes, [0, 1])):
        same(ours, theirs("mask", name, drawer, wanted[n], image=photo(n), mask_image=hole()))


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_lanes_with_and_without_a_control_map_share_a_pass_and_equal_the_pipelines(name: str) -> None:
    drawer = family(name)
    network = control_network(name)
    wanted = [
        asked("a cat", seed=1, control_scale=0.7),
        asked("a dog", seed=2, strength=0.6, guidance_scale=1.0, control_scale=1.3),
        asked("a tree", seed=3, strength=0.6, control_scale=1.0),
        asked("a house", seed=4),
    ]
    maps = [photo(10 + n) for n in range(3)]
    inputs = [
        InputPictures(control=raw(maps[0])),
        InputPictures(image=raw(photo()), control=raw(maps[1])),
        InputPictures(image=raw(photo()), mask=raw(hole()), control=raw(maps[2])),
    ]
    lanes = [lane(drawer, one, pictures, network) for one, pictures in zip(wanted[:3], inputs, strict=True)]
    lanes.append(plain_lane(drawer, wanted[3]))
    ours = together(drawer, lanes, [0, 1, 0, 1])
    same(ours[0], theirs("control", name, drawer, wanted[0], image=maps[0]))
    same(ours[1], theirs("control image", name, drawer, wanted[1], image=photo(), control_image=maps[1]))
    same(
        ours[2],
        theirs("control mask", name, drawer, wanted[2], image=photo(), mask_image=hole(), control_image=maps[2]),
    )
    same(ours[3], together(drawer, [plain_lane(drawer, wanted[3])], [0])[0])


def test_control_map_with_no_scale_changes_nothing() -> None:
    drawer = family("sd15")
    free, held = asked(), asked(control_scale=0.0)
    network = control_network("sd15")
    ours = together(drawer, [lane(drawer, held, InputPictures(control=raw(photo())), network)], [0])[0]
    same(ours, together(drawer, [plain_lane(drawer, free)], [0])[0])


def test_feathered_mask_is_zero_outside_and_whole_well_inside() -> None:
    mask = (floats(raw(hole())).mean(-1, keepdim=True) >= 0.5).float()
    alpha = feathered(mask)
    assert float((alpha * (1 - mask)).abs().max()) == 0
    assert float(alpha[30:40, 30:40].min()) == 1
    assert 0 < float(alpha[22:50, 18:19].mean()) < 1
