"""The ControlNets: control pictures that mean the same everywhere, training that goes on, a model that loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image, ImageDraw

from tests.unit.pocket.small_parts import CPU, small_parts
from tools.pocket import controlnet_score
from tools.pocket.controlnet import (
    CONTROLS,
    ControlShelf,
    controlnet_pipeline,
    new_controlnet,
    save_controlnet,
    train_controlnet,
)
from tools.pocket.denoiser import Parts
from tools.pocket.detector import Detector
from tools.pocket.draw import draw
from tools.pocket.networks import new_scheduler, new_unet
from tools.pocket.outlines import agreement, edge_mask, edges, scribble
from tools.pocket.sight import SceneNet, ThingNet
from tools.pocket.spec import sample
from tools.pocket.training import Budget

SIZES = {(64, 64): 3, (96, 64): 1}


def square() -> Image.Image:
    image = Image.new("RGB", (64, 48), "navy")
    ImageDraw.Draw(image).rectangle((16, 12, 47, 35), "gold")
    return image


def test_edges_of_a_square_are_its_border_and_thin() -> None:
    lines = np.asarray(edges(square()))
    assert lines.shape == (48, 64, 3)
    assert set(np.unique(lines)) == {0, 255}
    rows = np.flatnonzero(lines[:, 30, 0])
    columns = np.flatnonzero(lines[24, :, 0])
    assert len(rows) == len(columns) == 2
    assert (abs(rows - [11.5, 35.5]) <= 1).all()
    assert (abs(columns - [15.5, 47.5]) <= 1).all()


def test_edges_of_an_even_picture_are_none() -> None:
    assert not edge_mask(Image.new("RGB", (40, 40), "teal")).any()


def test_scribble_is_thicker_wobbles_and_repeats() -> None:
    one, same, other = (np.asarray(scribble(square(), seed)) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()
    assert one.sum() > 1.3 * np.asarray(edges(square())).sum()
    assert agreement(one[..., 0] > 127, edge_mask(square()))[2] > 0.8


@pytest.mark.parametrize("kind", CONTROLS)
def test_controls_of_any_size_keep_it(kind: str) -> None:
    assert CONTROLS[kind](draw(sample(3), 96, 72), 0).size == (96, 72)


def test_agreement_knows_near_from_far() -> None:
    line = np.zeros((32, 32), bool)
    line[:, 10] = True
    assert agreement(line, line) == (1.0, 1.0, 1.0)
    assert agreement(np.roll(line, 3, 1), line)[2] == 1
    assert agreement(np.roll(line, 8, 1), line)[2] == 0
    assert agreement(np.zeros_like(line), line) == (0, 0, 0)
    half = line.copy()
    half[16:] = False
    assert agreement(half, line)[:2] == (1.0, pytest.approx(0.5, abs=0.1))


def test_shelf_second_time_reads_what_the_first_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ControlShelf(tmp_path, small_parts().vae, 12, CPU, sizes=SIZES).batch("edges", 4)
    monkeypatch.setattr("tools.pocket.controlnet.draw", None)
    second = ControlShelf(tmp_path, small_parts().vae, 12, CPU, sizes=SIZES).batch("edges", 4)
    assert torch.equal(first.controls, second.controls)
    assert torch.equal(first.latents, second.latents)
    assert first.controls.shape[2] == first.latents.shape[2] * 8
    assert set(first.controls.unique().tolist()) == {0.0, 1.0}


def test_controlnet_of_pocket_is_small_enough() -> None:
    parts = small_parts()
    controlnet = new_controlnet(Parts(parts.vae, new_unet(), parts.text_encoder, parts.tokenizer, new_scheduler()))
    assert sum(value.numel() for value in controlnet.parameters()) * 2 < 2.57e6


@pytest.mark.parametrize("kind", CONTROLS)
def test_train_controlnet_changes_goes_on_and_loads(kind: str, tmp_path: Path) -> None:
    parts = small_parts()
    shelf = ControlShelf(tmp_path, parts.vae, 12, CPU, sizes=SIZES)
    before = {name: value.clone() for name, value in parts.unet.state_dict().items()}
    train_controlnet(tmp_path, parts, shelf, kind, Budget(steps=4), CPU, batch=2)
    controlnet, history = train_controlnet(tmp_path, parts, shelf, kind, Budget(steps=10), CPU, batch=2)
    assert [step for step, _ in history.losses] == [4, 10]
    assert controlnet.controlnet_mid_block.weight.abs().max() > 0
    assert all(torch.equal(value, before[name]) for name, value in parts.unet.state_dict().items())
    save_controlnet(controlnet, tmp_path / "saved")
    assert (tmp_path / "saved" / "diffusion_pytorch_model.safetensors").exists()
    loaded = ControlNetModel.from_pretrained(tmp_path / "saved", torch_dtype=torch.float32)
    assert isinstance(loaded, ControlNetModel)
    made = controlnet_pipeline(parts, loaded)(
        "a boat", image=edges(square()), width=64, height=48, num_inference_steps=2
    ).images[0]  # type: ignore[union-attr]
    assert made.size == (64, 48)


def test_train_controlnet_learns_where_lines_tell_all(tmp_path: Path) -> None:
    parts = small_parts()
    shelf = ControlShelf(tmp_path, parts.vae, 4, CPU, sizes={(64, 64): 1})
    budget = Budget(steps=40)
    _, history = train_controlnet(tmp_path / "a", parts, shelf, "edges", budget, CPU, batch=4, learning_rate=1e-2)
    _, still = train_controlnet(tmp_path / "b", parts, shelf, "edges", budget, CPU, batch=4, learning_rate=0.0)
    assert history.losses[-1][1] < still.losses[-1][1]


def test_evaluate_controlnet_the_drawing_itself_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        controlnet_score,
        "follow",
        lambda _, asked, scale: [task.drawing if scale else Image.new("RGB", (128, 128)) for task in asked],
    )
    detector = Detector(ThingNet(), SceneNet(), {})
    figures = controlnet_score.evaluate_controlnet(None, "edges", detector, count=4)  # type: ignore[arg-type]
    assert figures["f1"] == figures["f1_drawing"] == 1
    assert figures["f1_without"] == 0
    assert {"precision", "recall", "colour", "shape", "colour_without"} <= set(figures)


def test_follow_without_the_lines_is_as_without_the_controlnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controlnet_score, "STEPS", 2)
    parts = small_parts()
    controlnet = new_controlnet(parts)
    torch.nn.init.normal_(controlnet.controlnet_mid_block.weight)
    pipe = controlnet_pipeline(parts, controlnet)
    asked = controlnet_score.tasks("scribble", 3)
    with_lines, without = (controlnet_score.follow(pipe, asked, scale, rows=2) for scale in (1.0, 0.0))
    torch.nn.init.zeros_(controlnet.controlnet_mid_block.weight)
    never = controlnet_score.follow(pipe, asked, 1.0, rows=2)
    assert [image.size for image in with_lines] == [(128, 128)] * 3
    assert all(one.tobytes() == other.tobytes() for one, other in zip(without, never, strict=True))
    assert any(one.tobytes() != other.tobytes() for one, other in zip(with_lines, without, strict=True))
