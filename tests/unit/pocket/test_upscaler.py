"""The upscaler: pairs that fit, training that learns and goes on, a file in the layout that Spandrel knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from bot.engine.upscaling.upscalers import import_spandrel
from tests.unit.pocket.small_parts import CPU, small_parts
from tools.pocket.training import Budget
from tools.pocket.upscaler import (
    Patches,
    Upscaler,
    edge_error,
    evaluate_upscaler,
    load_upscaler,
    pair,
    save_upscaler,
    start_from_least_squares,
    train_upscaler,
)


def test_pair_small_is_large_reduced() -> None:
    large, small = pair(3)
    assert (large.shape, small.shape) == ((512, 512, 3), (128, 128, 3))
    reduced = large.reshape(128, 4, 128, 4, 3).mean((1, 3))
    assert np.abs(reduced - small).mean() < 6
    assert all(np.array_equal(one, other) for one, other in zip(pair(3), (large, small), strict=True))


def test_patches_low_and_high_show_the_same() -> None:
    low, high = Patches(small_parts().vae, 0, CPU, size=5).draw(6)
    assert (low.shape, high.shape) == ((6, 3, 48, 48), (6, 3, 192, 192))
    assert 0 <= low.min() <= low.max() <= 1
    assert 0 <= high.min() <= high.max() <= 1


def test_start_from_least_squares_beats_repeated_pixels() -> None:
    torch.manual_seed(0)
    drawn = [pair(seed) for seed in range(3)]
    low, high = (
        torch.from_numpy(np.stack([each[which] for each in drawn])).permute(0, 3, 1, 2) / 255 for which in (1, 0)
    )
    upscaler = Upscaler()
    start_from_least_squares(upscaler, low, high)
    with torch.no_grad():
        error = edge_error(upscaler(low), high)
    assert error < 0.95 * edge_error(functional.interpolate(low, scale_factor=4), high)


def test_train_upscaler_learns_resumes_and_is_read_back(tmp_path: Path) -> None:
    vae = small_parts().vae
    _, first = train_upscaler(tmp_path, vae, Budget(steps=2), CPU, batch=2)
    weights = torch.load(tmp_path / "upscaler" / "state.pt")["modules"]["net"]
    upscaler, history = train_upscaler(tmp_path, vae, Budget(steps=6), CPU, batch=2)
    assert (first.steps, history.steps) == (2, 6)
    assert not torch.equal(
        torch.load(tmp_path / "upscaler" / "state.pt")["modules"]["net"]["body.0.weight"], weights["body.0.weight"]
    )
    figures = evaluate_upscaler(upscaler, vae, CPU, pictures=1)
    assert figures["psnr"] > 12
    assert figures["psnr_bicubic"] > 25

    path = tmp_path / "saved" / "pocket-4x.safetensors"
    assert save_upscaler(upscaler, path) < 500_000
    picture = torch.rand(1, 3, 20, 28)
    with torch.no_grad():
        assert torch.allclose(load_upscaler(path)(picture), upscaler(picture), atol=0.01)


def test_saved_layout_is_compact(tmp_path: Path) -> None:
    """What Spandrel 0.4.2 reads: body.N alternating, the features from body.0, the scale from the last bias."""
    save_upscaler(Upscaler(24, 4), tmp_path / "net.safetensors")
    state = load_file(tmp_path / "net.safetensors")
    assert set(state) == {
        *(f"body.{number}.weight" for number in range(11)),
        *(f"body.{number}.bias" for number in range(0, 11, 2)),
    }
    assert state["body.0.weight"].shape == (24, 3, 3, 3)
    assert state["body.1.weight"].shape == (24,)
    assert state["body.10.bias"].shape == (3 * 4 * 4,)


def test_spandrel_loads_it(tmp_path: Path) -> None:
    spandrel = import_spandrel()
    upscaler = Upscaler().eval()
    save_upscaler(upscaler, tmp_path / "net.safetensors")
    loaded = spandrel.ModelLoader().load_from_file(tmp_path / "net.safetensors")
    assert (loaded.architecture.id, loaded.scale) == ("Compact", 4)
    picture = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        assert torch.allclose(loaded(picture), upscaler(picture).clamp(0, 1), atol=0.01)
