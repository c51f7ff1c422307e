from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bot import __version__ as bot_version
from bot import cli, library
from bot.cli import build_parser, main
from bot.config import read_environment, read_settings
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.files.models import load_catalogue
from bot.engine.files.weights import ModelFiles
from bot.errors import ModelError, ModerationRefused, OutOfMemory, RequestError
from bot.files.certificate import known_identities
from bot.generation import FetchProgress, GenerationOptions, GenerationRequest, GenerationResult, RawPicture
from bot.library import Studio, generate_image, generate_images, upscale_image
from bot.picture import Picture
from bot.provenance import parse_easel, read_info
from bot.verify import Outcome, verify
from tests.unit.engine.ip_adapters import pocket_with_one

ROOT = Path(__file__).resolve().parents[2]
MARK = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@pytest.fixture(scope="module")
def engine() -> DiffusersEngine:
    catalogue = load_catalogue(read_settings({}))
    return DiffusersEngine(
        catalogue, models_root=ROOT, cache_dir=ROOT / "data" / "models" / "hub", device="cpu", dtype="auto", max_batch=4
    )


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: DiffusersEngine) -> Iterator[None]:
    """No setting of the machine's, an empty folder to be in, one engine for all; the log is as loud afterwards as before."""
    for name in [n for n in os.environ if n.startswith(("EASEL_", "DISCORD_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EASEL_DEVICE", "cpu")
    monkeypatch.setenv("EASEL_DATA_DIR", f"{tmp_path}-data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(library, "_make_engine", lambda catalogue, settings: engine)
    library._studio.cache_clear()
    ours = logging.getLogger("bot")
    level = ours.level
    yield
    ours.setLevel(level)


def shell(*arguments: str) -> int:
    return main(["generate", "--steps", "2", *arguments])


def info_of(path: Path) -> Any:
    with Image.open(path) as image:
        return read_info({key: value for key, value in image.info.items() if isinstance(value, str)}, image.size)


def test_generate_prompt_writes_a_png_that_says_what_made_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert shell("a sunset over a beach", "--seed", "5", "--negative-prompt", "a moon", "-o", "out.png") == 0
    with Image.open("out.png") as image:
        assert (image.format, image.size) == ("PNG", (128, 128))
        assert image.info["parameters"].startswith("a sunset over a beach\nNegative prompt: a moon\nSteps: 2,")
        assert MARK in image.info["XML:com.adobe.xmp"]
    info = info_of(Path("out.png"))
    assert (info.source, info.seed, info.prompt) == ("easel", 5, "a sunset over a beach")
    out, err = capsys.readouterr()
    assert out == "out.png\n"
    assert "2/2" in err
    assert main(["verify", "out.png"]) == 0
    assert "This Easel made this file" in capsys.readouterr().out


def pixels_of(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_generate_variation_goes_from_one_seeds_picture_to_anothers_and_its_info_draws_it_again() -> None:
    varied = ("--base-seed", "5", "--seed", "9", "--variation")
    for name, flags in {
        "five": ("--seed", "5"), "nine": ("--seed", "9"), "none": (*varied, "0"), "all": (*varied, "1"),
        "near": (*varied, "0.2"), "as-told": ("--base_seed", "5", "--seed", "9", "--variation", "0.2"),
    }.items():  # fmt: skip
        assert shell("a sunset over a beach", *flags, "-o", f"{name}.png") == 0
    five, nine, near = pixels_of("five.png"), pixels_of("nine.png"), pixels_of("near.png")
    assert abs(pixels_of("none.png") - five).max() <= 2
    assert abs(pixels_of("all.png") - nine).max() <= 2
    assert 0 < abs(near - five).mean() < abs(near - nine).mean()
    info = info_of(Path("near.png"))
    assert (info.seed, ("Variation", "0.2 away from seed 5") in info.extra) == (9, True)
    assert (pixels_of("as-told.png") == near).all()
    assert shell("--like", "near.png", "--variation", "0", "-o", "back.png") == 0
    assert abs(pixels_of("back.png") - five).max() <= 2
    picture = generate_image("a sunset over a beach", steps=2, seed=9, base_seed=5, variation=0.2)
    assert (np.asarray(picture) == near).all()


def test_generate_variation_without_its_base_seed_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert shell("a forest", "--variation", "0.2", "-o", "x.png") == 1
    assert "give the base seed, too" in capsys.readouterr().err


def test_generate_has_a_flag_for_every_option_but_lists() -> None:
    flags = set(vars(build_parser().parse_args(["generate"])))
    assert {item.name for item in fields(GenerationOptions)} - flags == {"lines", "axes"}


def test_generate_count_numbers_the_files_and_seeds() -> None:
    assert shell("a forest", "--count", "2", "--seed", "9", "-o", "new/pic.png") == 0
    assert sorted(path.name for path in Path("new").iterdir()) == ["pic-1.png", "pic-2.png"]
    assert [info_of(Path(f"new/pic-{n}.png")).seed for n in (1, 2)] == [9, 10]
    assert shell("a forest", "--seed", "10", "-o", "alone.png") == 0
    with Image.open("alone.png") as alone, Image.open("new/pic-2.png") as second:
        difference = max(abs(a - b) for a, b in zip(alone.tobytes(), second.tobytes(), strict=True))
    assert difference <= 2


def test_generate_prompts_file_draws_a_line_each_with_rising_seeds() -> None:
    Path("list.txt").write_text("﻿a forest\n\n  a desert at dawn \n", encoding="utf-8")
    assert shell("--prompts", "list.txt", "--seed", "40", "-o", "pics") == 0
    assert sorted(path.name for path in Path("pics").iterdir()) == ["0001.png", "0002.png"]
    found = [info_of(Path(f"pics/000{n}.png")) for n in (1, 2)]
    assert [(info.prompt, info.seed) for info in found] == [("a forest", 40), ("a desert at dawn", 41)]


def test_generate_prompts_file_with_count_numbers_both() -> None:
    Path("list.txt").write_text("a forest\na desert\n", encoding="utf-8")
    assert shell("--prompts", "list.txt", "--seed", "1", "--count", "2", "--steps", "1", "-o", "pics") == 0
    names = sorted(path.name for path in Path("pics").iterdir())
    assert names == ["0001-1.png", "0001-2.png", "0002-1.png", "0002-2.png"]


def test_generate_without_seed_takes_a_random_one_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "random_seed", lambda: 1234)
    Path("list.txt").write_text("a forest\na desert\n", encoding="utf-8")
    assert shell("--prompts", "list.txt") == 0
    assert [info_of(Path(f"easel-pictures/000{n}.png")).seed for n in (1, 2)] == [1234, 1235]


def test_generate_like_draws_a_file_again_and_what_is_given_comes_first() -> None:
    assert shell("a {red|green} star", "--seed", "5", "--count", "2", "-o", "first.png") == 0
    assert main(["generate", "--like", "first-2.png", "-o", "again.png"]) == 0
    assert main(["generate", "a blue star", "--like", "first-2.png", "--seed", "9", "-o", "new.png"]) == 0
    first, again, new = (info_of(Path(f"{name}.png")) for name in ("first-2", "again", "new"))
    assert (again.prompt, again.seed, again.steps) == (first.prompt, 6, 2)
    assert (new.prompt, new.seed, new.steps) == ("a blue star", 9, 2)
    Path("list.txt").write_text("a forest\na desert\n", encoding="utf-8")
    assert main(["generate", "--like", "first-2.png", "--prompts", "list.txt", "-o", "pics"]) == 0
    assert [info_of(Path(f"pics/000{n}.png")).seed for n in (1, 2)] == [6, 7]
    assert main(["generate", "--like", "first-2.png"]) == 0
    assert Path("easel-6.png").exists()


def test_generate_private_and_spoiler_show_in_the_file() -> None:
    assert shell("a forest", "--private", "--spoiler", "-o", "out.png") == 0
    path = Path("SPOILER_out.png")
    assert path.is_file()
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600


def test_generate_from_a_picture_says_so_in_the_file_and_its_record_draws_it_again() -> None:
    Image.new("RGB", (300, 200), "red").save("given.png")
    asked = ("a blue star", "--image", "given.png", "--strength", "0.5", "--steps", "4", "--seed", "3")
    assert shell(*asked, "-o", "one.png") == 0
    with Image.open("one.png") as image:
        assert image.size == (160, 104)  # the picture's shape, as many pixels as the model likes
        record = parse_easel(image.text["easel"])  # type: ignore[attr-defined]
    assert record is not None
    assert (record.request.strength, len(record.request.image)) == (0.5, 64)
    facts = dict(info_of(Path("one.png")).extra)
    assert facts["From a picture"] == "strength 0.5"
    studio = Studio(read_environment(os.environ))
    (again,) = studio.draw(record.alone).pictures
    with Image.open("one.png") as image:
        assert again.pixels == image.convert("RGB").tobytes()


def test_generate_reference_is_drawn_with_from_shell_and_library_and_its_record_draws_it_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EASEL_MODELS_FILE", str(pocket_with_one(tmp_path)))
    catalogue = load_catalogue(read_environment(os.environ))
    own = DiffusersEngine(catalogue, models_root=tmp_path, cache_dir=tmp_path, device="cpu", dtype="auto", max_batch=4)
    monkeypatch.setattr(library, "_make_engine", lambda catalogue, settings: own)
    given = Image.effect_mandelbrot((300, 200), (-2, -1.5, 1, 1.5), 50)
    given.save("given.png")
    assert shell("a blue star", "--reference", "given.png", "--seed", "3", "-o", "one.png") == 0
    with Image.open("one.png") as image:
        record = parse_easel(image.text["easel"])  # type: ignore[attr-defined]
        drawn = image.convert("RGB")
    assert record is not None
    assert dict(info_of(Path("one.png")).extra)["Reference"] == "a picture, scale 0.6"
    (again,) = Studio(read_environment(os.environ)).draw(record.alone).pictures
    assert again.pixels == drawn.tobytes()
    ours = generate_image("a blue star", reference=given, seed=3, steps=2)
    assert ours.convert("RGB").tobytes() == drawn.tobytes()
    assert generate_image("a blue star", seed=3, steps=2).convert("RGB").tobytes() != drawn.tobytes()
    own.close()


def test_generate_reference_with_the_model_as_shipped_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (300, 200), "red").save("given.png")
    assert shell("a blue star", "--reference", "given.png") == 1
    assert "Pocket has no IP-Adapter" in capsys.readouterr().err


def test_upscale_enlarges_a_file_by_its_own_words_and_the_new_file_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert shell("a forest", "--seed", "3", "-o", "small.png") == 0
    assert main(["upscale", "small.png", "-o", "new/large.png", "--factor", "4"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "new/large.png"
    with Image.open("new/large.png") as image:
        assert image.size == (512, 512)
        assert image.info["parameters"] == (
            f"a forest\nSize: 512x512, Model: pocket-4x, Postprocess upscale by: 4, Version: Easel {bot_version}"
        )
        assert MARK in image.info["XML:com.adobe.xmp"]
    info = info_of(Path("new/large.png"))
    assert (info.prompt, info.steps, info.seed, dict(info.extra)["Upscaled"]) == ("a forest", None, None, "×4")
    assert dict(info.extra)["Drawn by"] == "pocket"
    assert main(["verify", "new/large.png"]) == 0
    assert main(["upscale", "small.png", "--mode", "detail"]) == 0
    with Image.open("small-2x.png") as image:
        assert image.size == (256, 256)
        record = parse_easel(image.text["easel"])  # type: ignore[attr-defined]
    assert record is not None
    assert (record.request.upscale, record.request.upscale_mode, record.request.model) == (2, "detail", "pocket")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.png"], "cannot be read"),
        (["given.png", "--factor", "3"], "2 or 4 times, not 3"),
        (["given.png", "--mode", "magic"], "plain, detail"),
        (["given.png", "-o", "out.jpg"], "ends in .png"),
        (["large.png"], "2048 px a side are enlarged"),
    ],
)
def test_upscale_that_cannot_be_says_what_can(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (30, 20), "red").save("given.png")
    Image.new("RGB", (2050, 20), "red").save("large.png")
    assert main(["upscale", *arguments]) == 1
    assert words in capsys.readouterr().err


def test_upscale_image_gives_a_picture_that_saves_its_marks() -> None:
    given = Image.new("RGB", (40, 30), "red")
    made = upscale_image(given, prompt="all red")
    assert (made.size, isinstance(made, Picture)) == ((80, 60), True)
    made.save("red.png")
    assert info_of(Path("red.png")).prompt == "all red"


def test_generate_prompts_share_passes_and_each_file_says_what_draws_it_alone(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[GenerationRequest] = []
    draw = engine.generate
    monkeypatch.setattr(engine, "generate", lambda request, *rest: (asked.append(request), draw(request, *rest))[1])
    prompts = [f"a red circle {n}" for n in range(9)]
    Path("p.txt").write_text("\n".join(prompts))
    assert shell("--prompts", "p.txt", "--seed", "5", "--count", "2", "-o", "out") == 0
    assert [request.count for request in asked] == [16, 2]
    for n, prompt in enumerate(prompts):
        for variant in (0, 1):
            info = info_of(Path(f"out/{n + 1:04d}-{variant + 1}.png"))
            assert (info.prompt, info.seed) == (prompt, 5 + n + variant)
    with Image.open("out/0003-2.png") as image:
        record = parse_easel(image.info["easel"])
        assert record is not None
        again = np.frombuffer(draw(record.alone, library.Silence()).pictures[0].pixels, np.uint8)
        drawn = np.frombuffer(image.tobytes(), np.uint8)
    assert np.abs(again.astype(int) - drawn.astype(int)).max() <= 2


@pytest.fixture
def noted(engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch) -> str:
    """What an engine says of every prompt that it does not read to its end."""
    note = "Pocket did not read the end of the prompt, “at night”; shorten it."
    draw = engine.generate
    monkeypatch.setattr(engine, "generate", lambda *given: replace(draw(*given), note=note))
    return note


def test_generate_says_on_standard_error_what_was_not_read(noted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell("a forest", "--steps", "1", "-o", "a.png") == 0
    out, err = capsys.readouterr()
    assert out == "a.png\n"
    assert noted in err.splitlines()


def test_generate_image_warns_of_what_was_not_read(noted: str) -> None:
    with pytest.warns(UserWarning, match="did not read the end of the prompt, “at night”"):
        generate_image("a forest", steps=1)


def test_generate_prompts_picture_that_came_out_broken_is_named_and_the_others_are_there(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = engine.generate

    def without_the_second(request: GenerationRequest, *rest: Any) -> GenerationResult:
        result = draw(request, *rest)
        return replace(result, pictures=(result.pictures[0], *result.pictures[2:]))

    monkeypatch.setattr(engine, "generate", without_the_second)
    Path("p.txt").write_text("one\ntwo\nthree")
    assert shell("--prompts", "p.txt", "-o", "out") == 1
    assert sorted(path.name for path in Path("out").iterdir()) == ["0001.png", "0003.png"]
    assert "are missing: 0002.png" in capsys.readouterr().err


def test_generate_grid_writes_one_sheet_that_says_what_it_compares() -> None:
    assert shell("a red circle", "--grid-x", "guidance: 1, 4", "--grid-y", "seed: 1, 2", "-o", "sheet.png") == 0
    with Image.open("sheet.png") as image:
        record = parse_easel(image.info["easel"])
        assert min(image.size) > 256
    assert record is not None
    assert record.request.count == 4
    assert ("Compares", "guidance 1, 4 × seed 1, 2") in info_of(Path("sheet.png")).extra
    assert [path.name for path in Path().iterdir()] == ["sheet.png"]


def test_generate_grid_over_styles_and_a_loras_weight_is_drawn_again_from_its_file() -> None:
    axes = ("--grid-x", "style: none, neon", "--grid-y", "lora weight: 0, 0.8")
    assert shell("a red circle", *axes, "--lora", "chalk", "--seed", "5", "-o", "sheet.png") == 0
    assert shell("--like", "sheet.png", "-o", "again.png") == 0
    with Image.open("sheet.png") as first, Image.open("again.png") as second:
        assert np.abs(np.asarray(first).astype(int) - np.asarray(second)).max() <= 2
        records = [parse_easel(image.info["easel"]) for image in (first, second)]
    assert records[0] is not None
    assert records[1] is not None
    assert records[0].request == records[1].request
    assert [one.loras for one in records[0].request.variants] == [(("chalk", 0.0),)] * 2 + [(("chalk", 0.8),)] * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompts", "p.txt", "--grid-x", "seed: 1, 2"], "compares one prompt"),
        (["x", "--grid-x", "seed"], "--grid-x is “seed”"),
        (["x", "--grid-y", "seed: 1, 2", "--count", "2"], "leave the count out"),
    ],
    ids=["prompts", "no values", "count"],
)
def test_generate_grid_that_will_not_do_says_why(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("p.txt").write_text("a\nb\n")
    assert shell(*arguments) == 1
    assert words in capsys.readouterr().err


def test_generate_lora_draws_with_it_and_the_file_says_so() -> None:
    assert shell("a cat <lora:chalk:0.5>", "--lora", "easelbot:0", "--seed", "5", "-o", "one.png") == 0
    info = info_of(Path("one.png"))
    assert ("LoRA", "chalk:0.5, easelbot:0") in info.extra
    with Image.open("one.png") as file:
        assert "a cat <lora:chalk:0.5> <lora:easelbot:0>" in file.info["parameters"]
        assert 'Lora hashes: "chalk: ' in file.info["parameters"]
        drawn = file.convert("RGB").tobytes()
    again = generate_image("a cat", lora="chalk:0.5", seed=5, steps=2)
    assert again.convert("RGB").tobytes() == drawn
    assert generate_image("a cat", seed=5, steps=2).convert("RGB").tobytes() != drawn


def test_models_lists_loras_with_the_words_that_call_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("chalk "))
    assert line.split(None, 3) == ["chalk", "pocket", "LoCon", "chalk drawing"]


def test_generate_every_option_of_imagine_has_both_spellings() -> None:
    elsewhere = {"prompt", "lines", "axes", "base_seed", "variation"}  # those of lists, sheets and *Vary*
    names = [name for name in GenerationOptions.__dataclass_fields__ if name not in elsewhere]
    values = {
        "negative_prompt": "x", "model": "pocket", "aspect": "3:2", "width": "64", "height": "64", "count": "2",
        "steps": "3", "guidance": "2.5", "seed": "4", "sampler": "Euler a", "quality": "draft", "style": "neon", "image": "a.png",
        "strength": "0.5", "mask": "b.png", "control": "c.png", "control_type": "canny", "control_scale": "0.8", "lora": "chalk:0.8",
        "reference": "d.png",
    }  # fmt: skip
    for spelling in (str, lambda name: name.replace("_", "-")):
        line = ["generate", "a prompt"]
        for name in names:
            line += [f"--{spelling(name)}", values[name]] if name in values else [f"--{spelling(name)}"]
        parsed = vars(build_parser().parse_args(line))
        assert (parsed["negative_prompt"], parsed["quality"]) == ("x", "draft")
        assert (parsed["guidance"], parsed["steps"], parsed["private"], parsed["spoiler"]) == (2.5, 3, True, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate"], "Give a prompt, as"),
        (["generate", "--like", "good.txt"], "not a PNG, JPEG or WebP picture"),
        (["generate", "--like", "nowhere.png"], "nowhere.png cannot be read"),
        (["generate", "a", "--prompts", "b.txt"], "Give either a prompt"),
        (["generate", " "], "prompt is empty"),
        (["generate", "x" * 6000], "6,000 characters"),
        (["generate", "a", "--width", "65"], "multiple of 8"),
        (["generate", "a", "--width", "4096"], "at most 256"),
        (["generate", "a", "--model", "pockte"], "did you mean pocket"),
        (["generate", "a", "--sampler", "Euler z"], "sampler"),
        (["generate", "a", "--count", "99"], "Count goes from 1"),
        (["generate", "a", "--guidance", "nan"], "Guidance takes a number"),
        (["generate", "a", "--image", "nowhere.png"], "nowhere.png cannot be read"),
        (["generate", "a", "--strength", "0.5"], "add the picture"),
        (["generate", "a", "--lora", "chalc"], "There is no LoRA 'chalc'; did you mean chalk?"),
        (["generate", "a", "--lora", "chalk", "--model", "sdxl"], "made for Pocket, not for Stable Diffusion XL"),
        (["generate", "a <sketchbok>"], "did you mean <sketchbook>?"),
        (["generate", "a", "--steps", "many"], "--steps: invalid int value"),
        (["generate", "a", "--seed", "-1"], "Seed goes from 0"),
        (["generate", "a", "--stepps", "3"], "--stepps"),
        (["generate", "a", "-o", "out.gif"], "ends in .png"),
        (["generate", "--prompts", "none.txt"], "none.txt cannot be read"),
        (["generate", "--prompts", "empty.txt"], "has no prompts"),
        (["generate", "--prompts", "binary.txt"], "not a UTF-8 text file"),
        (["generate", "--prompts", "second.txt"], "Prompt 2 of second.txt: The prompt has 2,000 characters"),
        (["generate", "--prompts", "second.txt", "-o", "second.txt"], "Prompt 2"),
        (["generate", "--prompts", "good.txt", "-o", "good.txt"], "is a file"),
        (["generate", "a", "-o", "good.txt/out.png"], "The folder good.txt cannot be made"),
        (["demo", "--port", "99999"], "port"),
        (["paint"], "invalid choice"),
        (["models", "fetch", "huge"], "no model 'huge'"),
        (["run"], "DISCORD_TOKEN is not set"),
    ],
)
def test_main_bad_input_is_one_sentence_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    Path("empty.txt").write_text("\n \n", encoding="utf-8")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00")
    Path("good.txt").write_text("a forest\n", encoding="utf-8")
    Path("second.txt").write_text("a forest\n" + "x" * 2000, encoding="utf-8")
    before = {path.name for path in Path.cwd().iterdir()}
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("easel: ")
    assert words in err
    assert err.count("\n") == 1
    assert {path.name for path in Path.cwd().iterdir()} == before


def test_main_wrong_setting_names_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASEL_MAX_BATCH", "many")
    assert main(["models"]) == 1
    assert "EASEL_MAX_BATCH is 'many'; it takes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (OutOfMemory("Pocket has no room."), 1, "easel: Pocket has no room.\n"),
        (OSError(28, "No space left on device", "out.png"), 1, "easel: out.png: No space left on device.\n"),
        (KeyboardInterrupt(), 130, "Interrupted."),
    ],
    ids=["engine", "disk", "ctrl-c"],
)
def test_generate_failure_while_drawing_leaves_no_file_and_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, words: str
) -> None:
    def fail(*args: Any) -> GenerationResult:
        raise raised

    monkeypatch.setattr(DiffusersEngine, "generate", fail)
    assert shell("a forest", "-o", "out.png") == code
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert list(Path.cwd().iterdir()) == []


