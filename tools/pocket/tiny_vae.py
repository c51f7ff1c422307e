"""Distil the autoencoder into a tiny one for live previews, in the way of TAESD: no norms, no attention, no scaling.

An `AutoencoderTiny` has a scaling factor of 1: it decodes the latents as the denoiser has them, already scaled.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn
from torch.nn import functional

from tools.pocket.data import encode, to_tensor
from tools.pocket.draw import draw
from tools.pocket.networks import LATENT_CHANNELS
from tools.pocket.saving import parameters
from tools.pocket.spec import sample
from tools.pocket.stream import stream
from tools.pocket.training import SEED, Budget, History, Trainer, half_precision, on
from tools.pocket.vae import reconstruction_loss

# Pictures of these seeds are for training the tiny autoencoder, and for measuring it.
FIRST, UNSEEN = 30_000_000, 40_000_000
POOL = 512


def new_tiny_vae() -> AutoencoderTiny:
    """An autoencoder of factor 8, 0.15 million parameters, half of them the decoder's."""
    return AutoencoderTiny(
        encoder_block_out_channels=(24,) * 4,
        decoder_block_out_channels=(24,) * 4,
        num_encoder_blocks=(0, 1, 1, 1),
        num_decoder_blocks=(2, 1, 1, 0),
        latent_channels=LATENT_CHANNELS,
    )


def _drawing(seed: int) -> np.ndarray:
    return np.asarray(draw(sample(seed)))


class Pool:
    """Pictures beside the latents that the large autoencoder has for them; every draw replaces a few by new ones."""

    def __init__(self, vae: AutoencoderKL, first: int, device: torch.device, size: int = POOL) -> None:
        self._vae, self._size, self._device = vae, size, device
        self._drawings = stream(_drawing, first)
        self._pixels: list[np.ndarray] = []
        self._latents: list[Tensor] = []
        self._rng = np.random.default_rng(first)

    def draw(self, count: int, *, fresh: int = 2) -> tuple[Tensor, Tensor]:
        """Give pictures (count, 3, 128, 128) on [-1, 1] and their scaled latents (count, 4, 16, 16)."""
        self._renew(max(fresh, count - len(self._pixels)))
        chosen = self._rng.integers(0, len(self._pixels), count)
        pixels = to_tensor([self._pixels[index] for index in chosen]).to(self._device)
        return pixels, torch.stack([self._latents[index] for index in chosen])

    def _renew(self, count: int) -> None:
        images = [next(self._drawings) for _ in range(count)]
        latents = encode(self._vae, to_tensor(images).to(self._device))
        self._pixels = (images + self._pixels)[: self._size]
        self._latents = [*latents, *self._latents][: self._size]


def train_tiny_vae(
    work: Path, vae: AutoencoderKL, budget: Budget, device: torch.device, *, batch: int = 8, learning_rate: float = 2e-3
) -> tuple[AutoencoderTiny, History]:
    """Train a tiny autoencoder in `work/tiny_vae` to the latents of `vae`; returns it with averaged weights."""
    torch.manual_seed(SEED)
    # On a CPU the convolutions are twice as fast when the channels are innermost.
    tiny = on(new_tiny_vae(), device)
    nn.Module.to(tiny, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    vae = on(vae, device).eval()
    trainer = Trainer(
        work / "tiny_vae", {"tiny": tiny}, budget, learning_rate=learning_rate, weight_decay=0.0, averaging=0.998
    )
    pool = Pool(vae, FIRST + trainer.history.steps * 2, device)

    def loss_of() -> Tensor:
        truth, latents = (part.contiguous(memory_format=torch.channels_last) for part in pool.draw(batch))
        with half_precision(device):
            made, read = tiny.decode(latents, return_dict=False)[0], tiny.encode(truth, return_dict=False)[0]
        return reconstruction_loss(made.float(), truth) + 0.2 * functional.mse_loss(read.float(), latents)

    history = trainer.run(loss_of)
    best = trainer.averaged("tiny")
    assert isinstance(best, AutoencoderTiny)
    return best.eval(), history


@torch.no_grad()
def evaluate_tiny_vae(
    tiny: AutoencoderTiny, vae: AutoencoderKL, device: torch.device, pictures: int = 128
) -> dict[str, float]:
    """Compare both autoencoders on unseen drawings.

    Returns the mean absolute errors of pictures, of 255: "error" of the tiny decoder, "error_full" of the large one,
    "error_round" of the tiny encoder and decoder together; "latents" the encoder's squared error, where 1 is to know
    nothing; milliseconds to decode one picture; "parameters".
    """
    tiny, vae = on(tiny, device).eval(), on(vae, device).eval()
    truth = to_tensor([np.asarray(draw(sample(UNSEEN + number))) for number in range(pictures)]).to(device)
    sums: dict[str, float] = dict.fromkeys(("error", "error_full", "error_round", "latents"), 0.0)
    for part in truth.split(16):
        latents = vae.encode(part, return_dict=False)[0].mean * vae.config["scaling_factor"]
        read = tiny.encode(part, return_dict=False)[0]
        sums["latents"] += float((read - latents).square().mean()) * len(part)
        made = {
            "error": tiny.decode(latents, return_dict=False)[0],
            "error_round": tiny.decode(read, return_dict=False)[0],
        }
        made["error_full"] = vae.decode(latents / vae.config["scaling_factor"], return_dict=False)[0]
        for name, pixels in made.items():
            sums[name] += float((pixels.clamp(-1, 1) - part).abs().mean()) * 127.5 * len(part)
    figures = {name: round(total / pictures, 4) for name, total in sums.items()}
    one = torch.randn(1, LATENT_CHANNELS, 16, 16, device=device)
    figures["decode_ms"] = _milliseconds(tiny, one)
    figures["decode_ms_full"] = _milliseconds(vae, one)
    figures["parameters"] = parameters(tiny)
    return figures


def _milliseconds(vae: Any, latents: Tensor) -> float:
    """The quickest of some decodings; what else runs on the machine only slows them."""
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        vae.decode(latents).sample.sum().item()
        best = min(best, time.perf_counter() - started)
    return round(best * 1000, 1)
