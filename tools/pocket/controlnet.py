"""Train ControlNets on pocket: one that follows edges, one that follows scribbles."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image
from torch import Tensor

from tools.pocket.data import BUCKETS, Buckets, Size, on_device, vae_name
from tools.pocket.denoiser import Parts, denoising_loss
from tools.pocket.draw import draw
from tools.pocket.family import assembled
from tools.pocket.outlines import edges, scribble
from tools.pocket.rows import Columns, encoded, kept_rows, on_unit_range
from tools.pocket.saving import save_half
from tools.pocket.training import SEED, Budget, History, Trainer, on, plain_attention

FIRST = 70_000_000
# Half of the prompts are empty in arXiv 2302.05543, so that the lines are read; in a network this small a third is enough.
WORDLESS = 0.33
# Lines say most where there is most noise.
LEAN = 0.4
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
        self._device = device
        self._buckets = Buckets(total, first, sizes)
        folder = work / f"controls-{vae_name(vae)}"
        vae = on(vae, device).eval()
        self._rows = {
            size: self._kept(folder / f"{size[0]}x{size[1]}-{seeds.start}", vae, size)
            for size, seeds in self._buckets.seeds.items()
        }

    def _kept(self, folder: Path, vae: AutoencoderKL, size: Size) -> Columns:
        pictures = self._buckets.pictures[size]

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
        size, rows = self._buckets.choose(count)
        columns = self._rows[size]
        lines = on_device(np.unpackbits(columns[kind][rows], axis=-1), self._device)
        pictures = [self._buckets.pictures[size][row] for row in rows]
        return ControlBatch(
            on_device(columns["latents"][rows], self._device),
            lines[:, None].expand(-1, 3, -1, -1),
            self._buckets.captions(pictures, WORDLESS),
        )


def new_controlnet(parts: Parts) -> ControlNetModel:
    """A ControlNet that begins as the first half of pocket's denoiser, 1.3 million parameters."""
    torch.manual_seed(SEED)
    net = ControlNetModel.from_unet(parts.unet, conditioning_embedding_out_channels=EMBEDDING)
    # The zero convolutions behind it already keep the untrained net silent; a zero here as well would only keep the lines from
    # being seen for the first hundreds of steps.
    net.controlnet_cond_embedding.conv_out.reset_parameters()
    return net


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
    matrix_rate: float = 1e-3,
) -> tuple[ControlNetModel, History]:
    """Train a ControlNet of a kind of CONTROLS in `work/controlnet-kind`; returns it with averaged weights.

    `parts` stay as they are.
    """
    controlnet = on(new_controlnet(parts), device)
    # A copy without gradients: only those of the residuals go through it.
    unet = on(copy.deepcopy(parts.unet).requires_grad_(False), device).eval()
    on(parts.text_encoder, device).eval()
    trainer = Trainer(
        work / f"controlnet-{kind}", {"controlnet": controlnet}, budget,
        learning_rate=learning_rate, matrix_rate=matrix_rate,
    )  # fmt: skip
    torch.manual_seed(SEED + trainer.history.steps)

    def loss_of() -> Tensor:
        given = shelf.batch(kind, batch)
        words = parts.words(given.prompts, device)

        def guess(noisy: Tensor, timesteps: Tensor) -> Tensor:
            down, middle = controlnet(noisy, timesteps, words, controlnet_cond=given.controls, return_dict=False)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            return unet(noisy, timesteps, words, **residuals, return_dict=False)[0]

        return denoising_loss(parts.scheduler, given.latents, guess, LEAN)

    with plain_attention(device):
        history = trainer.run(loss_of)
    best = trainer.averaged("controlnet")
    assert isinstance(best, ControlNetModel)
    return on(best, device).eval(), history


def controlnet_pipeline(parts: Parts, controlnet: ControlNetModel) -> StableDiffusionControlNetPipeline:
    """Put a ControlNet and the parts it was trained on into their pipeline."""
    return assembled(StableDiffusionControlNetPipeline, parts, controlnet=controlnet)


def save_controlnet(controlnet: ControlNetModel, folder: Path) -> None:
    """Write a ControlNet as a folder of fp16 safetensors for `ControlNetModel.from_pretrained`."""
    save_half(controlnet, folder)
