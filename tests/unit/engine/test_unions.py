"""Control networks that read maps of several kinds: lanes equal diffusers' own pipelines, rows of different kinds sharing one call."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import pytest
import torch

from bot.catalogue.controls import UNION_MODES
from bot.engine.families import Family
from bot.engine.lanes.canvas import Hint, floats, make_canvas, planes
from bot.engine.lanes.lane import Lane, new_lane
from bot.engine.lanes.samplers import build_scheduler
from bot.engine.lanes.timetables import read_timetable
from bot.generation import GenerationRequest, InputPictures
from tests.unit.engine import tiny
from tests.unit.engine.test_canvas import control_network, family, hole, photo, raw, together
from tests.unit.engine.test_canvas import theirs as theirs_of_one_kind
from tests.unit.engine.test_lanes import asked, same
from tests.unit.engine.test_lanes import lane as plain_lane

_PIPELINES = {
    "": "StableDiffusionXLControlNetUnionPipeline",
    "image": "StableDiffusionXLControlNetUnionImg2ImgPipeline",
    "mask": "StableDiffusionXLControlNetUnionInpaintPipeline",
}


@functools.cache
def union_network(kinds: int = 8) -> Any:
    """A union of a tiny SDXL with random weights, its zeros filled, so that each kind has another effect."""
    torch.manual_seed(9)
    library: Any = diffusers
    settings = tiny.pipeline("sdxl").unet.config
    names = ("block_out_channels", "layers_per_block", "norm_num_groups", "attention_head_dim", "down_block_types", "cross_attention_dim",
             "addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim",
             "transformer_layers_per_block", "use_linear_projection")  # fmt: skip
    network = library.ControlNetUnionModel(
        **{name: settings[name] for name in names}, conditioning_embedding_out_channels=(8, 16), num_control_type=kinds,
        num_trans_channel=8, num_trans_head=2, num_proj_channel=8,
    )  # fmt: skip
    for name, weight in network.named_parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
        if name.startswith(("spatial_ch_projs", "control_add_embedding")) and weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)
    return network.eval().requires_grad_(False)


def lane(drawer: Family, wanted: GenerationRequest, inputs: InputPictures, network: Any, mode: int | None) -> Lane:
    scheduler = build_scheduler(wanted.sampler, drawer.pipe.scheduler)
    drawer.set_timesteps(scheduler, wanted)
    canvas = make_canvas(drawer, inputs, wanted.strength)
    begin = None if canvas is None else drawer.first_step(wanted.num_inference_steps, wanted.strength)
    assert inputs.control is not None
    return new_lane(
        drawer, read_timetable(scheduler, begin), drawer.encode(wanted), owner=wanted, member=0, n=0, seed=wanted.seed,
        size=(wanted.width, wanted.height), model="tiny", canvas=canvas,
        hint=Hint(network, planes(floats(inputs.control)), wanted.control_scale, mode),
    )  # fmt: skip


def theirs(drawer: Family, wanted: GenerationRequest, mode: int, control: Any, **pictures: Any) -> torch.Tensor:
    """What diffusers' own pipeline for this ends with, made of the same parts."""
    parts = {**drawer.pipe.components, "controlnet": union_network(), "add_watermarker": False}
    parts["scheduler"] = build_scheduler(wanted.sampler, drawer.pipe.scheduler)
    library: Any = diffusers
    kind = "mask" if "mask_image" in pictures else "image" if "image" in pictures else ""
    pipe = getattr(library, _PIPELINES[kind])(**parts)
    pipe.set_progress_bar_config(disable=True)
    options: dict[str, Any] = dict(pictures)
    if kind:
        options["strength"] = wanted.strength
    return pipe(
        prompt=wanted.prompt, negative_prompt=wanted.negative_prompt or None, control_image=[control], control_mode=[mode],
        num_inference_steps=wanted.num_inference_steps, guidance_scale=wanted.guidance_scale,
        controlnet_conditioning_scale=wanted.control_scale, height=wanted.height, width=wanted.width,
        generator=torch.Generator().manual_seed(wanted.seed), output_type="latent", **options,
    ).images  # fmt: skip


def calls_of(network: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    rows: list[int] = []
    forward = network.forward

    def counted(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(sample))
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(network, "forward", counted)
    return rows


@pytest.mark.parametrize("kind", UNION_MODES)
def test_lane_of_a_union_alone_equals_the_pipeline(kind: str) -> None:
    drawer, mode = family("sdxl"), UNION_MODES[kind]
    wanted = asked("a cat", seed=1, negative_prompt="blue", control_scale=0.7)
    ours = together(drawer, [lane(drawer, wanted, InputPictures(control=raw(photo(10))), union_network(), mode)], [0])
    same(ours[0], theirs(drawer, wanted, mode, photo(10)))


def test_lanes_of_a_union_with_other_kinds_share_its_call_and_equal_the_pipelines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawer, network = family("sdxl"), union_network()
    wanted = [
        asked("a cat", seed=1, control_scale=0.7),
        asked("a dog", seed=2, strength=0.6, guidance_scale=1.0, control_scale=1.3, num_inference_steps=7),
        asked("a tree", seed=3, strength=0.6, num_inference_steps=7),
        asked("a house", seed=4),
        asked("a bird", seed=5, control_scale=0.5),
    ]
    maps = [photo(10 + n) for n in range(3)]
    inputs = [
        InputPictures(control=raw(maps[0])),
        InputPictures(image=raw(photo()), control=raw(maps[1])),
        InputPictures(image=raw(photo()), mask=raw(hole()), control=raw(maps[2])),
    ]
    modes = [UNION_MODES["pose"], UNION_MODES["canny"], UNION_MODES["tile"]]
    lanes = [
        lane(drawer, one, pictures, network, mode)
        for one, pictures, mode in zip(wanted[:3], inputs, modes, strict=True)
    ]
    lanes.append(plain_lane(drawer, wanted[3]))
    lanes.append(lane(drawer, wanted[4], InputPictures(control=raw(maps[0])), control_network("sdxl"), None))
    with monkeypatch.context() as patch:
        rows = calls_of(network, patch)
        ours = together(drawer, lanes, [0, 1, 0, 1, 0])
    assert 5 in rows  # two guided lanes and one without guidance
    assert len(rows) == 5
    same(ours[0], theirs(drawer, wanted[0], modes[0], maps[0]))
    same(ours[1], theirs(drawer, wanted[1], modes[1], maps[1], image=photo()))
    same(ours[2], theirs(drawer, wanted[2], modes[2], maps[2], image=photo(), mask_image=hole()))
    same(ours[3], together(drawer, [plain_lane(drawer, wanted[3])], [0])[0])
    same(ours[4], theirs_of_one_kind("control", "sdxl", drawer, wanted[4], image=maps[0]))


def test_kinds_of_a_union_have_other_effects() -> None:
    drawer = family("sdxl")
    wanted, pictures = asked("a cat"), InputPictures(control=raw(photo(10)))
    one, other = (together(drawer, [lane(drawer, wanted, pictures, union_network(), mode)], [0])[0] for mode in (0, 3))
    assert float((one - other).abs().max()) > 1e-2
