"""Styles wrap prompts, and what they did is in the request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bot.catalogue.models import Style
from bot.catalogue.models_file import parse_catalogue
from bot.engine.files.models import load_styles, load_wildcards
from bot.errors import ConfigError, RequestError
from bot.generation import GenerationOptions, GenerationRequest
from bot.limits import resolve
from bot.prompts.styles import PROMPT, SHIPPED, find_style, merged, parse_styles
from bot.provenance import easel_json, parameters_text, parse_easel
from bot.store.rows import request_of, request_text

SHIPPED_STYLES = parse_styles(SHIPPED.read_text(encoding="utf-8"), "ours")
CATALOGUE = replace(
    parse_catalogue(
        '[models.one]\nname = "One"\nsource = "a/b"\nfamily = "sd15"\nlicence = "-"\n'
        '[models.flow]\nname = "Flow"\nsource = "a/b"\nfamily = "flux"\nlicence = "-"\nnegative_prompt = false\n',
        origin="the test",
    ),
    styles=SHIPPED_STYLES, negative="watermark",
)  # fmt: skip


def resolved(prompt: str = "a cat", **options: object) -> GenerationRequest:
    return resolve(GenerationOptions(prompt, **options), CATALOGUE, new_seed=lambda: 1)  # type: ignore[arg-type]


def test_shipped_styles_are_about_thirty_and_each_has_a_place_for_the_prompt() -> None:
    assert 30 <= len(SHIPPED_STYLES) <= 40
    assert all(style.prompt.count(PROMPT) == 1 and style.name for style in SHIPPED_STYLES)


def test_resolve_style_keeps_what_was_typed_and_tells_the_model_more() -> None:
    request = resolved(style="Pixel Art", negative_prompt="a dog")
    assert (request.prompt, request.negative_prompt, request.style) == ("a cat", "a dog", "pixel-art")
    told = request.told
    assert told.prompt == "a cat, pixel art, limited palette"
    assert told.negative_prompt == "a dog, blurry, smooth, photo, watermark"
    assert told.told == told


def test_told_list_wraps_each_of_its_prompts() -> None:
    request = resolved(lines=("a cat", "a dog"), style="neon")
    assert [request.told.alone(n).prompt for n in (0, 1)] == [
        "a cat, neon lights, glowing at night", "a dog, neon lights, glowing at night",
    ]  # fmt: skip


def test_resolve_server_wide_negative_is_for_models_that_take_one() -> None:
    assert resolved().told.negative_prompt == "watermark"
    assert resolved(model="flow").told.negative_prompt == ""


def test_resolve_unknown_style_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="did you mean pixel-art"):
        resolved(style="pixelart")


def test_record_of_a_styled_picture_draws_it_again_and_the_parameters_have_all_words() -> None:
    request = resolved(style="ink")
    record = parse_easel(easel_json(request, 0, 1, "j", "cpu", "fp32", "0"))
    assert record is not None
    assert record.alone.told == request.told
    assert parameters_text(request, 1, "One", "0").startswith("ink wash painting of a cat, sumi-e")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a", "is not valid TOML"),
        ("a = 1", "write it as a table"),
        ("[A_b]", "an id has lower-case letters"),
        ('[a]\nprompt = "none"', "prompt has {prompt} once"),
        ("[a]\nprompt = 3", "prompt is a text"),
        ('[a]\nsize = "x"', "'size' is no key"),
    ],
)
def test_parse_styles_wrong_files_are_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_styles(text, "styles.toml")


def test_load_styles_own_file_adds_and_replaces(tmp_path: Path) -> None:
    (tmp_path / "styles.toml").write_text('[neon]\nname = "Ours"\nprompt = "{prompt}!"\n[new]\nprompt = "{prompt}?"\n')
    styles = load_styles(tmp_path)
    assert find_style("neon", styles) == Style("neon", "Ours", "{prompt}!")
    assert styles[-1].id == "new"
    assert len(styles) == len(SHIPPED_STYLES) + 1
    (tmp_path / "styles.toml").write_text("[x]\nprompt = 1")
    with pytest.raises(ConfigError, match=r"styles\.toml, style 'x'"):
        load_styles(tmp_path)


def test_merged_of_equal_ids_the_last_stays() -> None:
    assert merged([Style("a", "A", PROMPT)], [Style("a", "B", PROMPT)]) == (Style("a", "B", PROMPT),)


def test_resolve_choices_are_made_by_each_pictures_seed_and_kept_with_the_request() -> None:
    request = resolved("a {red|green|blue|black|white} cat", seed=5, count=4, style="neon")
    assert request.prompt == "a {red|green|blue|black|white} cat"
    assert len(set(request.prompts)) > 1
    assert resolved("a {red|green|blue|black|white} cat", seed=6).prompts == request.prompts[1:2]
    assert request.told.alone(2).prompt == f"{request.prompts[2]}, neon lights, glowing at night"
    record = parse_easel(easel_json(request, 2, 7, "j", "cpu", "fp32", "0"))
    assert record is not None
    assert record.request == request
    assert record.alone.told.alone(0).prompt == request.told.alone(2).prompt
    assert request_of(request_text(request)) == request


def test_resolve_list_makes_the_choices_of_each_line() -> None:
    request = resolved(lines=("a {red|green} cat", "a dog"), seed=1)
    assert request.prompts == ()
    assert request.alone(0).prompt in ("a red cat", "a green cat")
    assert request.alone(1).prompt == "a dog"


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("__nowhere__", "There is no wildcard"),
        ("{ | }", "become empty"),
        ("{a|b", "has no }"),
        ("{(red:9)|(red:9)} cat", "goes from 0 to 2"),
    ],
)
def test_resolve_choices_that_will_not_do_are_refused(prompt: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        resolved(prompt)


def test_load_wildcards_files_are_named_by_their_paths_and_wrong_ones_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "wildcards" / "places").mkdir(parents=True)
    (tmp_path / "wildcards" / "places" / "cities.txt").write_text("Rome\n# no\n")
    wildcards = load_wildcards(tmp_path)
    request = resolve(GenerationOptions("in __places/cities__"), CATALOGUE, new_seed=lambda: 1, wildcards=wildcards)
    assert request.prompts == ("in Rome",)
    (tmp_path / "wildcards" / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ConfigError, match="empty"):
        load_wildcards(tmp_path)
