"""Train the autoencoder: pictures of 128×128 to latents of 16×16×4 and back."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tools.pocket.data import helpers, to_tensor
from tools.pocket.draw import draw
from tools.pocket.networks import LATENT_CHANNELS, new_vae
from tools.pocket.spec import sample
from tools.pocket.training import SEED, Budget, History, Trainer, half_precision, on

CROP = 64
UNSEEN = 10_000_000  # seeds that the denoisers never see
KL_WEIGHT = 3e-4

# The most noise on the latents that the decoder is sharpened with, in their deviations: about what a denoiser leaves.
DECODER_NOISE = 0.2


class Batches(IterableDataset[Tensor]):
    """Freshly drawn pictures, (count, 3, side, side): by turns crops, whole pictures and seldom large ones.

    All three, because the norms of the network see the whole of what they get. Each drawing process has its own seeds.
    """

    def __init__(self, start: int, size: int) -> None:
        self._start, self._size = start, size

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        number, step = (worker.id, worker.num_workers) if worker else (0, 1)
        seeds = itertools.count(self._start + number, step)
        for turn in itertools.count(1):
            if turn % 16 == 0:
                yield to_tensor([_pixels(next(seeds), 256) for _ in range(max(1, self._size // 16))])
            elif turn % 2:
                yield to_tensor([_pixels(next(seeds), 128) for _ in range(max(1, self._size // 4))])
            else:
                yield to_tensor([crop for _ in range(max(1, self._size // 2)) for crop in _crops(next(seeds))])


def _pixels(seed: int, side: int) -> np.ndarray:
    return np.asarray(draw(sample(seed), side, side))


def _crops(seed: int, count: int = 2) -> list[np.ndarray]:
    pixels, rng = _pixels(seed, 128), random.Random(seed)
    corners = [(rng.randint(0, 128 - CROP), rng.randint(0, 128 - CROP)) for _ in range(count)]
    return [pixels[top : top + CROP, left : left + CROP] for top, left in corners]


def _slopes(pixels: Tensor) -> tuple[Tensor, Tensor]:
    return pixels[..., 1:, :] - pixels[..., :-1, :], pixels[..., 1:] - pixels[..., :-1]


def reconstruction_loss(made: Tensor, truth: Tensor) -> Tensor:
    """Distance of pictures (count, 3, height, width): absolute, squared, and of their slopes, which keeps edges sharp."""
    slopes = sum((a - b).abs().mean() for a, b in zip(_slopes(made), _slopes(truth), strict=True))
    return functional.l1_loss(made, truth) + 0.5 * functional.mse_loss(made, truth) + 0.5 * slopes


@torch.no_grad()
def start_as_block_means(vae: AutoencoderKL, keep: float = 0.1) -> None:
    """Set the first weights so that three latents are the mean colour of each 8×8 block, which is what comes out again.

    From random weights the mean colours alone take thousands of steps, since the group norms take away what is even in a
    picture. Here colours ride on the shortcuts; two anchor channels hold each norm nearly still; and a colour goes in with
    both signs, since silu(x) - silu(-x) = x. `keep` is what remains of the random weights, to learn the rest with.
    """
    carried = vae.config["block_out_channels"][0]
    for name, part in vae.named_modules():
        if name.endswith(("conv2", "conv_shortcut", "samplers.0.conv", "conv_in", "conv_out", "quant_conv")):
            part.weight.mul_(keep)
            part.bias.zero_()
        if name.endswith(("conv_shortcut", "samplers.0.conv")):
            for channel in range(carried):
                part.weight[channel] = 0
                if name.endswith("downsamplers.0.conv"):
                    part.weight[channel, channel, :2, :2] = 0.25
                else:
                    part.weight[channel, channel, part.weight.shape[2] // 2, part.weight.shape[3] // 2] = 1
    halves: list[Any] = [vae.encoder, vae.decoder]
    for half in halves:
        half.conv_in.weight[:6] = 0
        half.conv_out.weight[:3] = 0
        for colour in range(3):
            half.conv_in.weight[colour, colour, 1, 1], half.conv_in.weight[3 + colour, colour, 1, 1] = 1, -1
            half.conv_out.weight[colour, colour, 1, 1], half.conv_out.weight[colour, 3 + colour, 1, 1] = 1, -1
        half.conv_in.bias[6:carried:2], half.conv_in.bias[7:carried:2] = 1, -1
    vae.encoder.conv_out.weight[3:LATENT_CHANNELS] *= 3 / keep  # the fourth latent is for what the means leave out
    vae.decoder.conv_in.weight[16:, 3:] *= 2 / keep
    joints: list[Any] = [vae.quant_conv, vae.post_quant_conv]
    joints[0].bias[LATENT_CHANNELS:] = -6
    for latent in range(LATENT_CHANNELS):
        for conv in joints:
            conv.weight[latent] = 0
            conv.weight[latent, latent] = 1


def train_vae(work: Path, budget: Budget, device: torch.device, batch: int = 32) -> tuple[AutoencoderKL, History]:
    """Train the autoencoder in `work/vae`; returns it with averaged weights and its latents scaled to unit deviation."""
    torch.manual_seed(SEED)
    vae = new_vae()
    start_as_block_means(vae)
    on(vae, device)
    trainer = Trainer(work / "vae", {"vae": vae}, budget, learning_rate=1e-3, weight_decay=0.0, averaging=0.999)
    batches = iter(
        DataLoader(Batches(UNSEEN + trainer.history.steps * batch, batch), batch_size=None, num_workers=helpers())
    )

    def loss_of() -> Tensor:
        truth = next(batches).to(device)
        with half_precision(device):
            posterior = vae.encode(truth, return_dict=False)[0]
            made = vae.decode(posterior.sample(), return_dict=False)[0]  # pyright: ignore[reportArgumentType]
        return reconstruction_loss(made.float(), truth) + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()

    history = trainer.run(loss_of)
    best = trainer.averaged("vae")
    assert isinstance(best, AutoencoderKL)
    return _scaled(on(best, device), device), history


def train_decoder(work: Path, vae: AutoencoderKL, budget: Budget, device: torch.device, batch: int = 32) -> History:
    """Train the decoder further in `work/decoder` while the encoder stays as it is, so that no latent changes its meaning.

    Some noise on the latents teaches it to make clean pictures of what a denoiser leaves. `vae` has the averaged decoder afterwards.
    """
    torch.manual_seed(SEED)
    on(vae, device)
    assert vae.post_quant_conv is not None
    modules: dict[str, nn.Module] = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    trainer = Trainer(work / "decoder", modules, budget, learning_rate=8e-4, weight_decay=0.0, averaging=0.999)
    drawn = Batches(UNSEEN + 5_000_000 + trainer.history.steps * batch, batch)
    batches = iter(DataLoader(drawn, batch_size=None, num_workers=helpers()))

    def loss_of() -> Tensor:
        truth = next(batches).to(device)
        with half_precision(device):
            with torch.no_grad():
                latents = vae.encode(truth, return_dict=False)[0].mean
                much = torch.rand(len(latents), 1, 1, 1, device=device) * DECODER_NOISE / vae.config["scaling_factor"]
                latents = latents + torch.randn_like(latents) * much
            made = vae.decode(latents, return_dict=False)[0]
        return reconstruction_loss(made.float(), truth)

    history = trainer.run(loss_of)
    vae.decoder.load_state_dict(trainer.averaged("decoder").state_dict())
    vae.post_quant_conv.load_state_dict(trainer.averaged("post_quant_conv").state_dict())
    return history


@torch.no_grad()
def _scaled(vae: AutoencoderKL, device: torch.device) -> AutoencoderKL:
    truth = to_tensor([np.asarray(draw(sample(20_000_000 + number))) for number in range(256)]).to(device)
    latents = torch.cat([vae.encode(part, return_dict=False)[0].mean for part in truth.split(32)])
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 6))
    return vae