def test_generate_model_folder_that_is_none_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, engine: DiffusersEngine
) -> None:
    Path("mine").mkdir()
    Path("models.toml").write_text(
        '[models.mine]\nname = "Mine"\nsource = "./mine"\nfamily = "sd15"\nlicence = "MIT"\n', encoding="utf-8"
    )
    monkeypatch.setenv("EASEL_MODELS_FILE", "models.toml")
    settings = read_settings(os.environ)
    own = DiffusersEngine(
        load_catalogue(settings), models_root=Path.cwd(), cache_dir=Path("hub"), device="cpu", dtype="auto", max_batch=1
    )
    monkeypatch.setattr(library, "_make_engine", lambda catalogue, settings: own)
    assert shell("a forest") == 1
    assert "mine is no diffusers model folder: it has no model_index.json." in capsys.readouterr().err


def test_models_lists_the_catalogue_with_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    pocket = next(line for line in lines if line.startswith("pocket"))
    assert all(word in pocket for word in ("Pocket", "128×128", "MIT", "here"))
    gated = next(line for line in lines if line.startswith("sd35-medium"))
    assert "not here, 16.0 GB to download, needs HF_TOKEN" in gated
    assert "The default is pocket." in lines[-1]


def test_models_lists_annotators_with_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert ["pocket-captions", "Pocket", "captions", "caption", "MIT", "here"] in lines
    blip = next(line for line in lines if line[0] == "blip-large")
    assert " ".join(blip).endswith("caption BSD 3-Clause not here, 1.9 GB to download")


