"""Train ControlNets on pocket: one that follows edges, one that follows scribbles."""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image
from torch import Tensor
from torch.nn import functional

from tools.pocket.captions import caption
from tools.pocket.data import BUCKETS
from tools.pocket.denoiser import Parts, noised, tokens
from tools.pocket.draw import draw
from tools.pocket.outlines import edges, scribble
from tools.pocket.rows import Columns, Size, encoded, kept_rows, on_unit_range, vae_name
from tools.pocket.spec import Picture, sample
from tools.pocket.training import SEED, Budget, History, Trainer, half_precision

FIRST = 70_000_000
# Half of the prompts are empty in arXiv 2302.05543, so that the lines are read; in a network this small a third is enough.
WORDLESS = 0.33
# Three halvings make the eighth that latents are of pictures.
EMBEDDING = (8, 16, 32, 48)

CONTROLS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "edges": lambda image, _: edges(image),
    "scribble": scribble,
}


@dataclass(frozen=True, slots=True)
class ControlBatch:
    """Latents (count, 4, h, w), control pictures (count, 3, 8 h, 8 w) of 0 and 1, and words."""

    latents: Tensor
    controls: Tensor
    prompts: list[str]


class ControlShelf:
    """Drawings with the control pictures of every kind, encoded once and kept in `work`; resumable."""

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
            folder = work / f"controls-{vae_name(vae)}" / f"{size[0]}x{size[1]}-{start}"
            self._rows[size] = self._kept(folder, vae, size)
            start += count

    def _kept(self, folder: Path, vae: AutoencoderKL, size: Size) -> Columns:
        pictures = self._pictures[size]

        def make(number: int) -> Columns:
            image = draw(pictures[number], *size)
            lines = {name: control(image, pictures[number].seed) for name, control in CONTROLS.items()}
            packed = {name: np.packbits(np.asarray(line)[..., 0] > 127, axis=-1) for name, line in lines.items()}
            return {"image": np.array(image), **packed}

        def finish(drawn: dict[str, Tensor]) -> Columns:
            latents = encoded(vae, on_unit_range(drawn["image"]), self._device)
            return {"latents": latents, **{name: drawn[name].numpy() for name in CONTROLS}}

        return kept_rows(folder, len(pictures), make, finish)

    def batch(self, kind: str, count: int) -> ControlBatch:
        """Take pictures of one size with controls of a kind, by chance: `count` of 128×128 or fewer pixels, fewer of more."""
        size = self._rng.choices(list(self._sizes), list(self._sizes.values()))[0]
        count = max(1, min(count, count * 128 * 128 // (size[0] * size[1])))
        rows = [self._rng.randrange(len(self._pictures[size])) for _ in range(count)]
        columns = self._rows[size]
        lines = np.unpackbits(columns[kind][rows], axis=-1).astype(np.float32)
        pictures = [self._pictures[size][row] for row in rows]
        prompts = ["" if self._rng.random() < WORDLESS else caption(picture, self._rng) for picture in pictures]
        return ControlBatch(
            torch.from_numpy(columns["latents"][rows].astype(np.float32)).to(self._device),
            torch.from_numpy(lines)[:, None].expand(-1, 3, -1, -1).to(self._device),
            prompts,
        )


def new_controlnet(parts: Parts) -> ControlNetModel:
    """A ControlNet that begins as the first half of pocket's denoiser, 1.3 million parameters."""
    torch.manual_seed(SEED)
    return ControlNetModel.from_unet(parts.unet, conditioning_embedding_out_channels=EMBEDDING)


def train_controlnet(
    work: Path,
    parts: Parts,
    shelf: ControlShelf,
    kind: str,
    budget: Budget,
    device: torch.device,
    *,
    batch: int = 32,
    learning_rate: float = 1e-3,
) -> tuple[ControlNetModel, History]:
    """Train a ControlNet of a kind of CONTROLS in `work/controlnet-kind`; returns it with averaged weights.

    `parts` stay as they are.
    """
    controlnet = new_controlnet(parts).to(device)
    # A copy without gradients: only those of the residuals go through it.
    unet = copy.deepcopy(parts.unet).requires_grad_(False).to(device).eval()
    text_encoder = parts.text_encoder.to(device).eval()
    trainer = Trainer(work / f"controlnet-{kind}", {"controlnet": controlnet}, budget, learning_rate=learning_rate)
    torch.manual_seed(SEED + trainer.history.steps)

    def loss_of() -> Tensor:
        given = shelf.batch(kind, batch)
        noisy, timesteps, velocity = noised(parts.scheduler, given.latents)
        with half_precision(device):
            with torch.no_grad():
                words = text_encoder(tokens(parts.tokenizer, given.prompts, device))[0]
            down, middle = controlnet(noisy, timesteps, words, controlnet_cond=given.controls, return_dict=False)
            guess = unet(
                noisy,
                timesteps,
                words,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
                return_dict=False,
            )[0]
        return functional.mse_loss(guess.float(), velocity)

    history = trainer.run(loss_of)
    best = trainer.averaged("controlnet")
    assert isinstance(best, ControlNetModel)
    return best.to(device).eval(), history


def controlnet_pipeline(parts: Parts, controlnet: ControlNetModel) -> StableDiffusionControlNetPipeline:
    """Put a ControlNet and the parts it was trained on into their pipeline."""
    pipe = StableDiffusionControlNetPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        controlnet=controlnet,
        scheduler=parts.scheduler,
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_controlnet(controlnet: ControlNetModel, folder: Path) -> None:
    """Write a ControlNet as a folder of fp16 safetensors for `ControlNetModel.from_pretrained`."""
    copy.deepcopy(controlnet).to("cpu", torch.float16).save_pretrained(folder)
