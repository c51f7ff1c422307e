"""A prompt that a model does not read to its end: which words are named, and that it is those that do not count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bot.catalogue.models_file import parse_catalogue
from bot.engine.base import Order
from bot.engine.conditioning.reach import behind, behind_all, behind_chat
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.lanes import lane_room
from bot.engine.lanes.timetables import NotLinear
from bot.engine.memory import residents
from bot.errors import RequestError
from bot.generation import GenerationRequest, Variant
from tests.unit.engine import tiny
from tests.unit.engine.fakes import POCKET, Notes, request
from tests.unit.engine.test_diffusers_engine import pixels
from tests.unit.engine.test_lanes import asked, family
from tests.unit.engine.test_weighting import by_compel

TOKENS = 96
ENTRY = """[models.tiny]
name = "Tiny *one*"
source = "{source}"
family = "{family}"
licence = "-"
base_px = 64
negative_prompt = true
max_sequence_length = {tokens}
"""
PROMPT = " ".join(["Sea", *"abcdefghijklmnopqrstuvwxyz"] * 8) + " The Very End"
FAMILIES = ("sd3", "flux-dev", "flux2-klein", "flux2-klein-base", "z-image")


def engine_of(
    name: str, monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str = "sd15"
) -> tuple[DiffusersEngine, Any]:
    pipe = tiny.pipeline(name)
    monkeypatch.setattr(residents, "load_pipeline", lambda *_: pipe)
    entry = ENTRY.format(source=POCKET.as_posix(), family=kind, tokens=TOKENS)
    catalogue = parse_catalogue(entry, origin="the test")
    return DiffusersEngine(
        catalogue, models_root=folder, cache_dir=folder, device="cpu", dtype="auto", max_batch=4
    ), pipe


def wanted(prompt: str = PROMPT, **changes: Any) -> GenerationRequest:
    return request(prompt, model="tiny", sampler="Default", num_inference_steps=2, **changes)


def test_behind_gives_the_end_from_the_beginning_of_a_word_as_it_was_typed() -> None:
    tokenizer = tiny.clip_tokenizer()
    text = "A Red  House, ünïcödé 🎈 and Qwxzjkv The END"
    for room in range(len(tokenizer(text, add_special_tokens=False).input_ids)):
        end = behind(tokenizer, text, room)
        before = text.removesuffix(end)
        assert before + end == text
        assert len(tokenizer(before, add_special_tokens=False).input_ids) <= room
        assert not (end[:1].isalnum() and before[-1:].isalnum() and before[-1:].isascii())
    assert behind(tokenizer, text, 1000) == ""


def test_behind_chat_the_words_of_the_template_are_not_the_members() -> None:
    tokenizer = tiny.chat_tokenizer()
    around = len(tokenizer(tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=False)).input_ids)
    room = around + 10
    assert behind_chat(tokenizer, "a" * 9, room) == ""
    for length in range(1, 60):
        prompt = "word, " * length
        end = behind_chat(tokenizer, prompt, 40)
        assert prompt.strip().endswith(end)
        assert "im_end" not in end


def test_behind_all_the_tokenizer_that_reaches_furthest_counts() -> None:
    both = tiny.pipeline("flux-dev")
    assert behind_all(both, "a b c " * 20, 256) == ""  # CLIP stops before that
    assert behind_all(both, "a b c " * 20, 41) == "b c a b c a b c a b c a b c a b c a b c"
    assert behind_all(tiny.pipeline("sd15"), "red circle " * 40, None).startswith("red circle")
    assert behind_all(tiny.pipeline("qwen-image"), "abc " * 200, None) == ("abc " * 72).strip()


@pytest.mark.parametrize("name", FAMILIES)
def test_unread_end_does_not_change_what_a_model_is_told_and_the_words_before_do(name: str) -> None:
    drawer = family(name)
    drawer.max_sequence_length = TOKENS  # type: ignore[attr-defined]
    end = drawer.unread(PROMPT)
    assert end.endswith("The Very End")
    read = PROMPT[: len(PROMPT) - len(end)]
    assert drawer.unread(read) == ""

    def told(prompt: str) -> list[torch.Tensor]:
        words = drawer.encode(asked(prompt, negative_prompt="")).words.tensors
        return [value for key, value in sorted(words.items()) if key in ("encoder_hidden_states", "cap_feats")]

    for one, other in zip(
        told(PROMPT), told(f"{read}something else, as long as that one is and more {end}"), strict=True
    ):
        assert torch.equal(one, other)
    changed = told(f"{read[:-4]}, z {end}")
    assert not all(torch.equal(one, other) for one, other in zip(told(PROMPT), changed, strict=True))


@pytest.mark.parametrize("name", [*FAMILIES, "qwen-image"])
def test_result_says_which_words_were_not_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = engine_of(name, monkeypatch, tmp_path)
    note = engine.generate(wanted(), Notes()).note
    assert note.startswith("Tiny *one* did not read the end of the prompt, “")
    assert note.endswith("”; put what matters first, or shorten it.")
    assert len(note) < 200
    assert engine.generate(wanted("a cat"), Notes()).note == ""


@pytest.mark.parametrize(("name", "guided"), [("sd3", True), ("flux2-klein", False), ("z-image", True)])
def test_result_names_the_negative_prompt_where_there_is_one(
    name: str, guided: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = engine_of(name, monkeypatch, tmp_path)
    note = engine.generate(wanted("a cat", negative_prompt=PROMPT), Notes()).note
    assert note.startswith("Tiny *one* did not read the end of the negative prompt, “") if guided else note == ""
    both = engine.generate(wanted(negative_prompt=PROMPT), Notes()).note
    assert ("”, and of the negative prompt, “" in both) is guided


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_result_of_a_model_without_a_limit_says_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = engine_of(name, monkeypatch, tmp_path)
    assert engine.generate(wanted(negative_prompt=PROMPT), Notes()).note == ""


def test_result_of_a_list_says_of_how_many_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = engine_of("flux-dev", monkeypatch, tmp_path)
    listed = wanted("a", count=3, variants=(Variant("a"), Variant(PROMPT), Variant(PROMPT + " and more")))
    assert engine.generate(listed, Notes()).note.startswith(
        "Tiny *one* did not read the end of the prompt of 2 of 3 pictures, “"
    )


def general_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise NotLinear("this one clips")

    monkeypatch.setattr(lane_room, "read_timetable", refuse)


@pytest.mark.parametrize(
    ("name", "prompt"),
    tiny.matrix(
        ["sd15", "sdxl", "sd3", "flux-dev"], ["a (red:1.4) circle", "a (red:0.4) circle", r"a \(red\) circle", "long"]
    ),
)
def test_pipeline_called_as_a_whole_draws_weights_too(
    name: str, prompt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, pipe = engine_of(name, monkeypatch, tmp_path)
    general_only(monkeypatch)
    if prompt == "long":
        prompt = ", ".join(["a red house"] * 20) if name in ("sd15", "sdxl") else "a cat"
    negative = "" if name == "flux-dev" else "blue"
    one = wanted(prompt, negative_prompt=negative, count=2)
    result = engine.generate(one, Notes())
    drawer = engine.residents.use("tiny").family
    spelling = prompt.replace("(red:1.4)", "(red)1.4").replace("(red:0.4)", "(red)0.4")
    options = (
        {"prompt": "a (red) circle", "negative_prompt": negative or None} if "\\" in prompt
        else by_compel(drawer, name, one, spelling)
    )  # fmt: skip
    if name == "flux-dev":
        options.pop("negative_prompt", None)
        options["max_sequence_length"] = TOKENS
    if name == "sd3" and "\\" in prompt:
        options["max_sequence_length"] = TOKENS
    for n, picture in enumerate(result.pictures):
        image = pipe(
            width=64, height=64, num_inference_steps=2, guidance_scale=one.guidance_scale, output_type="np",
            generator=torch.Generator().manual_seed(one.seed + n), **options,
        ).images[0]  # fmt: skip
        assert abs(pixels(picture) - (image * 255).round()).max() <= 1


def test_pipeline_guided_by_a_second_prompt_draws_weights_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, pipe = engine_of("flux-schnell", monkeypatch, tmp_path)
    one = wanted("a (red:1.4) circle", guidance_scale=3.0)  # without lanes: the model is not told the guidance
    (picture,) = engine.generate(one, Notes()).pictures
    options = by_compel(engine.residents.use("tiny").family, "flux-dev", one, "a (red)1.4 circle")
    image = pipe(
        width=64, height=64, num_inference_steps=2, true_cfg_scale=3.0, negative_prompt=" ", output_type="np",
        max_sequence_length=TOKENS, generator=torch.Generator().manual_seed(one.seed), **options,
    ).images[0]  # fmt: skip
    assert abs(pixels(picture) - (image * 255).round()).max() <= 1


def test_pipeline_that_nobody_reads_weights_for_refuses_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = engine_of("qwen-image", monkeypatch, tmp_path)
    order = Order(wanted("a (red:1.4) circle"), Notes(), 0)
    engine.admit(order)
    while engine.busy:
        engine.turn()
    with pytest.raises(RequestError, match="knows no weights or blends"):
        order.future.result(0)
    assert pixels(engine.generate(wanted("a (red) circle"), Notes()).pictures[0]).any()
