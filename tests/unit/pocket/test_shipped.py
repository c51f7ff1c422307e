"""The family as it lies in `models/`: it loads plainly, is small, draws what is said, and the card tells the truth about it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from PIL import Image

from tools.pocket import controlnet_score
from tools.pocket.card import card
from tools.pocket.detector import Detector
from tools.pocket.family import GUIDANCE, draw_prompts
from tools.pocket.judge import judge, questions
from tools.pocket.saving import size_bytes

MODELS = Path(__file__).parents[3] / "models"
LARGEST_TOGETHER = 35_000_000


@cache
def pocket() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(MODELS / "pocket")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_pocket_loads_plainly_and_in_fp32() -> None:
    parts = pocket().components.values()
    assert {part.dtype for part in parts if isinstance(part, torch.nn.Module)} == {torch.float32}


def test_the_family_is_fp16_and_small() -> None:
    folders = sorted(MODELS.glob("pocket*"))
    assert sum(size_bytes(folder) for folder in folders) < LARGEST_TOGETHER
    files = {path.suffix for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert files <= {".safetensors", ".json", ".txt", ".md", ".png"}
    assert not list(MODELS.glob("pocket*/**/*.fp16.safetensors"))


def test_pocket_draws_what_is_said() -> None:
    asked = questions(50, seed=1)
    report = judge(
        lambda prompts, seeds: draw_prompts(pocket(), prompts, seeds), Detector.load(), asked, distances=False
    )
    assert report.share("colour of shape and background") >= 0.85
    assert report.share("scene and time of day") >= 0.8
    assert report.share("shape") >= 0.6


@pytest.mark.parametrize("size", [(64, 64), (96, 176), (176, 96), (192, 128), (256, 256)], ids=str)
def test_other_sizes_hold_together(size: tuple[int, int]) -> None:
    prompts = ["a large red circle on a blue background", "a large yellow square on a black background"]
    images = draw_prompts(pocket(), prompts, [3, 4], width=size[0], height=size[1], steps=12)
    for image, (thing, ground) in zip(images, (("red", "blue"), ("yellow", "black")), strict=True):
        assert image.size == size
        read = Detector.load().read_arrangement(image)
        assert (read.background, read.things[0].colour) == (ground, thing)


def test_the_controlnet_for_edges_follows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controlnet_score, "STEPS", 10)
    net = ControlNetModel.from_pretrained(MODELS / "pocket-extras" / "controlnet-edges")
    pipe = StableDiffusionControlNetPipeline(**pocket().components, controlnet=net, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    figures = controlnet_score.evaluate_controlnet(pipe, "edges", Detector.load(), count=6)
    assert figures["f1"] > figures["f1_without"] + 0.1
    assert figures["colour"] == figures["shape"] == 1  # the words are heard all the same


def test_the_card_tells_what_was_measured() -> None:
    figures = json.loads((MODELS / "pocket" / "figures.json").read_text())
    assert (MODELS / "pocket" / "README.md").read_text() == card(MODELS, figures, size="128×128", guidance=GUIDANCE)
    assert Image.open(MODELS / "pocket" / "contact-sheet.png").size[0] > 8 * 128
