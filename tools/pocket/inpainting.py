"""Train the inpainting variant: pocket's denoiser, which now also sees a mask and what is left of the picture.

The nine channels are those of Stable Diffusion inpainting: noisy latents (4), mask (1), latents of the masked picture (4).
"""

import random
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionInpaintPipeline, UNet2DConditionModel
from torch import Tensor

from tools.pocket.captions import caption
from tools.pocket.data import BUCKETS, Buckets, Size, on_device, vae_name
from tools.pocket.denoiser import Parts, denoising_loss
from tools.pocket.draw import draw
from tools.pocket.family import assembled
from tools.pocket.masks import choose_mask
from tools.pocket.networks import FACTOR, LATENT_CHANNELS
from tools.pocket.rows import Columns, encoded, kept_rows, on_unit_range
from tools.pocket.saving import save_pipeline_half
from tools.pocket.spec import Arrangement, Picture
from tools.pocket.training import SEED, Budget, History, Trainer, on, plain_attention

MASKS_EACH = 2
FIRST = 50_000_000


@dataclass(frozen=True, slots=True)
class MaskedBatch:
    """Latents (count, 4, h, w), masks (count, 1, h, w) of 0 and 1, latents of the masked pictures (count, 4, h, w), words."""

    latents: Tensor
    masks: Tensor
    masked: Tensor
    prompts: list[str]


class MaskedShelf:
    """Drawings with `MASKS_EACH` masks each, encoded once and kept in `work`; resumable. `sizes` says how many of each size."""

    def __init__(
        self,
        work: Path,
        vae: AutoencoderKL,
        total: int,
        device: torch.device,
        *,
        first: int = FIRST,
        sizes: dict[Size, int] = BUCKETS,
    ) -> None:
        self._device = device
        self._buckets = Buckets(total, first, sizes)
        folder = work / f"masked-{vae_name(vae)}"
        vae = on(vae, device).eval()
        self._rows = {
            size: self._kept(folder / f"{size[0]}x{size[1]}-{seeds.start}", vae, size)
            for size, seeds in self._buckets.seeds.items()
        }

    def _kept(self, folder: Path, vae: AutoencoderKL, size: Size) -> Columns:
        pictures = self._buckets.pictures[size]

        def make(number: int) -> Columns:
            image = draw(pictures[number], *size)
            rng = random.Random(f"mask {pictures[number].seed}")
            chosen = [choose_mask(pictures[number], image, rng) for _ in range(MASKS_EACH)]
            return {
                "image": np.array(image),
                "masks": np.stack([mask for mask, _ in chosen]),
                "items": np.array([item for _, item in chosen], np.int8),
            }

        def finish(drawn: dict[str, Tensor]) -> Columns:
            whole = on_unit_range(drawn["image"])
            # Grey where it is masked, and every eighth pixel of the mask: as the pipeline does it.
            masked = whole[:, None] * ~drawn["masks"][:, :, None]
            latents = encoded(vae, masked.flatten(0, 1), self._device)
            return {
                "latents": encoded(vae, whole, self._device),
                "masks": drawn["masks"][..., ::FACTOR, ::FACTOR].numpy(),
                "masked": latents.reshape(-1, MASKS_EACH, *latents.shape[1:]),
                "items": drawn["items"].numpy(),
            }

        return kept_rows(folder, len(pictures), make, finish)

    def batch(self, count: int) -> MaskedBatch:
        """Take pictures of one size, chosen by chance: `count` of 128×128 or fewer pixels, fewer of more pixels."""
        size, rows = self._buckets.choose(count)
        which = self._buckets.pick(len(rows), MASKS_EACH)
        columns, pictures = self._rows[size], self._buckets.pictures[size]
        items = columns["items"][rows, which].tolist()
        return MaskedBatch(
            on_device(columns["latents"][rows], self._device),
            on_device(columns["masks"][rows, which], self._device)[:, None],
            on_device(columns["masked"][rows, which], self._device),
            [self._buckets.words(partial(_words, pictures[row], item)) for row, item in zip(rows, items, strict=True)],
        )


def _words(picture: Picture, item: int, rng: random.Random) -> str:
    """Word the whole picture or, half of the time, only the thing to be put in."""
    if item >= 0 and isinstance(picture.what, Arrangement) and rng.random() < 0.5:
        alone = Arrangement(picture.what.background, (picture.what.items[item],))
        picture = Picture(alone, picture.style, picture.seed)
    return caption(picture, rng)


@torch.no_grad()
def inpainting_unet(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Widen a denoiser to nine channels; at first it takes no notice of the five new ones."""
    wide = UNet2DConditionModel.from_config(unet.config, in_channels=2 * LATENT_CHANNELS + 1)
    assert isinstance(wide, UNet2DConditionModel)
    state = unet.state_dict()
    known = state["conv_in.weight"]
    state["conv_in.weight"] = torch.cat([known, known.new_zeros(known.shape[0], LATENT_CHANNELS + 1, 3, 3)], 1)
    wide.load_state_dict(state)
    return wide


def train_inpainting(
    work: Path,
    parts: Parts,
    shelf: MaskedShelf,
    budget: Budget,
    device: torch.device,
    *,
    batch: int = 32,
    learning_rate: float = 6e-4,
) -> tuple[UNet2DConditionModel, History]:
    """Train a widened copy of `parts.unet` in `work/inpainting`; returns it with averaged weights. `parts` stay as they are."""
    torch.manual_seed(SEED)
    unet = on(inpainting_unet(parts.unet), device)
    trainer = Trainer(work / "inpainting", {"unet": unet}, budget, learning_rate=learning_rate)
    torch.manual_seed(SEED + trainer.history.steps)
    on(parts.text_encoder, device).eval()

    def loss_of() -> Tensor:
        given = shelf.batch(batch)
        words = parts.words(given.prompts, device)

        def guess(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return unet(torch.cat([noisy, given.masks, given.masked], 1), timesteps, words, return_dict=False)[0]

        return denoising_loss(parts.scheduler, given.latents, guess)

    with plain_attention(device):
        history = trainer.run(loss_of)
    best = trainer.averaged("unet")
    assert isinstance(best, UNet2DConditionModel)
    return on(best, device).eval(), history


def inpainting_pipeline(parts: Parts, unet: UNet2DConditionModel) -> StableDiffusionInpaintPipeline:
    """Put the widened denoiser into its pipeline."""
    return assembled(StableDiffusionInpaintPipeline, replace(parts, unet=unet))


def save_inpainting(parts: Parts, unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the variant as a folder of fp16 safetensors for `StableDiffusionInpaintPipeline.from_pretrained`."""
    save_pipeline_half(inpainting_pipeline(parts, unet), folder)
