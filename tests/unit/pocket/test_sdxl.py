"""The tiny SDXL equals the pocket it grew from, learns, goes on where it stopped, and loads as SDXL."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

from tests.unit.pocket.small_parts import CPU, small_parts
from tools.pocket.data import Batch, Shelf
from tools.pocket.denoiser import Parts, tokens
from tools.pocket.family import draw_prompts, pipeline
from tools.pocket.sdxl import (
    SdxlParts,
    evaluate_sdxl,
    fresh_sdxl,
    microconditioned,
    read_words,
    save_sdxl,
    sdxl_pipeline,
    train_sdxl,
)
from tools.pocket.spec import sample
from tools.pocket.training import Budget

PROMPTS, SEEDS = ["a red circle on a blue background", "a beach at sunset"], [1, 2]


@cache
def shelf() -> Shelf:
    return Shelf(Path(mkdtemp()), small_parts().vae, 26, CPU)


def loud_parts() -> Parts:
    """Parts whose words and noise make a difference, though they are chance."""
    parts = small_parts()
    with torch.no_grad():
        for name, weight in parts.unet.named_parameters():
            if "attn2" in name or name == "conv_out.weight":
                weight.mul_(4)
    return parts


def drawn(pipe: object, prompts: list[str]) -> np.ndarray:
    images = draw_prompts(pipe, prompts, SEEDS, width=64, height=64, steps=4)  # type: ignore[arg-type]
    return np.stack([np.asarray(image, np.float32) for image in images])


def batch(size: tuple[int, int]) -> Batch:
    latents = torch.randn(2, 4, size[1] // 8, size[0] // 8)
    return Batch(latents, [sample(0), sample(1)], ["a cat", ""], size)


def test_fresh_sdxl_reads_words_as_pocket_does() -> None:
    parts = loud_parts()
    words, meaning = read_words(fresh_sdxl(parts), [*PROMPTS, ""], CPU)
    expected = parts.text_encoder(tokens(parts.tokenizer, [*PROMPTS, ""], CPU))[0]
    assert words.shape == (3, 32, 16 + 64)
    assert meaning.shape == (3, 64)
    assert torch.allclose(words[..., :16], expected, atol=0.03)
    assert (expected[0] - expected[1]).abs().max() > 0.3


def test_fresh_sdxl_draws_what_pocket_draws() -> None:
    parts = loud_parts()
    pocket, sibling = pipeline(parts), sdxl_pipeline(fresh_sdxl(parts))
    pocket.scheduler = EulerDiscreteScheduler.from_config(pocket.scheduler.config)
    expected = drawn(pocket, PROMPTS)
    assert np.abs(drawn(sibling, PROMPTS) - expected).mean() < 0.5
    assert np.abs(drawn(pocket, PROMPTS[::-1]) - expected).mean() > 2


def test_microconditioned_says_what_was_done() -> None:
    rng = random.Random(0)
    seen = set[str]()
    for _ in range(200):
        size = rng.choice([(256, 256), (128, 128), (64, 64), (96, 144)])
        given = batch(size)
        latents, ids = microconditioned(given, rng, CPU)
        assert ids.shape == (2, 6)
        height, width, top, left, target_height, target_width = (int(value) for value in ids[0])
        assert (width, height) == size
        assert latents.shape[2:] == (target_height // 8, target_width // 8)
        if target_height < height:
            seen.add("cut")
            cut = given.latents[..., top // 8 : (top + target_height) // 8, left // 8 : (left + target_width) // 8]
            assert torch.equal(latents, cut)
        elif target_height > height:
            seen.add("enlarged")
        else:
            seen.add("as it is")
            assert torch.equal(latents, given.latents)
    assert seen == {"cut", "enlarged", "as it is"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[SdxlParts, Path]:
    work = tmp_path_factory.mktemp("work")
    parts = fresh_sdxl(small_parts())
    train_sdxl(work, parts, shelf(), Budget(steps=10), CPU, batch=4, learning_rate=3e-3)
    parts = fresh_sdxl(small_parts())
    before = parts.text_encoder.state_dict()
    history = train_sdxl(work, parts, shelf(), Budget(steps=60), CPU, batch=4, learning_rate=3e-3)
    assert history.steps == 60
    assert history.losses[-1][1] < history.losses[0][1]
    assert all(torch.equal(weight, before[name]) for name, weight in parts.text_encoder.state_dict().items())
    return parts, work


def test_train_sdxl_uses_the_new_conditions(trained: tuple[SdxlParts, Path]) -> None:
    parts, _ = trained
    assert parts.unet.add_embedding.linear_2.weight.abs().max() > 0  # type: ignore[union-attr]
    figures = evaluate_sdxl(parts, shelf(), CPU, batches=2, batch=4)
    assert figures["loss"] < 2
    assert figures["loss_no_sizes"] > 0
    latents, words = torch.randn(1, 4, 8, 8), torch.randn(1, 32, 16 + 64)
    made = []
    with torch.no_grad():
        for side, meant in ((64.0, 0.0), (256.0, 0.0), (64.0, 3.0)):
            more = {"text_embeds": torch.full((1, 64), meant), "time_ids": torch.tensor([[side, side, 0, 0, 64, 64]])}
            made.append(parts.unet(latents, 500, words, added_cond_kwargs=more)[0])
    assert not torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    fresh = fresh_sdxl(small_parts()).text_encoder_2.text_projection.weight
    assert not torch.equal(parts.text_encoder_2.text_projection.weight, fresh)


def test_save_sdxl_loads_plainly(trained: tuple[SdxlParts, Path], tmp_path: Path) -> None:
    parts, _ = trained
    save_sdxl(parts, tmp_path)
    loaded = StableDiffusionXLPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.text_encoder_2.dtype == torch.float32
    assert np.abs(drawn(loaded, PROMPTS) - drawn(sdxl_pipeline(parts), PROMPTS)).mean() < 2
    assert parts.unet.dtype == torch.float32
