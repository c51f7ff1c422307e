"""LoRAs and embeddings as people ask for them: what is read, what is refused, and how it stands in a picture's file."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bot import provenance
from bot.catalogue.addons import AddOn, fits
from bot.catalogue.models import Catalogue
from bot.catalogue.models_file import parse_catalogue
from bot.errors import ConfigError, RequestError
from bot.generation import GenerationOptions, GenerationRequest
from bot.limits import resolve
from bot.prompts.addons import offered, read_option, spelled, take_tags
from bot.prompts.again import options_of
from bot.store.rows import request_of, request_text

ENTRY = '[models.{id}]\nname = "{name}"\nsource = "a/b"\nfamily = "{family}"\nlicence = "MIT"\n'
MODELS = [
    ("small", "Small", "sd15"),
    ("real", "Real", "sd15"),
    ("large", "Large", "sdxl"),
    ("other", "Other", "qwen-image"),
]
LORAS = (
    AddOn("chalk", "own", "unet", 128, triggers=("chalk drawing",), only="small"),
    AddOn("chalk", "c", "sd15", 768),
    AddOn("Pixel Art", "p", "sdxl", 2048),
    AddOn("ink", "i", "sd15", 768),
    AddOn("odd", "o", "sd15", 768, kind="LoHa"),
    *(AddOn(f"more{n}", f"m{n}", "sd15", 768) for n in range(6)),
)
EMBEDDINGS = (
    AddOn("Sketchbook", "s", "unet", 128, "embedding", only="small"),
    AddOn("bad-hands", "b", "sd15", 768, "embedding"),
)


@pytest.fixture
def catalogue() -> Catalogue:
    text = "".join(ENTRY.format(id=id, name=name, family=family) for id, name, family in MODELS)
    read = parse_catalogue(text, origin="m.toml")
    small = dataclasses.replace(read["small"], words_width=128)
    return dataclasses.replace(read, models=(small, *read.models[1:]), loras=LORAS, embeddings=EMBEDDINGS)


def asked(catalogue: Catalogue, prompt: str = "a cat", **options: object) -> GenerationRequest:
    return resolve(GenerationOptions(prompt, **options), catalogue, new_seed=lambda: 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "rest", "found"),
    [
        ("a <lora:chalk:0.5> cat", "a cat", (("chalk", 0.5),)),
        ("<lora:chalk>a cat", "a cat", (("chalk", 1.0),)),
        ("a cat<LoRA:a b:-1><lora:c:2>", "a cat", (("a b", -1.0), ("c", 2.0))),
        ("a <lora:never closed", "a <lora:never closed", ()),
        ("a <lora:" + "x" * 130 + ">", "a <lora:" + "x" * 130 + ">", ()),
        ("1 < 2 > 0", "1 < 2 > 0", ()),
    ],
)
def test_take_tags_leaves_the_words_and_gives_the_loras(prompt: str, rest: str, found: tuple[object, ...]) -> None:
    assert take_tags(prompt) == (rest, found)


def test_read_option_takes_several_and_is_written_back() -> None:
    loras = read_option(" chalk , ink:0.125,, Pixel Art:-.5")
    assert loras == (("chalk", 1.0), ("ink", 0.125), ("Pixel Art", -0.5))
    assert read_option(spelled(loras)) == loras
    assert read_option("a:-0")[0][1] == 0.0


def test_resolve_loras_of_prompt_and_option_go_together_by_their_proper_names(catalogue: Catalogue) -> None:
    request = asked(catalogue, "a cat <lora:CHALK:0.8>", model="real", lora="Ink:0")
    assert (request.prompt, request.loras) == ("a cat", (("chalk", 0.8), ("ink", 0.0)))
    assert asked(catalogue).loras == ()
    assert request_of(request_text(request)) == request


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora": "chalk:2.5"}, "goes from -2 to 2; 2.5 of chalk does not fit"),
        ({"lora": "chalk:-3"}, "goes from -2 to 2"),
        ({"lora": "chalk:strong"}, "it takes one number"),
        ({"lora": "chalk:0.5:0.5"}, "it takes one number"),
        ({"lora": "chalk:nan"}, "it takes one number"),
        ({"lora": ":0.5"}, "names no LoRA"),
        ({"lora": "chalc"}, "There is no LoRA 'chalc'; did you mean chalk?"),
        ({"lora": "watercolour", "model": "large"}, "Large has Pixel Art"),
        ({"lora": "Pixel Art"}, "The LoRA Pixel Art was made for SDXL, not for Small"),
        ({"lora": "chalk", "model": "large"}, "The LoRA chalk was made for Small, not for Large"),
        ({"lora": "ink"}, "made for Stable Diffusion 1.x, not for Small"),
        ({"lora": "chalk", "model": "other"}, "Other takes no LoRAs"),
        ({"lora": "odd", "model": "real"}, "odd is a LoHa, which is not drawn with here"),
        ({"lora": "chalk, chalk:0.5"}, "named twice"),
        ({"lora": "ink, more0, more1, more2, more3, more4", "model": "real"}, "At most 5 LoRAs"),
        ({"lora": "x" * 500}, "The LoRA has 500 characters"),
        ({"negative_prompt": "<lora:chalk:1>"}, "into the prompt, not into the negative one"),
        ({"prompt": "<lora:chalk:1>"}, "prompt is empty"),
        ({"prompt": "a <bad-hands>"}, "The embedding <bad-hands> was made for Stable Diffusion 1.x, not for Small"),
        ({"prompt": "a <sketchbok>"}, "did you mean <Sketchbook>?"),
    ],
)  # fmt: skip
def test_resolve_addon_that_does_not_go_is_refused_in_one_sentence(
    catalogue: Catalogue, options: dict[str, object], words: str
) -> None:
    with pytest.raises(RequestError) as refused:
        asked(catalogue, **{"prompt": "a cat", **options})  # type: ignore[arg-type]
    assert words in str(refused.value)
    assert len(str(refused.value)) < 250


def test_resolve_embedding_is_named_properly_and_other_brackets_stay(catalogue: Catalogue) -> None:
    request = asked(catalogue, "a <sketchbook> <3 <of a cat>", negative_prompt="<SKETCHBOOK>")
    assert (request.prompt, request.negative_prompt) == ("a <Sketchbook> <3 <of a cat>", "<Sketchbook>")


def test_offered_names_each_once_and_no_kind_that_is_not_drawn(catalogue: Catalogue) -> None:
    assert [one.path for one in offered(catalogue.loras, catalogue["small"])] == ["own"]
    assert [one.name for one in offered(catalogue.loras, catalogue["real"])][:2] == ["chalk", "ink"]
    assert not any(one.name == "odd" for one in offered(catalogue.loras, catalogue["real"]))


def test_fits_without_a_width_goes_by_the_family() -> None:
    told = AddOn("a", "a", "sdxl")
    assert fits(told, "m", "sdxl", None)
    assert not fits(told, "m", "sd15", None)
    assert fits(AddOn("a", "a", "flux"), "m", "flux", None)
    assert not fits(AddOn("a", "a", "flux"), "m", "sd3", None)


def test_file_says_its_loras_as_a1111_does_and_reads_them_back(catalogue: Catalogue) -> None:
    request = asked(catalogue, lora="chalk:0.8")
    text = provenance.parameters_text(request, 1, "Small", "0.1.0", {"chalk": "f9ea7211faf5"})
    assert text.startswith("a cat <lora:chalk:0.8>\nSteps:")
    assert 'Lora hashes: "chalk: f9ea7211faf5", Version' in text
    record = provenance.parse_easel(provenance.easel_json(request, 0, 1, "", "cpu", "fp32", "0.1.0"))
    assert record is not None
    assert record.request == request
    assert ("LoRA", "chalk:0.8") in provenance.addon_facts(request)


@pytest.mark.parametrize("value", ["chalk", [["chalk"]], [["chalk", "x"]], [[1, 1]], [["a", 1.0]] * 6, [{}]])
def test_parse_easel_with_loras_that_are_none_is_none(catalogue: Catalogue, value: object) -> None:
    text = provenance.easel_json(asked(catalogue, lora="chalk"), 0, 1, "", "cpu", "fp32", "0.1.0")
    data = json.loads(text)
    data["request"]["loras"] = value
    assert provenance.parse_easel(json.dumps(data)) is None


@pytest.mark.parametrize(
    ("family", "line", "words"),
    [
        ("qwen-image", 'loras = { a = "x" }', "loras is for the families sd15"),
        ("flux", 'embeddings = { a = "x" }', "embeddings is for the families sd15"),
        ("sd15", 'loras = { "a,b" = "x" }', "a name has no , : < >"),
        ("sd15", "loras = { a = 1 }", r"loras\.a is a \.safetensors file"),
    ],
)
def test_parse_catalogue_addon_that_cannot_be_is_named(family: str, line: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_catalogue(ENTRY.format(id="m", name="M", family=family) + line, origin="m.toml")


def test_resolve_list_keeps_the_loras_of_each_line_and_again_takes_them_up(catalogue: Catalogue) -> None:
    lines = ("a cat <lora:chalk:0.5>", "a dog", "a cow <lora:chalk>")
    request = asked(catalogue, lines=lines)
    assert [request.alone(n).loras for n in range(3)] == [(("chalk", 0.5),), (), (("chalk", 1.0),)]
    again = resolve(options_of(request), catalogue, new_seed=lambda: 1)
    assert [again.alone(n).loras for n in range(3)] == [request.alone(n).loras for n in range(3)]
    assert [variant.prompt for variant in again.variants] == ["a cat", "a dog", "a cow"]
    shared = asked(catalogue, lines=("a cat", "a dog"), lora="chalk:0.5")
    assert (shared.loras, shared.variants[1].loras) == ((("chalk", 0.5),), None)


def test_resolve_brace_with_a_backslash_is_a_brace(catalogue: Catalogue) -> None:
    request = asked(catalogue, r"a \{red|green\} cat")
    assert request.alone(0).prompt == "a {red|green} cat"
