"""Pictures put into words: as the network's own call does, a word a turn, beside what is drawn."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bot.catalogue.annotators import AnnotatorSpec
from bot.catalogue.models import Catalogue
from bot.engine.base import Order, Question
from bot.engine.devices import Device
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.looking.annotators import load_annotator
from bot.engine.looking.captions import MAX_TOKENS
from bot.errors import GenerationCancelled, InvalidOutput, ModelError, OutOfMemory
from bot.generation import RawPicture
from tests.unit.engine.fakes import ROOT, Notes, request
from tests.unit.engine.orders import Cancellable
from tests.unit.engine.tiny_annotators import save_blip, save_depth, save_git

CAPTIONER = ROOT / "models" / "pocket-extras" / "captioner"
CPU = Device("cpu", "a processor", "fp32", None)
NOISE = RawPicture(0, 0, 48, 40, bytes(range(240)) * 24)


@pytest.fixture
def seeing(catalogue: Catalogue, tmp_path: Path) -> Iterator[Callable[..., DiffusersEngine]]:
    """Make engines whose catalogue has annotators besides."""
    engines: list[DiffusersEngine] = []

    def make(*specs: AnnotatorSpec) -> DiffusersEngine:
        known = replace(catalogue, annotators=(*catalogue.annotators, *specs))
        engine = DiffusersEngine(known, models_root=ROOT, cache_dir=tmp_path, device="cpu", dtype="auto", max_batch=4)
        engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def eyes(folder: Path, kind: str = "caption") -> AnnotatorSpec:
    return AnnotatorSpec("eyes", kind, "Eyes", str(folder), "MIT")


def asked(engine: DiffusersEngine, question: Question) -> Question:
    engine.ask(question)
    while engine.busy:
        engine.turn()
    return question


@pytest.mark.parametrize("save", [save_blip, save_git, None], ids=["blip", "git", "pocket"])
def test_describe_says_what_the_networks_own_call_says(
    seeing: Callable[..., DiffusersEngine], tmp_path: Path, save: Callable[[Path], Path] | None
) -> None:
    spec = eyes(CAPTIONER if save is None else save(tmp_path / "eyes"))
    loaded = load_annotator(spec, Path(spec.source), CPU)
    longest = 31 if save is None or save is save_blip else MAX_TOKENS
    with torch.inference_mode():
        ids = loaded.network.generate(pixel_values=loaded.look_at(NOISE), max_new_tokens=longest, do_sample=False)
    words = " ".join(loaded.tokenizer.decode(ids[0], skip_special_tokens=True).split()).replace(" ,", ",")
    assert words
    assert seeing(spec).describe("eyes", NOISE, Notes()) == words


@pytest.mark.parametrize("place", ["the sea", "mountains", "a city"])
def test_describe_of_a_landscape_that_pocket_drew_names_the_place(engine: DiffusersEngine, place: str) -> None:
    drawn = request(f"{place} at night", width=128, height=128, num_inference_steps=20, seed=3)
    picture = engine.generate(drawn, Notes()).pictures[0]
    said = engine.describe("pocket-captions", picture, Notes())
    assert place in said
    assert "night" in said


def test_ask_beside_a_drawing_takes_a_word_a_turn_and_steps_go_on_between(
    seeing: Callable[..., DiffusersEngine],
) -> None:
    engine = seeing()
    engine.generate(request(num_inference_steps=1), Notes())
    engine.describe("pocket-captions", NOISE, Notes())
    notes = Notes()
    order = Order(request(num_inference_steps=30), notes, "ada")
    question = Question("pocket-captions", NOISE, Notes(), "bob")
    engine.admit(order)
    for _ in range(5):
        engine.turn()
    engine.ask(question)
    before, turns = len(notes.progress), 0
    while not question.over:
        engine.turn()
        turns += 1
    steps = len(notes.progress) - before
    tokens = len(question.future.result().split())
    assert turns - steps > tokens  # each word was a turn of its own
    assert not order.over
    while engine.busy:
        engine.turn()
    assert order.future.result().pictures == engine.generate(order.request, Notes()).pictures


def test_ask_of_one_member_is_answered_one_after_the_other(seeing: Callable[..., DiffusersEngine]) -> None:
    engine = seeing()
    first, second = (Question("pocket-captions", NOISE, Notes(), "ada") for _ in range(2))
    engine.ask(first)
    engine.ask(second)
    while not first.over:
        engine.turn()
    assert not second.over
    while engine.busy:
        engine.turn()
    assert first.future.result() == second.future.result()


def test_ask_cancelled_in_the_middle_leaves_no_thread(seeing: Callable[..., DiffusersEngine]) -> None:
    engine, listener = seeing(), Cancellable()
    question = Question("pocket-captions", NOISE, listener)
    engine.ask(question)
    for _ in range(3):
        engine.turn()
    assert any(thread.name == "gpu-caption" for thread in threading.enumerate())
    listener.gone = True
    engine.turn()
    assert not engine.busy
    assert not any(thread.name == "gpu-caption" for thread in threading.enumerate())
    with pytest.raises(GenerationCancelled):
        question.future.result()


def test_close_in_the_middle_of_a_caption_leaves_no_thread(seeing: Callable[..., DiffusersEngine]) -> None:
    engine = seeing()
    engine.ask(Question("pocket-captions", NOISE, Notes()))
    for _ in range(3):
        engine.turn()
    engine.close()
    assert not any(thread.name == "gpu-caption" for thread in threading.enumerate())


def test_ask_without_memory_once_tries_again_and_then_says_so(
    seeing: Callable[..., DiffusersEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = seeing()
    said = engine.describe("pocket-captions", NOISE, Notes())
    network: Any = transformers.VisionEncoderDecoderModel
    generate, failures = network.generate, [1]

    def short_of_memory(self: Any, *args: Any, **kwargs: Any) -> Any:
        if failures[0]:
            failures[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(network, "generate", short_of_memory)
    engine.generate(request(num_inference_steps=1), Notes())  # a model that can leave
    assert engine.describe("pocket-captions", NOISE, Notes()) == said
    failures[0] = 2
    engine.generate(request(num_inference_steps=1), Notes())
    with pytest.raises(OutOfMemory, match="Pocket captions has no room"):
        engine.describe("pocket-captions", NOISE, Notes())
    assert engine.describe("pocket-captions", NOISE, Notes()) == said


def test_ask_fault_costs_that_question_alone(
    seeing: Callable[..., DiffusersEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = seeing()
    monkeypatch.setattr(transformers.VisionEncoderDecoderModel, "generate", lambda *_, **__: 1 / 0)
    order = Order(request(), Notes(), "ada")
    engine.admit(order)
    question = asked(engine, Question("pocket-captions", NOISE, Notes(), "bob"))
    assert "Something went wrong" in str(question.future.exception())
    assert order.future.result().pictures


def test_ask_network_without_words_says_so(
    seeing: Callable[..., DiffusersEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.VisionEncoderDecoderModel, "generate", lambda *_, **__: torch.tensor([[0, 1]]))
    with pytest.raises(InvalidOutput, match="Pocket captions finds no words"):
        seeing().describe("pocket-captions", NOISE, Notes())


def test_describe_signs_follow_their_word_as_people_write_them(
    seeing: Callable[..., DiffusersEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer: Any = transformers.CLIPTokenizer
    monkeypatch.setattr(tokenizer, "decode", lambda *_, **__: "a beach\n, at  sunset .")
    assert seeing().describe("pocket-captions", NOISE, Notes()) == "a beach, at sunset."


def test_ask_who_never_ends_is_cut_off(seeing: Callable[..., DiffusersEngine], tmp_path: Path) -> None:
    folder = save_git(tmp_path / "eyes")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": None, "max_length": 10**6}))
    engine = seeing(eyes(folder))
    question = Question("eyes", NOISE, Notes())
    engine.ask(question)
    turns = 0
    while engine.busy:
        engine.turn()
        turns += 1
    assert question.future.result()
    assert turns <= MAX_TOKENS + 2


@pytest.mark.parametrize("annotator", ["eyes", "nobody", "pocket"])
def test_ask_what_writes_no_captions_is_refused(
    seeing: Callable[..., DiffusersEngine], tmp_path: Path, annotator: str
) -> None:
    engine = seeing(eyes(save_depth(tmp_path / "eyes"), kind="depth"))
    with pytest.raises(ModelError, match="There is no captioner"):
        engine.describe(annotator, NOISE, Notes())
