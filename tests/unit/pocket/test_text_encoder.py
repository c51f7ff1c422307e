"""The pocket tokenizer reads any text, and the text encoder learns what captions mean."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from tools.pocket import text
from tools.pocket.captions import caption
from tools.pocket.spec import Arrangement, Item, Picture, Scene, has_held_out, sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pocket")
    text.learn_tokenizer(made / "tokenizer", captions=4000)
    return made


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> CLIPTokenizer:
    return text.load_tokenizer(folder / "tokenizer")


def captions(count: int) -> list[str]:
    return [caption(sample(text.UNSEEN + seed), random.Random(seed)) for seed in range(count)]


def test_tokenizer_size_and_marks(tokenizer: CLIPTokenizer) -> None:
    assert len(tokenizer) <= 1000
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (
        0,
        1,
        1,
        1,
    )
    assert tokenizer.model_max_length == 32


def test_tokenizer_saved_again_reads_the_same(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    for words in [*captions(100), "A DOG's  castle — été 🌅", ""]:
        assert (
            again(words, padding="max_length", max_length=32).input_ids
            == tokenizer(words, padding="max_length", max_length=32).input_ids
        )


def test_learn_tokenizer_again_gives_the_same_ids(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    assert text.learn_tokenizer(tmp_path, captions=4000).get_vocab() == tokenizer.get_vocab()


def test_tokens_caption_begin_end_padding(tokenizer: CLIPTokenizer) -> None:
    ids = text.tokens(tokenizer, ["a red circle", "a beach at sunset, " * 20])
    assert ids.shape == (2, 32)
    assert ids[0].tolist() == [0, *tokenizer("a red circle", add_special_tokens=False).input_ids, *[1] * 28]
    assert ids[1, -1] == 1


def test_tokenizer_captions_fit_and_come_back(tokenizer: CLIPTokenizer) -> None:
    for words in captions(300):
        ids = tokenizer(words).input_ids
        assert len(ids) <= 32
        read = tokenizer.decode(ids, skip_special_tokens=True)
        assert read.replace(" ", "") == words.lower().replace(" ", "")


@pytest.mark.parametrize(
    "words", ["an elegant astronaut", "Mona Lisa 1503!", "été, größe", "🌅🐈", "日本の猫", "~[x](y)_`"]
)
def test_tokenizer_strange_words_are_known(tokenizer: CLIPTokenizer, words: str) -> None:
    assert 1 not in tokenizer(words, add_special_tokens=False).input_ids


def test_facts_two_things_are_told_by_place() -> None:
    what = Arrangement("white", (Item("circle", "red"), Item("square", "blue", "large")), "below")
    told = text.facts(Picture(what), frozenset({"colour", "relation", "swapped"}))
    assert (told["first kind"], told["first colour"], told["first size"]) == ("square", "blue", "large")
    assert (told["second kind"], told["relation"], told["background"]) == ("circle", "stacked", "")
    assert "place" not in told


def test_facts_two_things_unrelated_are_told_as_named() -> None:
    what = Arrangement("white", (Item("circle", "red"), Item("square", "blue")), "right of")
    assert text.facts(Picture(what), frozenset({"colour"}))["first kind"] == "circle"
    assert text.facts(Picture(what), frozenset({"colour", "swapped"}))["first kind"] == "square"


def test_facts_chance_extras_count_when_named() -> None:
    picture = Picture(Scene("sea", "night", "", ("boat", "moon", "stars")))
    told = text.facts(picture, frozenset({"boat", "moon"}))
    assert (told["boat"], told["moon"], told["stars"], told["sun"]) == ("yes", "yes", "no", "no")


def test_kept_pictures_hold_a_combination_kept_for_judging() -> None:
    assert all(has_held_out(picture) for picture in text.kept_pictures(20))


def test_train_text_encoder_a_few_steps_learn_and_load(folder: Path) -> None:
    short = text.train_text_encoder(folder, steps=3, batch=32, checked=0)
    longer = text.train_text_encoder(folder, steps=30, batch=32, checked=40)
    assert longer["loss"] < 0.9 * short["loss"]
    assert {"all", "least", "kept", "form"} <= set(longer)
    assert longer["form"] > 0.4
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    tokenizer = text.load_tokenizer(folder / "tokenizer")
    with torch.no_grad():
        output = encoder(text.tokens(tokenizer, ["a cat", "a red heart"]))
    assert output.last_hidden_state.shape == (2, 32, 128)
    ends = [len(tokenizer(words).input_ids) - 1 for words in ("a cat", "a red heart")]
    assert torch.equal(output.pooler_output, output.last_hidden_state[[0, 1], ends])


def test_train_text_encoder_same_seed_same_weights(folder: Path) -> None:
    made = [text.train_text_encoder(folder, steps=2, batch=8, checked=0)["loss"] for _ in range(2)]
    assert made[0] == made[1]


def test_accuracies_a_question_with_one_answer_is_left_out(tokenizer: CLIPTokenizer) -> None:
    encoder, heads = CLIPTextModel(text.text_encoder_config(len(tokenizer))), text.Heads()
    pictures = [Picture(Scene(place, "day", "", ())) for place in ("sea", "city")]
    shares = text.accuracies(encoder, heads, *text.worded(pictures, tokenizer, random.Random(0)))
    assert set(shares) == {"all", "least", "place"}