def test_models_fetch_annotator_that_is_here_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "fetch", "pocket-captions"]) == 0
    assert capsys.readouterr().out == "pocket-captions is here.\n"


def test_models_fetch_what_is_here_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "fetch", "pocket"]) == 0
    assert capsys.readouterr().out == "pocket is here.\n"


@pytest.mark.parametrize(
    ("token", "chosen", "words"),
    [("", "demo", "DISCORD_TOKEN is not set: starting the demo"), ("a.b.c", "run", "starting the bot")],
    ids=["demo", "bot"],
)
def test_main_without_command_runs_bot_or_demo_and_says_which(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, token: str, chosen: str, words: str
) -> None:
    started: list[str] = []
    monkeypatch.setenv("DISCORD_TOKEN", token)
    monkeypatch.setattr(cli, "log_as_set", lambda settings: None)
    monkeypatch.setattr("bot.app.run_bot", lambda settings: started.append("run") or 0)
    monkeypatch.setattr("bot.demo.run_demo", lambda settings, port: started.append("demo") or 0)
    assert main([]) == 0
    assert started == [chosen]
    err = capsys.readouterr().err
    assert words in err
    assert "a.b.c" not in err


def test_generate_image_carries_its_marks_into_every_file() -> None:
    image = generate_image("a sunset over the mountains", seed=3, steps=2)
    assert isinstance(image, Image.Image)
    assert image.size == (128, 128)
    image.save("output.png")
    info = info_of(Path("output.png"))
    assert (info.prompt, info.seed, info.steps) == ("a sunset over the mountains", 3, 2)
    with Image.open("output.png") as back:
        assert back.tobytes() == image.tobytes()
        assert MARK in back.info["XML:com.adobe.xmp"]
    for name in ("output.jpg", "output.webp", "output.png"):
        image.save(name)
        report = verify(Path(name).read_bytes(), known_identities(Path(os.environ["EASEL_DATA_DIR"]), None, None))
        assert report.outcome is Outcome.OURS, name
        assert report.source_type == MARK
        assert report.info is not None
        assert report.info.seed == 3


