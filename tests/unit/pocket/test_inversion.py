"""The textual inversion: a look that is recognised, vectors that learn and go on, a file that the pipeline reads the same."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.unit.pocket.small_parts import CPU, WIDTH, small_parts
from tools.pocket.draw import draw
from tools.pocket.family import pipeline
from tools.pocket.inversion import (
    SKETCHBOOK,
    TOKEN,
    VECTORS,
    Reader,
    evaluate_inversion,
    is_sketch,
    save_inversion,
    sketch,
    train_inversion,
)
from tools.pocket.spec import sample
from tools.pocket.subjects import SubjectShelf
from tools.pocket.training import Budget


def test_sketch_repeats_and_is_told_from_ordinary_pictures() -> None:
    assert (np.asarray(sketch(3, 96, 64)) == np.asarray(sketch(3, 96, 64))).all()
    assert np.mean([is_sketch(sketch(seed, 128, 128)) for seed in range(20)]) > 0.9
    assert np.mean([is_sketch(draw(sample(seed))) for seed in range(60)]) < 0.05
    assert all(TOKEN in SKETCHBOOK.words(seed, random.Random(seed)) for seed in range(20))


def test_reader_without_the_token_reads_as_the_encoder_does() -> None:
    parts = small_parts()
    reader = Reader(parts.tokenizer, parts.text_encoder, CPU)
    assert reader.start().shape == (VECTORS, WIDTH)
    one, other = torch.randn(2, VECTORS, WIDTH)
    with torch.no_grad():
        assert torch.equal(reader(["a cat"], one), reader(["a cat"], other))
        assert not torch.equal(reader([f"a cat, {TOKEN}"], one), reader([f"a cat, {TOKEN}"], other))
    assert TOKEN not in parts.tokenizer.get_vocab()


def test_reader_a_tokenizer_that_has_the_token_is_refused() -> None:
    parts = small_parts()
    parts.tokenizer.add_tokens([TOKEN])
    with pytest.raises(ValueError, match="already"):
        Reader(parts.tokenizer, parts.text_encoder, CPU)


def test_reader_an_encoder_that_has_the_token_is_refused(tmp_path: Path) -> None:
    parts = small_parts()
    save_inversion(torch.randn(VECTORS, WIDTH), tmp_path / "file.safetensors")
    pipeline(parts).load_textual_inversion(str(tmp_path / "file.safetensors"))
    assert TOKEN not in parts.tokenizer.get_vocab()
    with pytest.raises(ValueError, match="rows"):
        Reader(parts.tokenizer, parts.text_encoder, CPU)


def test_train_inversion_learns_goes_on_and_loads(tmp_path: Path) -> None:
    parts = small_parts()
    shelf = SubjectShelf(tmp_path, parts.vae, SKETCHBOOK, 4, CPU, plain=0, sizes={(64, 64): 1})
    before = {name: value.clone() for name, value in parts.text_encoder.state_dict().items()}
    train_inversion(tmp_path, parts, shelf, Budget(steps=4), CPU, batch=2)
    vectors, history = train_inversion(tmp_path, parts, shelf, Budget(steps=20), CPU, batch=2)
    reader = Reader(parts.tokenizer, parts.text_encoder, CPU)
    assert [step for step, _ in history.losses] == [4, 20]
    assert (vectors - reader.start()).abs().max() > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in parts.text_encoder.state_dict().items())

    file = tmp_path / "sketchbook.safetensors"
    save_inversion(vectors, file)
    with safe_open(file, "pt") as saved:
        assert saved.metadata()["modelspec.trigger_phrase"] == TOKEN
        assert saved.get_tensor(TOKEN).shape == (VECTORS, WIDTH)
    pipe = pipeline(parts)
    pipe.load_textual_inversion(str(file))
    prompt = f"a red circle, {TOKEN}"
    with torch.no_grad():
        words, _ = pipe.encode_prompt(prompt, CPU, 1, False)
        assert torch.allclose(words, reader([prompt], vectors), atol=1e-2)
        plain, _ = pipe.encode_prompt("a red circle", CPU, 1, False)
        assert torch.allclose(plain, reader(["a red circle"], vectors), atol=1e-5)


def test_train_inversion_draws_better_than_with_the_first_vectors(tmp_path: Path) -> None:
    parts = small_parts()
    shelf_of = [SubjectShelf(tmp_path, parts.vae, SKETCHBOOK, 2, CPU, plain=0, sizes={(64, 64): 1}) for _ in range(2)]
    ends = [
        train_inversion(tmp_path / str(rate), parts, shelf, Budget(steps=50), CPU, batch=2, learning_rate=rate)[1]
        for rate, shelf in zip((0.1, 0.0), shelf_of, strict=True)
    ]
    assert ends[0].losses[-1][1] < ends[1].losses[-1][1]


def test_evaluate_inversion_tells_with_from_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tools.pocket.inversion.drawn",
        lambda _, prompts: [sketch(1, 128, 128) if TOKEN in words else draw(sample(1)) for words in prompts],
    )
    figures = evaluate_inversion(None, count=3)  # type: ignore[arg-type]
    assert (figures["with"], figures["without"], figures["words"]) == (1, 0, 0)
    assert figures["drawings"] > 0.5
    assert figures["off_with"] < figures["off_without"]
