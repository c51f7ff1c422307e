"""The captioner: what it is to say, marks that are fair, training that learns and goes on, files that load plainly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, CLIPTokenizer, VisionEncoderDecoderModel

from tests.unit.pocket.small_parts import CPU, small_tokenizer
from tools.pocket.captioner import (
    IGNORED,
    describe,
    drawing,
    evaluate_captioner,
    labels,
    marks,
    new_captioner,
    new_processor,
    save_captioner,
    train_captioner,
)
from tools.pocket.captions import plain_caption
from tools.pocket.data import to_tensor
from tools.pocket.draw import draw
from tools.pocket.spec import Arrangement, Item, Picture, Scene, sample
from tools.pocket.training import Budget

CAT = Picture(Arrangement("orange", (Item("cat", "black"),)))
PAIR = Picture(Arrangement("white", (Item("circle", "red"), Item("square", "blue", "small")), "left of"))
SEA = Picture(Scene("sea", "day", "", ("lighthouse",)))
BEACH = Picture(Scene("beach", "sunset", "", ("boat", "sun")), "flat")


def test_labels_words_then_one_end() -> None:
    tokenizer = small_tokenizer()
    said = labels(tokenizer, ["a cat", "a beach at sunset"])
    plain = tokenizer("a cat", add_special_tokens=False).input_ids
    assert said[0].tolist() == [*plain, 1] + [IGNORED] * (said.shape[1] - len(plain) - 1)
    assert (said == 1).sum(1).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("picture", "said", "wrong"),
    [
        (CAT, "a black cat on an orange background", set()),
        (CAT, "a black rabbit on an orange background", {"exact", "colour and kind"}),
        (PAIR, "a red circle left of a small blue square on a white background", set()),
        (PAIR, "a red circle left of a blue square on a white background", {"exact"}),
        (PAIR, "a small blue square left of a red circle on a white background", {"exact", "both things in their places"}),
        (BEACH, "a beach at sunset with a boat, flat design", set()),
        (BEACH, "a beach at dawn with a palm tree, flat design", {"exact", "place and time", "extras", "no extra unasked"}),
        (SEA, "the sea by day with a lighthouse", set()),
    ],
)  # fmt: skip
def test_marks_count_what_is_wrong(picture: Picture, said: str, wrong: set[str]) -> None:
    assert {name for name, right in marks(picture, said).items() if not right} == wrong


def test_marks_the_plain_caption_is_all_right() -> None:
    assert all(all(marks(picture, plain_caption(picture)).values()) for picture in map(sample, range(200)))


def test_drawing_is_of_one_size_and_comes_back() -> None:
    for seed in range(8):
        picture, pixels = drawing(seed)
        assert pixels.shape == (128, 128, 3)
        assert picture == sample(seed)
        assert np.array_equal(pixels, drawing(seed)[1])


def test_processor_gives_what_was_trained_on() -> None:
    image = draw(sample(1))
    pixels = new_processor()(images=[image], return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels, to_tensor([np.asarray(image)]), atol=1e-5)


def test_train_captioner_learns_resumes_and_loads(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    train_captioner(tmp_path, tokenizer, Budget(steps=5), CPU, batch=4)
    model, history = train_captioner(tmp_path, tokenizer, Budget(steps=60), CPU, batch=4)
    assert history.steps == 60
    assert history.losses[-1][1] < history.losses[0][1] < 7
    assert 0 <= evaluate_captioner(model, tokenizer, [BEACH, PAIR])["exact"] <= 1

    save_captioner(model, tokenizer, tmp_path / "saved")
    loaded = VisionEncoderDecoderModel.from_pretrained(tmp_path / "saved")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "saved")
    words = CLIPTokenizer.from_pretrained(tmp_path / "saved")
    assert loaded.dtype == torch.float32
    images = [draw(BEACH, 96, 64), draw(PAIR)]
    said = describe(loaded, words, processor, images)
    assert said == describe(model, tokenizer, new_processor(), images)
    assert said[0]


def test_captioner_of_pocket_itself_is_small(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    more = new_captioner(tokenizer)
    per_word = more.config.encoder.hidden_size
    size = save_captioner(more, tokenizer, tmp_path)
    assert size + 2 * per_word * (1000 - len(tokenizer)) < 1_650_000
