"""What `bot.limits.resolve` fills in and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bot import limits
from bot.catalogue.models import Catalogue
from bot.catalogue.models_file import parse_catalogue
from bot.errors import RequestError
from bot.generation import GenerationOptions

CATALOGUE = parse_catalogue(
    """
[models.pocket]
name = "Pocket"
source = "models/pocket"
family = "sd"
licence = "MIT"
base_px = 64
size_multiple = 8
max_side = 128
steps = 20
max_steps = 60
guidance = 4
max_guidance = 12
sampler = "Default"
samplers = ["Default", "Euler a", "DPM++ 2M Karras"]

[models.sdxl]
name = "SDXL"
source = "a/b"
family = "sdxl"
licence = "OpenRAIL"
base_px = 1024
max_side = 2048
max_pixels = 2097152
samplers = ["Default", "Euler a"]

[models.flux]
name = "FLUX"
source = "c/d"
family = "flux"
licence = "Apache-2.0"
negative_prompt = false
""",
    origin="test",
)


def options(**changes: object) -> GenerationOptions:
    return dataclasses.replace(GenerationOptions("a red circle"), **changes)


def resolve(given: GenerationOptions, catalogue: Catalogue = CATALOGUE, **more: int):
    return limits.resolve(given, catalogue, new_seed=lambda: 77, **more)


def test_resolve_prompt_alone_fills_the_models_defaults() -> None:
    request = resolve(options(prompt="  a red circle "))
    assert (request.prompt, request.model, request.sampler) == ("a red circle", "pocket", "Default")
    assert (request.width, request.height, request.count) == (64, 64, 1)
    assert (request.num_inference_steps, request.guidance_scale, request.seed) == (20, 4.0, 77)


def test_resolve_everything_given_keeps_everything() -> None:
    given = options(
        negative_prompt="blue", model="sdxl", width=512, height=768, count=3, steps=12, guidance=0.0, seed=0,
        sampler="Euler a", private=True, spoiler=True,
    )  # fmt: skip
    request = resolve(given)
    assert dataclasses.astuple(request)[:12] == (
        "a red circle", "blue", "sdxl", 512, 768, 3, 12, 0.0, 0, "Euler a", True, True,
    )  # fmt: skip


def test_resolve_aspect_chooses_the_models_size() -> None:
    request = resolve(options(aspect="3:2", model="sdxl"))
    assert (request.width, request.height) == CATALOGUE["sdxl"].sizes["3:2"]


def test_resolve_width_alone_takes_the_height_of_the_aspect() -> None:
    request = resolve(options(aspect="16:9", model="sdxl", width=1024))
    assert (request.width, request.height) == (1024, CATALOGUE["sdxl"].sizes["16:9"][1])


def test_resolve_given_seed_asks_for_no_new_one() -> None:
    def never() -> int:
        raise AssertionError("asked")

    assert limits.resolve(options(seed=5), CATALOGUE, new_seed=never).seed == 5


def test_resolve_emoji_and_right_to_left_prompts_pass_unchanged() -> None:
    assert resolve(options(prompt="غروب 🌅\nعلى البحر")).prompt == "غروب 🌅\nعلى البحر"


REFUSED = {
    "empty": ({"prompt": ""}, "prompt is empty"),
    "blank": ({"prompt": " \n\t"}, "prompt is empty"),
    "long": ({"prompt": "x" * 6000}, "6,000 characters; at most 1,500"),
    "nul": ({"prompt": "a\0b"}, "U+0000"),
    "lone surrogate": ({"prompt": "a\ud800"}, "U+D800"),
    "escape in negative": ({"negative_prompt": "a\x1b[0m"}, "negative prompt has a control character"),
    "long negative": ({"negative_prompt": "x" * 1001}, "at most 1,000"),
    "negative not taken": ({"negative_prompt": "x", "model": "flux"}, "takes no negative prompt"),
    "model": ({"model": "sdx"}, "There is no model 'sdx'; did you mean sdxl? /models lists them all."),
    "model far off": ({"model": "qqqqqq"}, "There is no model 'qqqqqq'. /models lists them all."),
    "model traversal": ({"model": "../../etc/passwd"}, "There is no model"),
    "empty model": ({"model": ""}, "There is no model"),
    "sampler": ({"sampler": "Euler"}, "did you mean Euler a?"),
    "aspect": ({"aspect": "5:4"}, "choose one of 1:1, 3:2"),
    "width": (
        {"width": 500, "model": "sdxl"},
        "Width 500 is not a multiple of 8; the nearest are 496 and 504.",
    ),
    "height at the edge": ({"height": 127}, "Height 127 is not a multiple of 8; the nearest are 120 and 128."),
    "large": ({"width": 4096}, "Pocket draws at most 128 px a side; 4096 is too large."),
    "small": ({"height": 8}, "Pocket draws at least 64 px a side; 8 is too small."),
    "negative side": ({"height": -64}, "too small"),
    "area": ({"width": 2048, "height": 2048, "model": "sdxl"}, "2048×2048 is more than SDXL draws"),
    "count": ({"count": 5}, "Count goes from 1 to 4; 5"),
    "count zero": ({"count": 0}, "Count goes from 1 to 4"),
    "steps": ({"steps": 61}, "Steps goes from 1 to 60 with Pocket; 61"),
    "steps zero": ({"steps": 0}, "Steps goes from 1"),
    "steps fraction": ({"steps": 2.5}, "Steps takes a whole number, not 2.5"),
    "steps truth": ({"steps": True}, "Steps takes a whole number"),
    "guidance": ({"guidance": 12.5}, "Guidance goes from 0 to 12 with Pocket; 12.5"),
    "guidance below": ({"guidance": -0.1}, "Guidance goes from 0"),
    "guidance nan": ({"guidance": float("nan")}, "Guidance takes a number, not nan"),
    "guidance inf": ({"guidance": float("inf")}, "Guidance takes a number, not inf"),
    "seed": ({"seed": -1}, "Seed goes from 0 to 9007199254740991"),
    "last seed": ({"seed": 2**53 - 1, "count": 2}, "Seed goes from 0 to 9007199254740990"),
    "huge seed": ({"seed": 10**300}, "Seed goes from"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_resolve_bad_input_says_what_is_right(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        resolve(options(**changes))
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300


def test_resolve_other_maximum_count_is_honoured() -> None:
    assert resolve(options(count=6), max_count=8).count == 6
    with pytest.raises(RequestError, match="from 1 to 2"):
        resolve(options(count=3), max_count=2)


SHIPPED = parse_catalogue((Path(__file__).parents[3] / "models.toml").read_text(encoding="utf-8"), origin="models.toml")
PATCHED = ("sd35-medium", "flux-schnell", "flux2-klein", "z-image-turbo", "qwen-image")


@pytest.mark.parametrize("model", [spec.id for spec in SHIPPED.models])
def test_resolve_every_size_of_every_shipped_model_passes_as_width_and_height(model: str) -> None:
    for width, height in SHIPPED[model].sizes.values():
        request = resolve(options(model=model, width=width, height=height), SHIPPED)
        assert (request.width, request.height) == (width, height)
        assert width % SHIPPED[model].side_multiple == height % SHIPPED[model].side_multiple == 0


@pytest.mark.parametrize("model", PATCHED)
def test_resolve_side_that_the_family_cannot_draw_is_refused_naming_16(model: str) -> None:
    with pytest.raises(RequestError) as caught:
        resolve(options(model=model, width=1032), SHIPPED)
    assert str(caught.value) == "Width 1032 is not a multiple of 16; the nearest are 1024 and 1040."


def test_resolve_side_of_8_passes_where_the_model_draws_it() -> None:
    assert {spec.id for spec in SHIPPED.models if spec.side_multiple != 8} == set(PATCHED)
    assert resolve(options(model="sdxl", width=1032), SHIPPED).width == 1032


def test_resolve_too_many_pixels_hint_names_a_size_the_model_draws() -> None:
    with pytest.raises(RequestError, match="as 1328×1328"):
        resolve(options(model="qwen-image", width=1664, height=1664), SHIPPED)


def test_resolve_guidance_of_a_model_without_any_is_refused_but_for_0() -> None:
    with pytest.raises(RequestError) as caught:
        resolve(options(model="z-image-turbo", guidance=0.5), SHIPPED)
    assert str(caught.value) == "Z-Image Turbo takes no guidance; leave it out, or choose another model."
    assert resolve(options(model="z-image-turbo", guidance=0.0), SHIPPED).guidance_scale == 0.0
    assert resolve(options(model="z-image-turbo"), SHIPPED).guidance_scale == 0.0
