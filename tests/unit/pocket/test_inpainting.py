"""The inpainting variant: masks of every kind, a shelf that is made once, training that goes on, a pipeline that loads."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from tests.unit.pocket.small_parts import CPU, small_parts
from tools.pocket import inpainting_score
from tools.pocket.detector import Detector
from tools.pocket.draw import draw
from tools.pocket.inpainting import (
    MaskedShelf,
    inpainting_pipeline,
    inpainting_unet,
    save_inpainting,
    train_inpainting,
)
from tools.pocket.masks import WHOLE_PICTURE, box_mask, choose_mask, thing_boxes
from tools.pocket.sight import SceneNet, ThingNet
from tools.pocket.spec import Arrangement, Item, Picture, sample
from tools.pocket.training import Budget

SIZES = {(64, 64): 3, (96, 64): 1}


def shelf(work: Path) -> MaskedShelf:
    return MaskedShelf(work, small_parts().vae, 16, CPU, sizes=SIZES)


def test_choose_mask_many_leave_and_take_something() -> None:
    rng = random.Random(0)
    shares, items = [], set[int]()
    for seed in range(60):
        picture = sample(seed)
        mask, item = choose_mask(picture, draw(picture, 64, 48), rng)
        assert mask.shape == (48, 64)
        shares.append(mask.mean())
        items.add(item)
    assert 0 < min(shares) < 0.15
    assert max(shares) == 1
    assert items == {WHOLE_PICTURE, 0, 1}


def test_thing_boxes_two_things_are_told_apart() -> None:
    what = Arrangement("white", (Item("circle", "red"), Item("square", "blue")), "right of")
    boxes = dict(thing_boxes(what, draw(Picture(what, "", 5))))
    assert boxes[0][0] > 0.5 > boxes[1][2]


def test_shelf_masks_and_latents_are_what_the_pipeline_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = small_parts()
    mask = box_mask((64, 64), (0.3, 0.2, 0.8, 0.7), rounded=True)
    monkeypatch.setattr("tools.pocket.inpainting.choose_mask", lambda *_: (mask, WHOLE_PICTURE))
    given = MaskedShelf(tmp_path, parts.vae, 1, CPU, sizes={(64, 64): 1}, first=7).batch(1)
    pipe = inpainting_pipeline(parts, inpainting_unet(parts.unet))
    image = pipe.image_processor.preprocess(draw(sample(7), 64, 64))
    marked = pipe.mask_processor.preprocess(Image.fromarray(mask.astype(np.uint8) * 255))
    masks, masked = pipe.prepare_mask_latents(
        marked, image * (marked < 0.5), 1, 64, 64, torch.float32, CPU, torch.Generator().manual_seed(0), False
    )
    assert torch.equal(given.masks, masks)
    spread = parts.vae.encode(image).latent_dist.std.max() * parts.vae.config["scaling_factor"]
    assert (
        given.masked - masked
    ).abs().mean() < spread  # the pipeline draws from the spread, the shelf keeps its middle


def test_shelf_second_time_reads_what_the_first_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shelf(tmp_path).batch(5)
    monkeypatch.setattr("tools.pocket.inpainting.draw", None)
    second = shelf(tmp_path).batch(5)
    assert torch.equal(first.masked, second.masked)
    assert first.prompts == second.prompts


def test_inpainting_unet_at_first_draws_as_before() -> None:
    parts = small_parts()
    wide = inpainting_unet(parts.unet)
    latents, words = torch.randn(2, 4, 8, 8), torch.randn(2, 32, 16)
    seen = torch.cat([latents, torch.randn(2, 5, 8, 8)], 1)
    with torch.no_grad():
        assert torch.allclose(wide(seen, 7, words)[0], parts.unet(latents, 7, words)[0], atol=1e-6)


def test_train_inpainting_learns_goes_on_and_loads(tmp_path: Path) -> None:
    parts, rows = small_parts(), shelf(tmp_path)
    train_inpainting(tmp_path, parts, rows, Budget(steps=16), CPU, batch=4, learning_rate=3e-3)
    unet, history = train_inpainting(tmp_path, parts, rows, Budget(steps=60), CPU, batch=4, learning_rate=3e-3)
    assert [step for step, _ in history.losses] == [16, 60]
    assert history.losses[-1][1] < history.losses[0][1]
    assert unet.conv_in.weight[:, 4:].abs().max() > 0
    assert parts.unet.config["in_channels"] == 4
    save_inpainting(parts, unet, tmp_path / "saved")
    pipe = StableDiffusionInpaintPipeline.from_pretrained(tmp_path / "saved", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        "a boat", image=Image.new("RGB", (64, 64), "red"), mask_image=Image.new("L", (64, 64), 255), width=64, height=64,
        num_inference_steps=2, strength=1.0,
    ).images[0]  # fmt: skip
    assert made.size == (64, 64)
    assert unet.dtype == parts.vae.dtype == torch.float32


def test_evaluate_inpainting_gives_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = inpainting_score.tasks(6)
    assert asked[0].mask.any()
    assert "moon" in asked[2].prompt
    monkeypatch.setattr(inpainting_score, "inpaint", lambda _, tasks: [task.image for task in tasks])
    monkeypatch.setattr(inpainting_score, "through_autoencoder", lambda _, images: images)
    figures = inpainting_score.evaluate_inpainting(None, Detector(ThingNet(), SceneNet(), {}), count=6)  # type: ignore[arg-type]
    assert figures["outside"] == figures["inside"] == 0
    assert figures["colour"] == 0
    assert figures["background"] == 1
    assert {"shape", "extra", "extra_before", "outside_autoencoder"} <= set(figures)


def test_through_autoencoder_keeps_size() -> None:
    parts = small_parts()
    pipe = inpainting_pipeline(parts, inpainting_unet(parts.unet))
    made = inpainting_score.through_autoencoder(pipe, [Image.new("RGB", (96, 64))])
    assert made[0].size == (96, 64)


def test_inpaint_answers_every_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inpainting_score, "STEPS", 2)
    parts = small_parts()
    made = inpainting_score.inpaint(
        inpainting_pipeline(parts, inpainting_unet(parts.unet)), inpainting_score.tasks(3), rows=2
    )
    assert [image.size for image in made] == [(128, 128)] * 3
