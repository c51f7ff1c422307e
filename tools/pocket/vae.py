"""Train the autoencoder: pictures of 128×128 to latents of 16×16×4 and back."""

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from tools.pocket.draw import draw
from tools.pocket.networks import new_vae
from tools.pocket.spec import sample
from tools.pocket.training import SEED, Budget, History, Trainer, half_precision

CROP = 64
KL_WEIGHT = 3e-4


def to_tensor(images: "list[np.ndarray]") -> Tensor:
    """Pictures of (height, width, 3) bytes to a tensor (count, 3, height, width) on [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


class Batches:
    """Freshly drawn pictures: by turns small crops and whole pictures, since the norms of the network see all of what they get."""

    def __init__(self, start: int, size: int, device: torch.device) -> None:
        self._next, self._size, self._device = start, size, device
        self._turn = 0

    def draw(self) -> Tensor:
        self._turn += 1
        if self._turn % 16 == 0:
            side, count, crops = 256, max(1, self._size // 16), 0
        elif self._turn % 2:
            side, count, crops = 128, self._size // 4, 0
        else:
            side, count, crops = 128, self._size // 2, 2
        images: list[np.ndarray] = []
        for _ in range(count):
            picture = sample(self._next)
            self._next += 1
            pixels = np.asarray(draw(picture, side, side))
            rng = random.Random(picture.seed)
            for _ in range(crops):
                top, left = rng.randint(0, side - CROP), rng.randint(0, side - CROP)
                images.append(pixels[top : top + CROP, left : left + CROP])
            if not crops:
                images.append(pixels)
        return to_tensor(images).to(self._device)


def _slopes(pixels: Tensor) -> tuple[Tensor, Tensor]:
    return pixels[..., 1:, :] - pixels[..., :-1, :], pixels[..., 1:] - pixels[..., :-1]


def reconstruction_loss(made: Tensor, truth: Tensor) -> Tensor:
    """Distance of pictures (count, 3, height, width): absolute, squared, and of their slopes, which keeps edges sharp."""
    slopes = sum((a - b).abs().mean() for a, b in zip(_slopes(made), _slopes(truth), strict=True))
    return functional.l1_loss(made, truth) + 0.5 * functional.mse_loss(made, truth) + 0.5 * slopes


def train_vae(work: Path, budget: Budget, device: torch.device, batch: int = 32) -> tuple[AutoencoderKL, History]:
    """Train the autoencoder in `work/vae`; returns it with averaged weights and its latents scaled to unit deviation."""
    torch.manual_seed(SEED)
    vae = new_vae().to(device)
    trainer = Trainer(work / "vae", {"vae": vae}, budget, learning_rate=2e-3, weight_decay=0.0, averaging=0.999)
    batches = Batches(10_000_000 + trainer.history.steps * batch, batch, device)

    def loss_of() -> Tensor:
        truth = batches.draw()
        with half_precision(device):
            posterior = vae.encode(truth).latent_dist
            made = vae.decode(posterior.sample()).sample
        return reconstruction_loss(made.float(), truth) + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()

    history = trainer.run(loss_of)
    best = trainer.averaged("vae")
    assert isinstance(best, AutoencoderKL)
    return _scaled(best.to(device), device), history


@torch.no_grad()
def _scaled(vae: AutoencoderKL, device: torch.device) -> AutoencoderKL:
    truth = to_tensor([np.asarray(draw(sample(20_000_000 + number))) for number in range(256)]).to(device)
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in truth.split(32)])
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 6))
    return vae
