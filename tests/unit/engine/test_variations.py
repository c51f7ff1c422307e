"""Variations lie between two seeds; tiled pictures fit together; both share passes with others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bot.engine.base import Order
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.lanes.canvas import spherical
from tests.unit.engine.fakes import Notes, request
from tests.unit.engine.orders import drawn as drawn_together
from tests.unit.engine.orders import same
from tests.unit.engine.test_diffusers_engine import pixels

SUNSET = "a sunset over the mountains"


def picture(engine: DiffusersEngine, prompt: str = SUNSET, **changes: object) -> np.ndarray:
    values = {"width": 96, "height": 96, "num_inference_steps": 12, "guidance_scale": 4.0, "sampler": "DDIM", **changes}
    (drawn,) = engine.generate(request(prompt, **values), Notes()).pictures  # type: ignore[arg-type]
    return pixels(drawn).astype(float)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def test_variation_of_nothing_is_the_picture_and_of_everything_the_other_seeds(engine: DiffusersEngine) -> None:
    base, other = picture(engine, seed=5), picture(engine, seed=9)
    assert apart(picture(engine, seed=9, base_seed=5, variation=0.0), base) <= 1
    assert apart(picture(engine, seed=9, base_seed=5, variation=1.0), other) <= 1


def test_variation_small_is_nearer_to_the_picture_than_a_large_one(engine: DiffusersEngine) -> None:
    base = picture(engine, seed=5)
    near = np.mean([apart(picture(engine, seed=seed, base_seed=5, variation=0.2), base) for seed in (9, 10, 11)])
    far = np.mean([apart(picture(engine, seed=seed, base_seed=5, variation=0.8), base) for seed in (9, 10, 11)])
    assert 0.5 < near < 0.7 * far


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ SDE"])
def test_variation_with_noise_at_each_step_stays_near_as_well(engine: DiffusersEngine, sampler: str) -> None:
    from bot.engine.lanes.samplers import sampler_names

    assert sampler in sampler_names("DDIMScheduler")
    base, other = (picture(engine, seed=seed, sampler=sampler) for seed in (5, 9))
    assert apart(picture(engine, seed=9, base_seed=5, variation=0.1, sampler=sampler), base) < 0.6 * apart(other, base)


def test_spherical_keeps_the_length_and_starts_and_ends_where_it_should() -> None:
    one, other = (torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    for amount in (0.0, 0.3, 0.5, 1.0):
        between = spherical(one, other, amount)
        assert abs(float(between.std()) - 1) < 0.06
    torch.testing.assert_close(spherical(one, other, 0.0), one)
    torch.testing.assert_close(spherical(one, other, 1.0), other)
    assert torch.equal(spherical(one, one, 0.5), one)


def seam(image: np.ndarray) -> float:
    """How much opposite edges differ, against how much neighbouring columns and rows do."""
    across = np.abs(image[:, 0] - image[:, -1]).mean() + np.abs(image[0] - image[-1]).mean()
    inside = np.abs(np.diff(image, axis=1)).mean() + np.abs(np.diff(image, axis=0)).mean()
    return float(across / inside)


def test_tiled_picture_fits_together_at_its_edges(engine: DiffusersEngine) -> None:
    plain = np.mean([seam(picture(engine, seed=seed)) for seed in (1, 2, 3)])
    tiled = np.mean([seam(picture(engine, seed=seed, tiling=True)) for seed in (1, 2, 3)])
    assert tiled < 3
    assert tiled < 0.3 * plain


def test_tiled_and_plain_requests_side_by_side_are_as_alone(engine: DiffusersEngine) -> None:
    asked = [
        request(SUNSET, seed=seed, tiling=tiling, num_inference_steps=6) for seed, tiling in ((1, True), (2, False))
    ]
    orders = [Order(one, Notes(), one.seed) for one in asked]
    for order in orders:
        engine.admit(order)
    for together, one in zip(drawn_together(engine, *orders), asked, strict=True):
        same(together, engine.generate(one, Notes()).pictures[0])
