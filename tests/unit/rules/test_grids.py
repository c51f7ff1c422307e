"""Sheets that compare: axes read, cells resolved, what a sheet says of itself."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any

import pytest

from bot import limits, provenance
from bot.catalogue.addons import AddOn
from bot.catalogue.models import Style
from bot.errors import ModerationRefused, RequestError
from bot.generation import Axis, GenerationOptions, GenerationRequest, Variant
from bot.moderation import Moderator
from bot.prompts.again import as_told, options_of
from bot.prompts.grids import AXES, compared, read_axis
from bot.store.rows import request_of, request_text
from tests.unit.rules.test_limits import CATALOGUE

STYLES = (Style("neon", "Neon", "{prompt}, neon", "fog"), Style("pixel-art", "Pixel art", "pixels of {prompt}"))
LORAS = tuple(AddOn(name, f"/{name}", "sdxl") for name in ("chalk", "ink"))
FULL = dataclasses.replace(CATALOGUE, styles=STYLES, loras=LORAS, negative="watermark")


def resolved(*axes: str, prompt: str = "a cat", **changes: Any) -> GenerationRequest:
    read = tuple(read_axis(side, text) for side, text in zip("xy", axes, strict=False))
    return limits.resolve(GenerationOptions(prompt, axes=read, **changes), FULL, new_seed=lambda: 40)


def told(request: GenerationRequest) -> list[tuple[str, str]]:
    """What a model is told of each cell: as the engine reads it, and as the cell alone says it."""
    cells = [(cell.prompt, cell.negative_prompt) for cell in map(request.told.alone, range(request.count))]
    assert cells == [
        (cell.prompt, cell.negative_prompt) for cell in (request.alone(n).told for n in range(request.count))
    ]
    return cells


@pytest.mark.parametrize("name", AXES)
def test_axes_have_examples_that_resolve(name: str) -> None:
    example = {"model": "pocket, sdxl", "guidance": "2, 5"}.get(name, AXES[name].example)
    assert len(read_axis("x", f"{name}: {AXES[name].example}").values) >= 2
    changes = {"width": 128, "height": 128} if name == "model" else {}
    more = {"model": "sdxl", "lora": "chalk"} if name == "lora weight" else changes
    assert resolved(f"{name}: {example}", **more).count >= 2


def test_resolve_grid_over_styles_tells_each_cell_its_own_words() -> None:
    request = resolved("style: none, neon, Pixel Art", negative_prompt="a dog", model="sdxl")
    assert [request.alone(n).style for n in range(3)] == ["", "neon", "pixel-art"]
    assert request.prompt == request.alone(1).prompt == "a cat"
    assert told(request) == [
        ("a cat", "a dog, watermark"), ("a cat, neon", "a dog, fog, watermark"), ("pixels of a cat", "a dog, watermark"),
    ]  # fmt: skip


def test_resolve_grid_over_styles_from_one_that_is_chosen_compares_with_none() -> None:
    request = resolved("style: none, pixel-art", style="neon", model="sdxl")
    assert (request.style, told(request)[0]) == ("neon", ("a cat", "watermark"))


def test_resolve_grid_over_styles_of_a_prompt_with_choices_makes_them_once() -> None:
    request = resolved("style: none, neon", prompt="a {red|green|blue|black} cat", model="sdxl")
    plain, neon = told(request)
    assert (f"{plain[0]}, neon", "{" in plain[0]) == (neon[0], False)
    assert request.told.prompts == ()


@pytest.mark.parametrize(
    ("prompt", "lora"), [("a cat", "chalk:0.4"), ("a cat <lora:chalk:0.4>", None)], ids=["option", "prompt"]
)
def test_resolve_grid_over_a_loras_weight_draws_with_each(prompt: str, lora: str | None) -> None:
    request = resolved("lora weight: 0, 0.5, -1", prompt=prompt, lora=lora, model="sdxl")
    assert [request.alone(n).loras for n in range(3)] == [(("chalk", 0.0),), (("chalk", 0.5),), (("chalk", -1.0),)]
    assert request.alone(1).prompt == "a cat"
    assert provenance.addon_facts(request) == [("LoRA", "chalk")]


def test_resolve_grid_over_models_has_the_size_of_the_first_and_each_models_own_defaults() -> None:
    request = resolved("model: sdxl, flux", "seed: 1, 2", width=512, height=640)
    assert request.models == ("sdxl", "flux")
    cells = [request.alone(n) for n in range(4)]
    assert [(cell.model, cell.seed) for cell in cells] == [("sdxl", 1), ("flux", 1), ("sdxl", 2), ("flux", 2)]
    assert {(cell.width, cell.height) for cell in cells} == {(512, 640)}
    for cell in cells:
        plain = GenerationOptions("a cat", model=cell.model, seed=cell.seed, width=512, height=640)
        assert cell == limits.resolve(plain, FULL, new_seed=lambda: 0)
    # FLUX is not told what to avoid, also not on the whole server.
    assert [avoided for _, avoided in told(request)] == ["watermark", "", "watermark", ""]


def test_resolve_grid_over_models_takes_no_size_of_the_default_model() -> None:
    request = resolved("model: sdxl, flux", aspect="1:1", width=512, height=512)
    assert (CATALOGUE.default, request.model, request.width) == ("pocket", "sdxl", 512)


def test_options_of_a_sheet_over_models_leave_each_its_defaults() -> None:
    request = resolved("model: pocket, sdxl", width=128, height=128)
    again = limits.resolve(options_of(request), FULL, new_seed=lambda: 0)
    assert again == request
    assert compared(request) == {"model", "steps", "guidance"}
    for steps in (options_of(request), options_of(resolved("model: pocket, sdxl", width=128, height=128, steps=7))):
        assert steps.steps in (None, 7)


def test_as_told_gives_a_sheets_cells_the_words_they_were_drawn_with() -> None:
    drawn = resolved("style: none, neon", model="sdxl")
    now = dataclasses.replace(FULL, styles=(Style("neon", "Neon", "{prompt} in other words"),), negative="")
    request = limits.resolve(options_of(drawn), now, new_seed=lambda: 0)
    assert told(request) != told(drawn)
    assert as_told(request, drawn) == drawn


def test_read_axis_takes_any_case_and_spaces() -> None:
    assert read_axis("x", " Steps :10,20 , 30,") == Axis("steps", ("10", "20", "30"))


def test_resolve_grid_goes_row_by_row_with_one_seed() -> None:
    request = resolved("steps: 5, 20", "guidance: 1, 4, 7.5", seed=7)
    cells = [request.alone(n) for n in range(request.count)]
    assert [(cell.num_inference_steps, cell.guidance_scale, cell.seed) for cell in cells] == [
        (5, 1.0, 7), (20, 1.0, 7), (5, 4.0, 7), (20, 4.0, 7), (5, 7.5, 7), (20, 7.5, 7),
    ]  # fmt: skip
    assert request.variants[3] == Variant(seed=7)  # what is the model's own anyway is not said again
    assert not request.listed


def test_resolve_grid_cell_is_what_the_plain_request_resolves_to() -> None:
    request = resolved("sampler: euler a, dpm++ 2m karras", model="pocket", width=96, negative_prompt="fog")
    plain = GenerationOptions("a cat", model="pocket", width=96, negative_prompt="fog", sampler="Euler a", seed=40)
    assert request.alone(0) == limits.resolve(plain, FULL, new_seed=lambda: 0)


def test_resolve_grid_over_seeds_takes_each() -> None:
    assert [resolved("seed: 9, 3").alone(n).seed for n in range(2)] == [9, 3]


@pytest.mark.parametrize(
    ("axes", "options", "words"),
    [
        (["steps: 1, 2"], {"count": 2}, "leave the count out"),
        (["steps: " + ",".join(map(str, range(1, 10)))], {}, "steps has 9 values; at most 8"),
        (["guidance: 1, nan"], {}, "guidance “nan”: Guidance takes a number"),
        (["seed: 1, " + "9" * 30], {}, "seed “9+”: Seed goes from 0"),
        (["sampler: Euler a, " + "x" * 41], {}, "longer than 40 characters"),
        (["seed: 1,2,3,4,5", "steps: 1,2,3,4,5"], {"model": "sdxl", "width": 2048, "height": 1024}, "at most 12 fit"),
        (["steps: 1, 2"], {"guidance": 99.0}, "^Guidance goes from 0"),
        (["model: sdxl, gone"], {}, "model “gone”: There is no model 'gone'"),
        (["model: sdxl, pocket"], {}, "model “pocket”: Pocket draws at most 128 px a side; 1024 is too large"),
        (["model: pocket, sdxl", "sampler: Euler a, DPM\\+\\+ 2M Karras"], {"width": 128, "height": 128}, "There is no sampler"),
        (["model: sdxl, flux"], {"negative_prompt": "fog", "width": 512, "height": 512}, "model “flux”: FLUX takes no negative"),
        (["style: none, nean"], {}, "style “nean”: There is no such style; did you mean neon"),
        (["lora weight: 0, 1"], {}, "lora weight “0”: There is no LoRA to weigh"),
        (["lora weight: 0, 1"], {"lora": "chalk, ink", "model": "sdxl"}, "here are 2 .chalk, ink.; leave all but one out"),
        (["lora weight: 0, 9"], {"lora": "chalk", "model": "sdxl"}, "lora weight “9”: The weight of a LoRA goes from -2 to 2"),
        (["lora weight: 0, much"], {"lora": "chalk", "model": "sdxl"}, "lora weight takes numbers, not “much”"),
        (["lora weight: 0, nan"], {"lora": "chalk", "model": "sdxl"}, "lora weight “nan”: The weight of the LoRA chalk is “nan”"),
        (["model: sdxl, flux"], {"lora": "chalk", "width": 512, "height": 512}, "model “flux”: The LoRA chalk was made for"),
    ],
    ids=[
        "count", "values", "not finite", "seed", "long", "pixels", "another option", "no model", "size of another model",
        "sampler of one", "negative prompt of one", "no style", "no lora", "two loras", "weight", "no weight", "not finite weight",
        "lora of one",
    ],
)  # fmt: skip
def test_resolve_bad_grid_is_refused_by_axis_and_value(axes: list[str], options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        resolved(*axes, **options)


def test_price_of_a_grid_counts_the_steps_of_each_cell() -> None:
    request = resolved("steps: 5, 20", "seed: 1, 2")
    assert limits.price(request) == 64 * 64 * 2 * (5 + 20)


def record_of(request: GenerationRequest) -> str:
    return provenance.easel_json(request, 0, request.seed, "j", "cpu", "fp32", "1")


def test_easel_record_of_a_sheet_draws_the_sheet_again() -> None:
    request = resolved("sampler: Euler a, Default", "guidance: 1, 4.5")
    record = provenance.parse_easel(record_of(request))
    assert record is not None
    assert record.alone == request
    info = provenance.read_info({"easel": record_of(request)}, (1, 1))
    assert info is not None
    assert ("Compares", "sampler Euler a, Default × guidance 1, 4.5") in info.extra


@pytest.mark.parametrize(
    "damage",
    [
        {"axes": None}, {"axes": [{"name": "steps"}]}, {"axes": "abc"}, {"variants": [1, 2]}, {"variants": []},
        {"variants": [{"seed": 1}]}, {"variants": [{"seed": "x"}, {}]}, {"variants": [{"seed": 1e400}, {}]},
        {"variants": [{"nonsuch": 1}, {}]}, {"axes": []}, {"count": 3},
    ],
    ids=str,
)  # fmt: skip
def test_easel_record_of_a_damaged_sheet_is_none(damage: dict[str, Any]) -> None:
    data = json.loads(record_of(resolved("steps: 1, 2")))
    data["request"].update(damage)
    assert provenance.parse_easel(json.dumps(data)) is None


def test_easel_record_of_a_sheet_over_models_styles_and_weights_draws_it_again() -> None:
    for request in (
        resolved("model: sdxl, flux", "style: none, neon", width=512, height=512),
        resolved("lora weight: 0, 0.5", "style: neon, none", lora="ink", model="sdxl"),
    ):
        record = provenance.parse_easel(record_of(request))
        assert record is not None
        assert record.alone == request
        assert request_of(request_text(request)) == request
    info = provenance.read_info({"easel": record_of(resolved("model: sdxl, flux", width=512, height=512))}, (1, 1))
    assert info is not None
    assert info.model == "sdxl, flux"


def test_moderator_reads_what_styles_make_of_each_cell() -> None:
    styles = (Style("bare", "Bare", "naked, {prompt}"), Style("neon", "Neon", "{prompt}, neon"))
    catalogue = dataclasses.replace(FULL, styles=styles)
    for second, refused in (("neon", False), ("bare", True)):
        options = GenerationOptions("a child", axes=(Axis("style", ("none", second)),))
        request = limits.resolve(options, catalogue, new_seed=lambda: 0)
        with pytest.raises(ModerationRefused) if refused else contextlib.nullcontext():
            Moderator().check_request(request)


def test_parameters_text_of_a_sheet_is_read_by_others_and_by_us() -> None:
    request = dataclasses.replace(resolved("steps: 1, 2"), sampler="Euler a")
    text = provenance.parameters_text(request, 40, "Pocket", "1")
    assert 'Script: X/Y/Z plot, X Type: steps, X Values: "1,2"' in text
    info = provenance.parse_parameters(text)
    assert info is not None
    assert (info.prompt, info.seed) == ("a cat", 40)
