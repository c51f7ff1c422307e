"""`expand` and `describe` from the shell and from Python."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import bot
from bot.cli import main
from bot.config import read_environment
from bot.errors import EaselError, ModerationRefused
from bot.library import Studio, describe_image, expand_image, generate_image
from bot.picture import Picture
from bot.prompts.describing import Description
from bot.provenance import parse_easel
from tests.unit.test_cli import clean, engine, info_of

__all__ = ["clean", "engine"]  # fixtures

SEA = "the sea at night"


@pytest.fixture(scope="module")
def sea(tmp_path_factory: pytest.TempPathFactory, engine: Any) -> Path:
    """A picture that the built-in model drew, with what made it."""
    path = tmp_path_factory.mktemp("sea") / "sea.png"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EASEL_DEVICE", "cpu")
        patch.setenv("EASEL_DATA_DIR", str(path.parent / "data"))
        patch.setattr("bot.library._make_engine", lambda catalogue, settings: engine)
        bot.library._studio.cache_clear()
        generate_image(SEA, negative_prompt="fog", steps=20, seed=3).save(path)
        bot.library._studio.cache_clear()
    return path


def test_expand_goes_on_at_one_side_and_its_record_draws_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (96, 96), "navy").save("given.png")
    asked = ["--side", "left", "--amount", "50", "--seed", "4", "--negative-prompt", "fog", "-o", "new/wide.png"]
    assert main(["expand", "given.png", SEA, *asked]) == 0
    assert capsys.readouterr().out == "new/wide.png\n"
    with Image.open("new/wide.png") as image:
        pixels = image.convert("RGB")
        record = parse_easel(image.text["easel"])  # type: ignore[attr-defined]
    assert record is not None
    request = record.request
    assert pixels.width > pixels.height  # half as wide again as it was
    assert (request.prompt, request.negative_prompt, request.seed, len(request.mask)) == (SEA, "fog", 4, 64)
    kept = pixels.crop((pixels.width * 2 // 3, 0, pixels.width, pixels.height))
    assert kept.getcolors() == [(kept.width * kept.height, (0, 0, 128))]
    assert len(pixels.crop((0, 0, pixels.width // 4, pixels.height)).getcolors(1 << 20) or []) > 50
    (again,) = Studio(read_environment(os.environ)).draw(record.alone).pictures
    assert again.pixels == pixels.tobytes()


def test_expand_private_writes_a_file_that_only_its_owner_reads() -> None:
    Image.new("RGB", (96, 96), "navy").save("given.png")
    assert main(["expand", "given.png", SEA, "--side", "top", "--private"]) == 0
    assert Path("given-wider.png").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.png", SEA], "cannot be read"),
        (["given.png", SEA, "--side", "up"], "goes on at one of all, "),
        (["given.png", SEA, "--amount", "5"], "from 10 to 100 percent"),
        (["given.png", SEA, "--amount", "200"], "from 10 to 100 percent"),
        (["given.png", SEA, "-o", "out.jpg"], "ends in .png"),
        (["given.png", ""], "prompt"),
        (["given.png", SEA, "--model", "none"], "no model"),
        (["given.png"], "prompt"),
        (["text.png", SEA], "not a PNG, JPEG or WebP"),
        (["cut.png", SEA], "damaged or cut off"),
    ],
)
def test_expand_that_cannot_be_says_what_can(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (96, 64), "red").save("given.png")
    Path("text.png").write_bytes(b"words")
    Path("cut.png").write_bytes(Path("given.png").read_bytes()[:60])
    assert main(["expand", *arguments]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not list(Path().glob("*-wider.png"))


def test_expand_image_gives_a_picture_that_saves_its_marks() -> None:
    made = expand_image(Image.new("RGB", (64, 96), "red"), "a red wall", side="left and right", amount=100, seed=1)
    assert isinstance(made, Picture)
    assert made.width > made.height
    made.save("red.png")
    assert info_of(Path("red.png")).prompt == "a red wall"
    with pytest.raises(EaselError, match="goes on at one of"):
        expand_image(Image.new("RGB", (64, 96), "red"), "a red wall", side="up")


def test_describe_prints_the_words_and_what_the_file_says(sea: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", str(sea)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "sea" in lines[0]
    assert "night" in lines[0]
    assert lines[1:5] == ["", "Its file says", f"Prompt: {SEA}", "Negative prompt: fog"]
    assert "Seed: 3" in lines
    assert main(["describe", str(sea), "--annotator", "pocket-captions"]) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_describe_picture_that_says_nothing_prints_the_words_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (96, 64), "navy").save("given.png")
    assert main(["describe", "given.png"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_describe_terminal_codes_in_a_file_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    info = PngInfo()
    info.add_text("parameters", "a \x1b[31mcat\u202e\nSteps: 4, Model: \x1b]0;x\x07evil")
    Image.new("RGB", (96, 64), "navy").save("given.png", pnginfo=info)
    assert main(["describe", "given.png"]) == 0
    said = capsys.readouterr().out
    assert "cat" in said
    assert not any(char in said for char in "\x1b\x07\u202e")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.png"], "cannot be read"),
        (["text.png"], "not a PNG, JPEG or WebP"),
        (["cut.png"], "damaged or cut off"),
        (["animated.webp"], "animated"),
        (
            ["given.png", "--annotator", "nobody"],
            "no captioner “nobody”; the catalogue has blip-large, pocket-captions",
        ),
        (["given.png", "--annotator", "depth-anything-small"], "no captioner"),
        (["given.png", "--annotator", "blip-large"], "cannot be reached"),
    ],
)
def test_describe_that_cannot_be_says_why(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    Image.new("RGB", (96, 64), "red").save("given.png")
    Path("text.png").write_bytes(b"words")
    Path("cut.png").write_bytes(Path("given.png").read_bytes()[:60])
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("navy", "white")]
    frames[0].save("animated.webp", save_all=True, append_images=frames[1:], duration=100)
    assert main(["describe", *arguments]) == 1
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


def test_describe_image_takes_a_path_or_a_picture_and_reads_what_it_says(sea: Path) -> None:
    said = describe_image(sea)
    assert isinstance(said, Description)
    assert "sea" in said.prompt
    assert said.annotator == "pocket-captions"
    assert said.info is not None
    assert (said.info.prompt, said.info.seed) == (SEA, 3)
    with Image.open(sea) as opened:
        assert describe_image(opened) == said
    plain = Image.new("RGB", (96, 64), "navy")
    assert describe_image(plain).info is None
    buffer = BytesIO()
    plain.save(buffer, "PNG")
    Path("plain.png").write_bytes(buffer.getvalue())
    assert describe_image("plain.png").prompt == describe_image(plain).prompt


def test_describe_image_words_that_are_refused_are_not_given(monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
    monkeypatch.setattr(engine, "describe", lambda *_: "a nude child")
    with pytest.raises(ModerationRefused):
        describe_image(Image.new("RGB", (96, 64), "navy"))


@pytest.mark.parametrize("name", ["describe_image", "expand_image"])
def test_bot_offers_its_functions_without_torch_until_they_are_asked_for(name: str) -> None:
    assert name in bot.__all__
    assert callable(getattr(bot, name))