def test_picture_text_beyond_latin_survives_saving() -> None:
    image = generate_image("a forest 森の写真 🎨", seed=3, steps=1)
    assert isinstance(image, Picture)
    with open("stream", "wb") as stream:
        image.save(stream, format="PNG")
    with Image.open("stream") as back:
        assert back.info["parameters"].startswith("a forest 森の写真 🎨")


def test_generate_images_count_gives_that_many() -> None:
    images = generate_images("a forest", count=2, seed=1, steps=1)
    assert len(images) == 2
    assert images[0].tobytes() != images[1].tobytes()


def test_generate_image_refused_prompt_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiffusersEngine, "generate", lambda *args: pytest.fail("it was drawn"))
    with pytest.raises(ModerationRefused):
        generate_image("a nude child")
    with pytest.raises(RequestError):
        generate_image("a forest", width=63)


class _Elsewhere:
    """Weights that have to be fetched, and an engine that must not draw before."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.done: list[str] = []

    def is_local(self, model_id: str) -> bool:
        return False

    def fetch(self, model_id: str, on_progress: Any, stopped: Any) -> None:
        self.done.append(f"fetch {model_id}")
        if self.error is not None:
            raise self.error

    def start(self) -> Any:
        return None

    def describe(self, annotator: str, picture: RawPicture, listener: Any) -> str:
        self.done.append("describe")
        return "a boat"

    def generate(self, request: GenerationRequest, listener: Any, inputs: Any = None) -> GenerationResult:
        self.done.append("generate")
        return GenerationResult((RawPicture(0, request.seed, 1, 1, b"abc"),), 0.1, 0.2, "cpu", "fp32")

    def close(self) -> None:
        return None


def test_studio_missing_model_is_fetched_before_drawing() -> None:
    house = _Elsewhere(None)
    studio = Studio(read_settings(os.environ), engine=house, weights=house, new_seed=lambda: 77)
    request = studio.prepare(GenerationOptions("a forest"))
    assert request.seed == 77
    studio.draw(request)
    assert house.done == ["fetch pocket", "generate"]


def test_studio_control_network_is_fetched_before_drawing() -> None:
    house = _Elsewhere(None)
    studio = Studio(read_settings(os.environ), engine=house, weights=house)
    picture = studio.take_input(Image.new("RGB", (64, 64), "red"))
    studio.draw(studio.prepare(GenerationOptions("a forest", control=picture, control_type="raw scribble")))
    assert house.done == ["fetch pocket", "fetch pocket+scribble", "generate"]


def test_studio_ip_adapter_is_fetched_before_drawing(tmp_path: Path) -> None:
    house = _Elsewhere(None)
    settings = replace(read_settings(os.environ), models_file=pocket_with_one(tmp_path))
    studio = Studio(settings, engine=house, weights=house)
    picture = studio.take_input(Image.new("RGB", (64, 64), "red"))
    studio.draw(studio.prepare(GenerationOptions("a forest", reference=picture)))
    assert house.done == ["fetch pocket", "fetch pocket+reference", "generate"]


def test_studio_captioner_that_is_asked_for_and_missing_is_fetched_before_it_looks() -> None:
    elsewhere = _Elsewhere(None)
    studio = Studio(read_environment(os.environ), engine=elsewhere, weights=elsewhere)
    assert studio.describe(Image.new("RGB", (40, 30), "red"), "blip-large").annotator == "blip-large"
    assert elsewhere.done == ["fetch blip-large", "describe"]


def test_studio_model_that_cannot_be_fetched_is_not_drawn() -> None:
    house = _Elsewhere(ModelError("accept the licence"))
    studio = Studio(read_settings(os.environ), engine=house, weights=house)
    with pytest.raises(ModelError, match="accept the licence"):
        studio.draw(studio.prepare(GenerationOptions("a forest")))
    assert house.done == ["fetch pocket"]


def test_program_generate_is_quiet_but_for_its_bar(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "bot", "generate", "a forest", "--steps", "2", "--seed", "1", "-o", str(tmp_path / "o.png")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'o.png'}\n"
    assert "drawing: 100%" in done.stderr
    assert not any(word in done.stderr for word in ("Warning", "torchvision", "Loading", "deprecated"))


def test_program_models_fetch_shows_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(self: ModelFiles, model_id: str, on_progress: Any, stopped: Any) -> None:
        on_progress(FetchProgress(model_id, 3_100_000_000, 6_900_000_000))

    monkeypatch.setattr(ModelFiles, "fetch", fetch)
    assert main(["models", "fetch", "sdxl"]) == 0
    out, err = capsys.readouterr()
    assert out == "sdxl is here.\n"
    assert "3.10G/6.90G" in err
