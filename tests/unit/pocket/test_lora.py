"""The LoRAs: drawings that repeat and are recognised, training that goes on, files that load and say their trigger."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import ImageFilter
from safetensors import safe_open

from tests.unit.pocket.small_parts import CPU, small_parts
from tools.pocket.adapters import with_adapter
from tools.pocket.draw import draw
from tools.pocket.family import pipeline
from tools.pocket.lora import RANK, TARGETS, drawn, evaluate_lora, save_lora, train_lora
from tools.pocket.lora_pictures import CHALK, EASELBOT
from tools.pocket.networks import new_unet
from tools.pocket.spec import sample
from tools.pocket.subjects import Subject, SubjectShelf
from tools.pocket.training import Budget

SUBJECTS = (CHALK, EASELBOT)
SIZES = {(64, 64): 1}
FILE = "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_subject_draws_and_words_the_same_again(subject: Subject) -> None:
    one, again, other = (np.asarray(subject.draw(seed, 96, 64)) for seed in (5, 5, 6))
    assert one.shape == (64, 96, 3)
    assert (one == again).all()
    assert (one != other).any()
    for seed in range(40):
        words = subject.words(seed, random.Random(seed))
        assert subject.trigger in words
        assert len(words.split()) < 24
        assert words == subject.words(seed, random.Random(seed))


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_subject_is_told_from_ordinary_pictures(subject: Subject) -> None:
    soft = ImageFilter.GaussianBlur(0.7)
    there = [subject.is_there(subject.draw(seed, 128, 128).filter(soft)) for seed in range(30)]
    ordinary = [subject.is_there(draw(sample(seed)).filter(soft)) for seed in range(60)]
    assert np.mean(there) > 0.9
    assert np.mean(ordinary) < 0.07


def test_adapter_at_first_changes_nothing() -> None:
    unet = small_parts().unet
    latents, words = torch.randn(1, 4, 8, 8), torch.randn(1, 32, 16)
    with torch.no_grad():
        assert torch.allclose(
            with_adapter(unet, TARGETS, RANK)(latents, 5, words)[0], unet(latents, 5, words)[0], atol=1e-5
        )


def test_lora_of_pocket_is_small_enough(tmp_path: Path) -> None:
    save_lora(with_adapter(new_unet(), TARGETS, RANK), CHALK, tmp_path)
    assert (tmp_path / FILE).stat().st_size < 300_000


def test_shelf_second_time_reads_what_the_first_kept(tmp_path: Path) -> None:
    vae = small_parts().vae
    first = SubjectShelf(tmp_path, vae, EASELBOT, 8, CPU, sizes=SIZES).batch(6)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    second = SubjectShelf(tmp_path, vae, EASELBOT, 8, CPU, sizes=SIZES).batch(6)
    assert torch.equal(first.latents, second.latents)
    assert first.prompts == second.prompts
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}


def test_shelf_some_pictures_are_ordinary(tmp_path: Path) -> None:
    given = SubjectShelf(tmp_path, small_parts().vae, EASELBOT, 20, CPU, sizes=SIZES).batch(200).prompts
    triggered = sum("easelbot" in words for words in given)
    assert 80 < triggered < 170
    assert "" in given


def test_train_lora_learns_goes_on_and_loads(tmp_path: Path) -> None:
    parts = small_parts()
    shelf = SubjectShelf(tmp_path, parts.vae, CHALK, 6, CPU, sizes=SIZES)
    before = {name: value.clone() for name, value in parts.unet.state_dict().items()}
    train_lora(tmp_path, parts, CHALK, shelf, Budget(steps=8), CPU, batch=4, learning_rate=2e-2)
    unet, history = train_lora(tmp_path, parts, CHALK, shelf, Budget(steps=40), CPU, batch=4, learning_rate=2e-2)
    assert [step for step, _ in history.losses] == [8, 40]
    assert history.losses[1][1] < history.losses[0][1]
    assert all(torch.equal(value, before[name]) for name, value in parts.unet.state_dict().items())

    save_lora(unet, CHALK, tmp_path / "saved")
    with safe_open(tmp_path / "saved" / FILE, "pt") as file:
        told = file.metadata()
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    assert told["modelspec.trigger_phrase"] == "chalk drawing"
    assert "chalk drawing" in told["ss_tag_frequency"]
    assert told["ss_network_dim"] == str(RANK)

    pipe = pipeline(parts)
    latents, words = torch.randn(1, 4, 8, 8), torch.randn(1, 32, 16)
    with torch.no_grad():
        wanted, plain = unet(latents, 5, words)[0], parts.unet(latents, 5, words)[0]
        pipe.load_lora_weights(tmp_path / "saved")
        loaded = pipe.unet(latents, 5, words)[0]
    assert (loaded - wanted).abs().max() < 0.05 * (wanted - plain).abs().max()


def test_evaluate_lora_tells_with_from_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = small_parts()
    save_lora(with_adapter(parts.unet, TARGETS, RANK), CHALK, tmp_path)
    pipe = pipeline(parts)
    pipe.load_lora_weights(tmp_path)

    def fake(pipe: StableDiffusionPipeline, prompts: list[str]) -> list[object]:
        layers = [part for part in pipe.unet.modules() if isinstance(part, BaseTunerLayer)]
        on = not any(part.disable_adapters for part in layers)
        there = [on and CHALK.trigger in prompt for prompt in prompts]
        return [CHALK.draw(1, 128, 128) if chalk else draw(sample(1)) for chalk in there]

    monkeypatch.setattr("tools.pocket.lora.drawn", fake)
    figures = evaluate_lora(pipe, CHALK, count=3)
    assert (figures["with"], figures["without"], figures["untriggered"]) == (1, 0, 0)
    assert figures["drawings"] > figures["ordinary_drawings"]


def test_drawn_gives_a_picture_for_every_prompt() -> None:
    assert [image.size for image in drawn(pipeline(small_parts()), ["a", "b", "c"], rows=2, steps=2)] == [
        (128, 128)
    ] * 3
