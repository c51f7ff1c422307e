"""Train the inpainting variant: pocket's denoiser, which now also sees a mask and what is left of the picture.

The nine channels are those of Stable Diffusion inpainting: noisy latents (4), mask (1), latents of the masked picture (4).
"""

import copy
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionInpaintPipeline, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional

from tools.pocket.captions import caption
from tools.pocket.data import BUCKETS, WORDLESS
from tools.pocket.denoiser import Parts, noised, tokens
from tools.pocket.draw import draw
from tools.pocket.masks import choose_mask
from tools.pocket.networks import FACTOR, LATENT_CHANNELS
from tools.pocket.rows import Columns, Size, encoded, kept_rows, on_unit_range, vae_name
from tools.pocket.spec import Arrangement, Picture, sample
from tools.pocket.training import SEED, Budget, History, Trainer, half_precision

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
        self._device, self._sizes = device, sizes
        self._rng = random.Random(first)
        self._pictures: dict[Size, list[Picture]] = {}
        self._rows: dict[Size, Columns] = {}
        vae = vae.to(device).eval()
        start = first
        for size, share in sizes.items():
            count = max(1, round(total * share / sum(sizes.values())))
            self._pictures[size] = [sample(seed) for seed in range(start, start + count)]
            folder = work / f"masked-{vae_name(vae)}" / f"{size[0]}x{size[1]}-{start}"
            self._rows[size] = self._kept(folder, vae, size)
            start += count

    def _kept(self, folder: Path, vae: AutoencoderKL, size: Size) -> Columns:
        pictures = self._pictures[size]

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
        size = self._rng.choices(list(self._sizes), list(self._sizes.values()))[0]
        count = max(1, min(count, count * 128 * 128 // (size[0] * size[1])))
        rows = [self._rng.randrange(len(self._pictures[size])) for _ in range(count)]
        which = [self._rng.randrange(MASKS_EACH) for _ in range(count)]
        columns = self._rows[size]
        items = columns["items"][rows, which].tolist()
        prompts = [self._words(self._pictures[size][row], item) for row, item in zip(rows, items, strict=True)]
        return MaskedBatch(
            self._tensor(columns["latents"][rows]),
            self._tensor(columns["masks"][rows, which])[:, None],
            self._tensor(columns["masked"][rows, which]),
            prompts,
        )

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self._device)

    def _words(self, picture: Picture, item: int) -> str:
        """Word the whole picture or, half of the time, only the thing to be put in."""
        if self._rng.random() < WORDLESS:
            return ""
        if item >= 0 and isinstance(picture.what, Arrangement) and self._rng.random() < 0.5:
            alone = Arrangement(picture.what.background, (picture.what.items[item],))
            picture = Picture(alone, picture.style, picture.seed)
        return caption(picture, self._rng)


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
    unet = inpainting_unet(parts.unet).to(device)
    trainer = Trainer(work / "inpainting", {"unet": unet}, budget, learning_rate=learning_rate)
    torch.manual_seed(SEED + trainer.history.steps)
    text_encoder = parts.text_encoder.to(device).eval()

    def loss_of() -> Tensor:
        given = shelf.batch(batch)
        noisy, timesteps, velocity = noised(parts.scheduler, given.latents)
        with half_precision(device):
            with torch.no_grad():
                words = text_encoder(tokens(parts.tokenizer, given.prompts, device))[0]
            seen = torch.cat([noisy, given.masks, given.masked], 1)
            guess = unet(seen, timesteps, words, return_dict=False)[0]
        return functional.mse_loss(guess.float(), velocity)

    history = trainer.run(loss_of)
    best = trainer.averaged("unet")
    assert isinstance(best, UNet2DConditionModel)
    return best.to(device).eval(), history


def inpainting_pipeline(parts: Parts, unet: UNet2DConditionModel) -> StableDiffusionInpaintPipeline:
    """Put the widened denoiser into its pipeline."""
    pipe = StableDiffusionInpaintPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=unet,
        scheduler=parts.scheduler,
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_inpainting(parts: Parts, unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the variant as a folder of fp16 safetensors for `StableDiffusionInpaintPipeline.from_pretrained`."""
    pipe = inpainting_pipeline(copy.deepcopy(parts), copy.deepcopy(unet))
    pipe.to("cpu", torch.float16).save_pretrained(folder)
