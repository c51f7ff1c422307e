"""The family is made from nothing with a budget of seconds: everything that `make pocket` does, small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from tools.pocket.card import card
from tools.pocket.contact_sheet import contact_sheet
from tools.pocket.evaluation import EVALUATIONS, evaluate, read_figures
from tools.pocket.family import draw_prompts
from tools.pocket.stages import STAGES
from tools.pocket.workshop import Workshop, adopt, build

CPU = torch.device("cpu")
MODELS = Path(__file__).parents[3] / "models"


def shop_in(folder: Path) -> Workshop:
    return Workshop(folder / "work", folder / "models", CPU, pictures=200, batch=4)


def test_a_short_budget_makes_a_pocket_that_has_learned_something(tmp_path: Path) -> None:
    shop = shop_in(tmp_path)
    build(shop, STAGES, steps=10, only=["text_encoder"])  # what it learns has tests of its own
    build(shop, STAGES, steps=60, only=["vae", "unet"])

    figures = read_figures(shop.work)
    for name in ("vae", "unet"):
        training = figures[name]["training"]
        assert training["steps"] == 60
        assert training["loss_last"] < 0.9 * training["loss_first"], name
    pipe = StableDiffusionPipeline.from_pretrained(shop.pocket, torch_dtype=torch.float32)
    (image,) = draw_prompts(pipe, ["a red circle on a blue background"], [0], width=64, height=96, steps=2)
    assert image.size == (64, 96)
    assert np.asarray(image).std() > 0

    written = card(shop.models, figures, size="128×128", guidance=4.0)
    assert "not made yet: " in written
    assert f"| {figures['unet']['training']['steps']} |" in written


def test_what_is_made_is_not_made_again(tmp_path: Path) -> None:
    shop = shop_in(tmp_path)
    build(shop, STAGES, steps=2, only=["text_encoder"])
    done = shop.work / "text_encoder" / "done.json"
    first = done.read_text()
    build(shop, STAGES, steps=2, only=["text_encoder"])
    assert done.read_text() == first


def test_adopt_takes_what_is_shipped_for_made(tmp_path: Path) -> None:
    shop = Workshop(tmp_path / "work", MODELS, CPU)
    adopt(shop)
    made = json.loads((MODELS / "pocket" / "figures.json").read_text())
    assert read_figures(shop.work) == made
    assert len(shop.tokenizer()) == len(CLIPTokenizer.from_pretrained(MODELS / "pocket", subfolder="tokenizer"))
    build(shop, STAGES, steps=2, only=["vae", "unet"])  # both are made; building them anew would write into MODELS
    assert not (shop.work / "unet" / "state.pt").exists()
    latents = torch.randn(1, 4, 8, 8)
    shipped = StableDiffusionPipeline.from_pretrained(MODELS / "pocket", torch_dtype=torch.float32).vae
    torch.testing.assert_close(shop.vae.decode(latents).sample, shipped.decode(latents).sample)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # sixteen stages and their measuring: 280 s and more of one core
def test_the_whole_family_is_made_measured_and_described(tmp_path: Path) -> None:
    shop = shop_in(tmp_path)
    build(shop, STAGES, steps=3)
    evaluate(shop, count=10)
    figures = read_figures(shop.work)
    assert set(figures) == {stage.name for stage in STAGES}
    assert all("evaluation" in figures[name] for name in EVALUATIONS)
    json.dumps(figures)
    written = card(shop.models, figures, size="128×128", guidance=4.0)
    assert "not made yet" not in written
    assert contact_sheet(shop).width > 8 * 128
