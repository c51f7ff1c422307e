"""Every option of `/imagine`: drawn, told by the file, and drawn again from it, pixel for pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from bot import provenance
from bot.config import read_settings
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.files.models import load_catalogue
from bot.errors import AttachmentRefused, ModerationRefused, RequestError
from bot.generation import GenerationOptions, GenerationRequest
from bot.library import Studio
from bot.picture import Picture, to_image
from cogs.imagine import Imagine
from tests.unit.engine.ip_adapters import pocket_with_one

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "a red star on a blue background"
QUICK: dict[str, Any] = {"steps": 3, "seed": 7}

SHOWN: dict[str, tuple[Any, str]] = {
    "negative_prompt": ("a moon", "a moon"),
    "model": ("pocket", "pocket"),
    "aspect": ("3:2", "144×96"),
    "width": (96, "96×"),
    "height": (160, "×160"),
    "count": (2, "of 2"),
    "steps": (4, "4"),
    "guidance": (2.5, "2.5"),
    "seed": (99, "99"),
    "sampler": ("Euler a", "Euler a"),
    "style": ("neon", "neon: …, neon lights"),
    "lora": ("chalk:0.7", "chalk:0.7"),
    "image": ("picture", "strength 0.6"),
    "strength": (0.8, "strength 0.8"),
    "mask": ("mask", "a part of it"),
    "control": ("picture", "canny"),
    "control_type": ("scribble", "scribble"),
    "control_scale": (0.4, "scale 0.4"),
    "reference": ("picture", "a picture, scale 0.6"),
    "tiling": (True, "yes"),
    "quality": ("draft", "draft"),
}
"""A value of each option, and words by which `/info` tells of it."""
NEEDS = {"strength": "image", "mask": "image", "control_type": "control", "control_scale": "control"}
NOT_OF_THE_PICTURE = {"prompt", "private", "spoiler"}
"""The prompt is in every case; where a picture was shown is not in its file."""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    models = pocket_with_one(tmp_path_factory.mktemp("models"))
    settings = replace(read_settings({}), data_dir=tmp_path_factory.mktemp("data"), models_file=models)
    engine = DiffusersEngine(
        load_catalogue(settings), models_root=ROOT, cache_dir=settings.data_dir / "hub", device="cpu", dtype="auto", max_batch=4
    )  # fmt: skip
    yield Studio(settings, engine=engine)
    engine.close()


def picture() -> Image.Image:
    image = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(image).ellipse((30, 30, 90, 90), fill="red")
    return image


def mask() -> Image.Image:
    image = Image.new("RGB", (128, 128))
    image.paste((255, 255, 255), (20, 20, 100, 100))
    return image


def given(studio: Studio, name: str) -> dict[str, Any]:
    options = {**QUICK, name: SHOWN[name][0]}
    if name in NEEDS:
        options[NEEDS[name]] = "picture"
    pictures = {"picture": picture, "mask": mask}
    for option in ("image", "mask", "control", "reference"):
        if option in options:
            options[option] = studio.take_input(pictures[options[option]](), mask=option == "mask")
    return options


def drawn(studio: Studio, request: GenerationRequest, path: Path) -> list[Path]:
    result = studio.draw(request)
    paths = [path.with_name(f"{path.stem}-{one.n}.png") for one in result.pictures]
    for one, file in zip(result.pictures, paths, strict=True):
        to_image(one, studio.marks(request, one, result), studio.marker).save(file)
    return paths


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


def test_the_options_below_are_all_of_imagine() -> None:
    names = {option.name for option in Imagine.imagine.parameters}
    assert names - NOT_OF_THE_PICTURE == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_like_a_picture_of_each_option_draws_it_again_and_info_tells_it(
    studio: Studio, tmp_path: Path, name: str
) -> None:
    request = studio.prepare(GenerationOptions(PROMPT, **given(studio, name)))
    path = drawn(studio, request, tmp_path / "first.png")[-1]
    with Image.open(path) as image:
        told = provenance.read_info(
            {str(key): text for key, text in image.info.items() if isinstance(text, str)}, image.size
        )
    assert told is not None
    said = "\n".join([told.negative_prompt, *(f"{label}: {value}" for label, value in provenance.facts(told))])
    assert SHOWN[name][1] in said
    (again,) = drawn(studio, studio.prepare_like(studio.read_like(path), GenerationOptions("")), tmp_path / "again.png")
    most = max(abs(a - b) for a, b in zip(pixels(path), pixels(again), strict=True))
    assert most <= (2 if request.count > 1 else 0)
    plain = drawn(studio, studio.prepare(GenerationOptions(PROMPT, steps=3, seed=8)), tmp_path / "other.png")[0]
    assert pixels(plain) != pixels(path)


def test_like_a_picture_of_choices_a_style_and_a_server_draws_it_again_after_they_have_changed(
    studio: Studio, tmp_path: Path
) -> None:
    asked = GenerationOptions("a {red|green|blue} star", style="neon", count=2, **QUICK)
    request = replace(studio.prepare(asked), more_negative="fog", wrap="{prompt}, of an older file")
    path = drawn(studio, request, tmp_path / "first.png")[1]
    again = studio.prepare_like(studio.read_like(path), GenerationOptions(""))
    assert (again.told.prompt, again.told.negative_prompt) == (request.told.prompts[1], "fog")
    assert again.seed == 8


def test_like_a_picture_with_a_reference_draws_it_again_after_the_models_scale_has_changed(
    studio: Studio, tmp_path: Path
) -> None:
    asked = GenerationOptions(PROMPT, **given(studio, "reference"))
    request = replace(studio.prepare(asked), reference_scale=1.1)
    (path,) = drawn(studio, request, tmp_path / "first.png")
    again = studio.prepare_like(studio.read_like(path), GenerationOptions(""))
    assert (again.reference, again.reference_scale) == (request.reference, 1.1)
    other = studio.take_input(mask())
    assert studio.prepare_like(studio.read_like(path), GenerationOptions("", reference=other)).reference == other.digest


def test_like_what_is_given_comes_before_what_is_told(studio: Studio, tmp_path: Path) -> None:
    base = studio.prepare(GenerationOptions(PROMPT, style="neon", base_seed=3, variation=0.5, width=96, **QUICK))
    (path,) = drawn(studio, base, tmp_path / "first.png")
    new = studio.prepare_like(
        studio.read_like(path), GenerationOptions("a green star", aspect="3:2", guidance=0.0, seed=0, style="pixel-art")
    )
    assert (new.prompt, new.width, new.height, new.guidance_scale, new.seed) == ("a green star", 144, 96, 0.0, 0)
    assert (new.base_seed, new.style, new.num_inference_steps) == (None, "pixel-art", 3)
    assert "pixel" in new.wrap


def test_like_a_zero_that_is_given_is_given(studio: Studio, tmp_path: Path) -> None:
    control = studio.take_input(picture())
    base = studio.prepare(GenerationOptions(PROMPT, control=control, base_seed=3, variation=0.5, **QUICK))
    (path,) = drawn(studio, base, tmp_path / "first.png")
    new = studio.prepare_like(studio.read_like(path), GenerationOptions("", variation=0.0, control_scale=0.0))
    assert (new.variation, new.base_seed, new.control_scale) == (0.0, 3, 0.0)


def test_like_another_programs_picture_takes_what_it_tells(studio: Studio, tmp_path: Path) -> None:
    image = picture()
    image.info["parameters"] = "a blue star\nNegative prompt: fog\nSteps: 5, Sampler: Euler a, CFG scale: 3, Seed: 42, Size: 128x96, Model: Pocket"  # fmt: skip
    request = studio.prepare_like(studio.read_like(image), GenerationOptions(""))
    assert (request.prompt, request.negative_prompt, request.model) == ("a blue star", "fog", "pocket")
    assert (request.num_inference_steps, request.sampler, request.guidance_scale, request.seed) == (5, "Euler a", 3, 42)
    assert (request.width, request.height) == (128, 96)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [("", "does not say what made it"), ("a star\nSteps: 5000, Seed: 1", "Steps goes from 1 to 100"),
     ("a star\nSteps: 5, Sampler: Odd, Seed: 1", "no sampler 'Odd'")],
    ids=["nothing", "too many steps", "a sampler of another kind"],
)  # fmt: skip
def test_like_a_picture_that_will_not_do_says_why(studio: Studio, parameters: str, words: str) -> None:
    image = picture()
    image.info["parameters"] = parameters
    with pytest.raises(RequestError, match=words):
        studio.prepare_like(studio.read_like(image), GenerationOptions(""))


def test_like_no_picture_or_a_picture_whose_input_is_gone_is_one_sentence(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "words.png").write_bytes(b"words")
    with pytest.raises(AttachmentRefused, match="not a PNG"):
        studio.prepare_like(studio.read_like(tmp_path / "words.png"), GenerationOptions(""))
    with pytest.raises(RequestError, match="cannot be read"):
        studio.prepare_like(studio.read_like(tmp_path / "nowhere.png"), GenerationOptions(""))
    ref = studio.take_input(Image.new("RGB", (128, 128), "green"))
    (path,) = drawn(studio, studio.prepare(GenerationOptions(PROMPT, image=ref, **QUICK)), tmp_path / "first.png")
    studio._inputs.remove([ref.digest])
    with pytest.raises(RequestError, match="not kept any more; send it again"):
        studio.prepare_like(studio.read_like(path), GenerationOptions(""))


def test_like_words_that_are_refused_are_refused_in_a_record_too(studio: Studio, tmp_path: Path) -> None:
    request = replace(studio.prepare(GenerationOptions(PROMPT, style="neon", **QUICK)), wrap="{prompt}, naked child")
    with pytest.raises(ModerationRefused):
        studio.prepare_like(studio.read_like(drawn(studio, request, tmp_path / "first.png")[0]), GenerationOptions(""))


def test_like_a_pillow_image_of_the_library_needs_no_file(studio: Studio) -> None:
    request = studio.prepare(GenerationOptions(PROMPT, **QUICK))
    result = studio.draw(request)
    image = to_image(result.pictures[0], studio.marks(request, result.pictures[0], result), studio.marker)
    assert isinstance(image, Picture)
    assert studio.prepare_like(studio.read_like(image), GenerationOptions("")) == request
    image.save(BytesIO(), "PNG")
