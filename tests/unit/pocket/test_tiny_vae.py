"""The tiny autoencoder learns the latents of the large one, goes on where it stopped, and loads as any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from tools.pocket.networks import new_vae
from tools.pocket.saving import save_half
from tools.pocket.tiny_vae import Pool, evaluate_tiny_vae, new_tiny_vae, train_tiny_vae
from tools.pocket.training import Budget
from tools.pocket.vae import start_as_block_means

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    made = new_vae()
    start_as_block_means(made)
    made.register_to_config(scaling_factor=0.5)
    return made.eval()


def test_pool_draws_pictures_and_scaled_latents(vae: AutoencoderKL) -> None:
    pool = Pool(vae, 0, CPU, size=6)
    pixels, latents = pool.draw(4)
    assert pixels.shape == (4, 3, 128, 128)
    assert latents.shape == (4, 4, 16, 16)
    with torch.no_grad():
        expected = vae.encode(pixels).latent_dist.mean * 0.5
    assert torch.allclose(latents, expected, atol=0.1)


def test_train_tiny_vae_learns_resumes_and_loads(vae: AutoencoderKL, tmp_path: Path) -> None:
    untrained = evaluate_tiny_vae(new_tiny_vae(), vae, CPU, pictures=4)
    _, first = train_tiny_vae(tmp_path, vae, Budget(steps=8), CPU, batch=2)
    assert first.steps == 8
    tiny, history = train_tiny_vae(tmp_path, vae, Budget(steps=30), CPU, batch=2)
    assert history.steps == 30
    assert history.losses[-1][1] < history.losses[0][1]
    trained = evaluate_tiny_vae(tiny, vae, CPU, pictures=4)
    assert trained["error"] < untrained["error"]

    assert save_half(tiny, tmp_path / "saved") < 320_000
    loaded = AutoencoderTiny.from_pretrained(tmp_path / "saved")
    assert loaded.config["scaling_factor"] == 1.0
    latents = torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        assert torch.allclose(loaded.decode(latents).sample, tiny.decode(latents).sample, atol=0.02)
