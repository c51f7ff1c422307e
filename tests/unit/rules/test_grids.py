"""Sheets that compare: axes read, cells resolved, what a sheet says of itself."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from bot import limits, provenance
from bot.errors import RequestError
from bot.generation import Axis, GenerationOptions, GenerationRequest, Variant
from bot.prompts.grids import AXES, read_axis
from tests.unit.rules.test_limits import CATALOGUE


def resolved(*axes: str, **changes: Any) -> GenerationRequest:
    read = tuple(read_axis(side, text) for side, text in zip("xy", axes, strict=False))
    return limits.resolve(GenerationOptions("a cat", axes=read, **changes), CATALOGUE, new_seed=lambda: 40)


def test_axes_each_set_an_option_and_their_examples_are_read() -> None:
    assert all(hasattr(GenerationOptions("x"), kind.option) for kind in AXES.values())
    for name, kind in AXES.items():
        assert len(read_axis("x", f"{name}: {kind.example}").values) >= 2
        assert resolved(f"{name}: {kind.example}").count >= 2


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
    assert request.alone(0) == limits.resolve(plain, CATALOGUE, new_seed=lambda: 0)


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
    ],
    ids=["count", "values", "not finite", "seed", "long", "pixels", "another option"],
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


def test_parameters_text_of_a_sheet_is_read_by_others_and_by_us() -> None:
    request = dataclasses.replace(resolved("steps: 1, 2"), sampler="Euler a")
    text = provenance.parameters_text(request, 40, "Pocket", "1")
    assert 'Script: X/Y/Z plot, X Type: steps, X Values: "1,2"' in text
    info = provenance.parse_parameters(text)
    assert info is not None
    assert (info.prompt, info.seed) == ("a cat", 40)
