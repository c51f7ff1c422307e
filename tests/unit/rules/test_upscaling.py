"""What may be enlarged, how far, by whom, in which tiles, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.catalogue.models import Catalogue, UpscalerSpec
from bot.catalogue.models_file import parse_catalogue
from bot.errors import RequestError
from bot.generation import InputRef, UpscaleOptions
from bot.limits import PIXEL_STEPS, price, told_by
from bot.prompts.upscaling import (
    NAMELESS,
    cuts,
    may_upscale,
    options_of_upscale,
    resolve_upscale,
    source_size,
    tile_count,
)
from bot.provenance import easel_json, parse_easel, parse_parameters
from bot.scheduling.estimates import StepTimes

ROOT = Path(__file__).resolve().parents[3]
CATALOGUE = replace(
    parse_catalogue((ROOT / "models.toml").read_text(encoding="utf-8"), origin="models.toml"),
    upscalers=(UpscalerSpec("sharp-4x", "/x/sharp-4x.safetensors"), UpscalerSpec("other", "/x/other.safetensors")),
)


def resolved(width: int = 128, height: int = 96, catalogue: Catalogue = CATALOGUE, **options: Any) -> Any:
    asked = UpscaleOptions(InputRef("a" * 64, width, height), **options)
    return resolve_upscale(asked, catalogue, new_seed=lambda: 77)


def test_resolve_upscale_plain_is_the_first_upscalers_and_counts_its_tiles() -> None:
    request = resolved(512, 300, factor=4, prompt=" a beach ", model="sd15")
    assert (request.model, request.upscale, request.upscale_mode) == ("upscaler/sharp-4x", 4, "plain")
    assert (request.width, request.height, source_size(request)) == (2048, 1200, (512, 300))
    assert (request.prompt, request.steps_taken, request.upscale_source) == ("a beach", 6, "sd15")
    assert CATALOGUE.name_of(request.model) == "sharp-4x"


def test_resolve_upscale_detail_is_drawn_by_the_pictures_own_model_where_that_can() -> None:
    request = resolved(mode="detail", model="pocket", prompt="a beach", negative_prompt="people")
    assert (request.model, request.sampler, request.guidance_scale, request.seed) == ("pocket", "DDIM", 4.0, 77)
    assert (request.strength, request.num_inference_steps, request.steps_taken) == (0.3, 20, 6)
    assert request.negative_prompt == "people"
    for other in ("qwen-image", "gone", ""):
        assert CATALOGUE[resolved(mode="detail", model=other).model].from_pictures


def test_resolve_upscale_detail_takes_a_step_with_few_step_models_too() -> None:
    turbo = replace(CATALOGUE["pocket"], id="turbo", steps=1)
    assert (
        resolved(
            mode="detail", model="turbo", catalogue=replace(CATALOGUE, models=(turbo,), default="turbo")
        ).steps_taken
        == 1
    )


def test_options_of_upscale_give_the_same_request_again() -> None:
    for mode in ("plain", "detail"):
        request = resolved(mode=mode, factor=4, prompt="a beach", model="pocket", private=True, spoiler=True)
        assert resolve_upscale(options_of_upscale(request), CATALOGUE, new_seed=lambda: 77) == request


def test_easel_record_of_an_upscale_is_the_whole_request() -> None:
    request = resolved(mode="detail", factor=4, prompt="a beach", model="pocket")
    record = parse_easel(easel_json(request, 0, 77, "ab12", "cpu", "fp32", "1"))
    assert record is not None
    assert record.request == request


def test_step_times_of_an_upscale_are_a_tile_each_whatever_the_size() -> None:
    times, small, large = StepTimes(), resolved(256, 256), resolved(2048, 2048)
    times.learn(small, 2.0, 2.5)
    assert times.duration_s(small) == pytest.approx(2.5)
    assert times.duration_s(large) == pytest.approx(0.5 + 2.0 * 64)
    assert times.duration_s(resolved(2048, 2048, mode="detail", model="pocket")) is None


@pytest.mark.parametrize("prompt", ["", "  \n", "\u200b"])
def test_resolve_upscale_without_words_has_a_title(prompt: str) -> None:
    assert resolved(prompt=prompt).prompt == NAMELESS


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"factor": 3}, "enlarged 2 or 4 times, not 3"),
        ({"mode": "magic"}, "choose one of plain, detail"),
        ({"width": 2049}, "at most 2048 px a side are enlarged"),
        ({"width": 1025, "factor": 4}, "would be 4100×384"),
        ({"catalogue": replace(CATALOGUE, upscalers=())}, "No upscaler is installed here"),
        (
            {
                "mode": "detail",
                "catalogue": replace(CATALOGUE, models=(CATALOGUE["qwen-image"],), default="qwen-image"),
            },
            "No model here redraws",
        ),
    ],
    ids=["factor", "mode", "large", "result", "no upscaler", "no model"],
)
def test_resolve_upscale_that_cannot_be_says_what_can(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        resolved(**options)


@pytest.mark.parametrize(
    ("side", "factor", "may"), [(2048, 2, True), (2049, 2, False), (1024, 4, True), (1032, 4, False)]
)
def test_may_upscale_is_what_is_not_refused(side: int, factor: int, may: bool) -> None:
    assert may_upscale(side, 64, factor) is may
    if may:
        assert resolved(side, 64, factor=factor).width == side * factor


@pytest.mark.parametrize("size", [1, 255, 256, 257, 464, 465, 1000, 2048])
def test_cuts_cover_all_and_share_enough(size: int) -> None:
    found = cuts(size, 256, 48)
    assert found.starts[0] == 0
    assert found.starts[-1] + found.length == size
    assert all(0 < later - one <= 256 - 48 for one, later in zip(found.starts, found.starts[1:], strict=False))


def test_tile_count_of_a_small_picture_is_one() -> None:
    assert (tile_count(128, 96), tile_count(257, 96), tile_count(2048, 2048)) == (1, 2, 100)


def test_price_of_an_upscale_is_one_step_of_its_size_and_detail_those_it_redraws() -> None:
    assert price(resolved(500, 500, factor=2)) == PIXEL_STEPS
    assert price(resolved(500, 500, factor=2, mode="detail", model="pocket")) == 7 * PIXEL_STEPS


@pytest.mark.parametrize(
    ("prompt", "told"),
    [("a cat <lora:chalk:0.5> asleep", "a cat asleep"), ("a cat <lora:chalk:much>", "a cat <lora:chalk:much>")],
)
def test_told_by_a_file_leaves_out_the_tags_of_loras(prompt: str, told: str) -> None:
    text = f"{prompt}\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64, Model: pocket"
    assert told_by(parse_parameters(text), CATALOGUE)[0] == told
