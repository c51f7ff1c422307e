"""Distilling: DDIM as the pipeline does it, lessons that go on, training that learns, a LoRA that loads and fuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from tests.unit.pocket.small_parts import CPU, small_parts
from tools.pocket.adapters import with_adapter
from tools.pocket.denoiser import Parts, tokens
from tools.pocket.distil import (
    RANK,
    STEPS,
    TARGETS,
    Ddim,
    Drawer,
    Lessons,
    evaluate_distil,
    save_distil,
    stops,
    train_distil,
)
from tools.pocket.family import draw_prompts, pipeline
from tools.pocket.networks import new_scheduler, new_unet
from tools.pocket.training import Budget

PROMPTS, SEEDS = ["a red circle on a blue background", "a beach at sunset"], [3, 4]


def loud_parts() -> Parts:
    """Parts whose words and noise make a difference, though they are chance."""
    parts = small_parts()
    with torch.no_grad():
        for name, weight in parts.unet.named_parameters():
            if "attn2" in name or name == "conv_out.weight":
                weight.mul_(4)
    return parts


@pytest.mark.parametrize(("steps", "guidance"), [(4, 1.0), (20, 4.0)])
def test_drawer_draws_what_the_pipeline_draws(steps: int, guidance: float) -> None:
    parts = loud_parts()
    noise = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS])
    words = parts.text_encoder(tokens(parts.tokenizer, [*PROMPTS, ""], CPU))[0]
    drawer = Drawer(parts.unet, Ddim(parts.scheduler, CPU), guidance)
    latents = drawer.draw(noise, words[:-1], words[-1:], stops(steps, parts.scheduler))[-1]
    with torch.no_grad():
        pixels = parts.vae.decode(latents / parts.vae.config["scaling_factor"]).sample
    made = ((pixels.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    images = draw_prompts(pipeline(parts), PROMPTS, SEEDS, width=64, height=64, steps=steps, guidance=guidance)
    assert np.abs(made - np.stack([np.asarray(image, np.float32) for image in images])).mean() < 2


def test_ddim_velocity_arrives_at_its_goal() -> None:
    path, times = Ddim(new_scheduler(), CPU), torch.tensor(stops(STEPS, new_scheduler()))
    assert times.tolist() == [999, 749, 499, 249, -1]
    latents, goal = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    velocity = path.velocity(latents, goal, times[:-1], times[1:])
    assert torch.allclose(path.step(latents, velocity, times[:-1], times[1:]), goal, atol=1e-4)


def test_lessons_lead_where_the_teacher_goes_and_are_kept(tmp_path: Path) -> None:
    parts = loud_parts()
    lessons = Lessons(tmp_path, parts, CPU, rows=2)
    lessons.collect("teacher", 0, least=1)
    lessons.collect("student", 0, least=1, student=with_adapter(parts.unet, TARGETS, RANK))
    again = Lessons(tmp_path, parts, CPU, rows=2)
    again.collect("teacher", 0, least=1)
    assert again.drawings == lessons.drawings
    with np.load(tmp_path / "teacher-00000.npz") as piece:
        starts, ends = piece["starts"], piece["ends"]
    assert starts.shape[1:3] == (STEPS, 4)
    assert np.array_equal(starts[:, 1:], ends[:, :-1])
    with np.load(tmp_path / "student-00000.npz") as piece:
        assert not np.array_equal(piece["starts"][:, 1:], piece["ends"][:, :-1])
    given = again.batch(6)
    assert given.starts.shape == given.ends.shape
    assert given.ids.shape == (len(given.number), 32)


def test_train_distil_learns_resumes_and_loads(tmp_path: Path) -> None:
    parts = loud_parts()
    before = {name: weight.clone() for name, weight in parts.unet.state_dict().items()}
    _, first = train_distil(tmp_path, parts, Budget(steps=20), CPU, batch=8, rows=8, rank=4, learning_rate=5e-3)
    student, history = train_distil(tmp_path, parts, Budget(steps=55), CPU, batch=8, rows=8, rank=4, learning_rate=5e-3)
    assert (first.steps, history.steps) == (20, 55)
    assert history.losses[-1][1] < history.losses[0][1]
    assert all(torch.equal(weight, before[name]) for name, weight in parts.unet.state_dict().items())
    figures = evaluate_distil(parts, student, CPU, pictures=2, rows=2)
    assert set(figures) == {"four", "four_undistilled", "four_guided", "other"}

    save_distil(student, tmp_path / "saved")
    trained, plain = (pipeline(small) for small in (loud_parts(), loud_parts()))
    trained.unet = student
    plain.load_lora_weights(tmp_path / "saved")
    plain.fuse_lora()
    plain.unload_lora_weights()
    drawn = [
        np.stack([np.asarray(image, np.float32) for image in draw_prompts(
            pipe, PROMPTS, SEEDS, width=64, height=64, steps=STEPS, guidance=1.0)])
        for pipe in (trained, plain, pipeline(loud_parts()))
    ]  # fmt: skip
    assert np.abs(drawn[0] - drawn[1]).mean() < 1
    assert np.abs(drawn[0] - drawn[2]).mean() > 1


def test_adapter_of_pocket_itself_is_small(tmp_path: Path) -> None:
    adapted = with_adapter(new_unet(), TARGETS, RANK)
    assert isinstance(adapted, UNet2DConditionModel)
    assert save_distil(adapted, tmp_path) < 1_200_000
