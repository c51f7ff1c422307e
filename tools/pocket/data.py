"""What the denoisers learn from: drawn pictures as latents, in buckets of one size each, with words made up anew every time."""

import hashlib
import itertools
import logging
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tools.pocket.captions import caption
from tools.pocket.draw import draw
from tools.pocket.spec import SHAPES, Picture, Scene, sample
from tools.pocket.training import half_precision

logger = logging.getLogger("pocket")

# (width, height) in pixels, and how many pictures of 1,000 are drawn at it.
BUCKETS: dict[tuple[int, int], int] = {
    (128, 128): 580,
    (144, 96): 36, (96, 144): 36, (128, 96): 36, (96, 128): 36, (176, 96): 36, (96, 176): 36,
    (64, 64): 70, (96, 96): 40, (192, 128): 16, (128, 192): 16, (192, 192): 40, (256, 256): 22,
}  # fmt: skip
# How much more often a picture of a kind is taken than it is on the shelf: outlines are the hardest to learn.
EMPHASIS = {"scene": 1.0, "shapes": 1.6, "subject": 1.0}
STYLED = 0.5
OTHER_SIZES = 0.22  # the share of batches that are not of 128×128
WORDLESS = 0.1
AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Batch:
    """Latents (count, 4, height/8, width/8), scaled to unit deviation; their pictures, and words for them."""

    latents: Tensor
    pictures: list[Picture]
    prompts: list[str]
    size: tuple[int, int]


def _identity(vae: AutoencoderKL) -> str:
    digest = hashlib.sha256()
    for value in vae.encoder.state_dict().values():
        digest.update(value.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Pictures (count, 3, height, width) on [-1, 1] to scaled latents (count, 4, height/8, width/8)."""
    with half_precision(pixels.device):
        latents = vae.encode(pixels).latent_dist.mean
    return latents.float() * vae.config["scaling_factor"]


def helpers() -> int:
    """How many processes may draw while this one trains: none where two cores are all there is."""
    return max(0, (os.cpu_count() or 1) - 2)


class Drawn(Dataset[Tensor]):
    """Pictures, drawn when asked for, as tensors (3, height, width) on [-1, 1]."""

    def __init__(self, pictures: list[Picture], size: tuple[int, int]) -> None:
        self._pictures, self._size = pictures, size

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Tensor:
        return to_tensor([np.asarray(draw(self._pictures[index], *self._size))])[0]


def _emphasis(picture: Picture) -> float:
    if isinstance(picture.what, Scene):
        kind = "scene"
    else:
        kind = "shapes" if picture.what.items[0].kind in SHAPES else "subject"
    return EMPHASIS[kind] * (STYLED if picture.style else 1.0)


class Shelf:
    """The pictures of one work folder, encoded once and kept there; `batch` takes some of one size.

    Resumable: a bucket that is complete for this autoencoder is not encoded again.
    """

    def __init__(self, work: Path, vae: AutoencoderKL, total: int, device: torch.device, *, first: int = 0) -> None:
        self._device = device
        self._latents: dict[tuple[int, int], np.ndarray] = {}
        self._pictures: dict[tuple[int, int], list[Picture]] = {}
        self._weights: dict[tuple[int, int], list[float]] = {}
        self._rng = random.Random(first)
        folder = work / f"latents-{_identity(vae)}"
        folder.mkdir(parents=True, exist_ok=True)
        start = first
        for size, share in BUCKETS.items():
            count = max(1, round(total * share / sum(BUCKETS.values())))
            path = folder / f"{size[0]}x{size[1]}-{start}-{count}.npy"
            self._pictures[size] = [sample(seed) for seed in range(start, start + count)]
            self._weights[size] = list(itertools.accumulate(_emphasis(picture) for picture in self._pictures[size]))
            if not path.exists():
                logger.info("latents: %d pictures of %d×%d", count, *size)
                fresh = path.with_suffix(".new.npy")
                np.save(fresh, np.concatenate(list(self._encoded(vae, self._pictures[size], size))))
                fresh.rename(path)
            self._latents[size] = np.load(path, mmap_mode="r")
            start += count

    def _encoded(self, vae: AutoencoderKL, pictures: list[Picture], size: tuple[int, int]) -> Iterator[np.ndarray]:
        step = max(1, AT_ONCE * 128 * 128 // (size[0] * size[1]))
        for pixels in DataLoader(Drawn(pictures, size), batch_size=step, num_workers=helpers()):
            yield encode(vae, pixels.to(self._device)).cpu().numpy().astype(np.float16)

    def batch(self, count: int, *, size: tuple[int, int] | None = None) -> Batch:
        """Take pictures of one size, chosen by chance: `count` of 128×128 or fewer pixels, fewer of more pixels."""
        if size is None:
            size, *others = BUCKETS
            if self._rng.random() < OTHER_SIZES:
                size = self._rng.choices(others, [BUCKETS[other] for other in others])[0]
        count = max(1, min(count, count * 128 * 128 // (size[0] * size[1])))
        chosen = self._rng.choices(range(len(self._pictures[size])), cum_weights=self._weights[size], k=count)
        pictures = [self._pictures[size][index] for index in chosen]
        prompts = ["" if self._rng.random() < WORDLESS else caption(picture, self._rng) for picture in pictures]
        latents = torch.from_numpy(self._latents[size][chosen].astype(np.float32)).to(self._device)
        return Batch(latents, pictures, prompts, size)


def to_tensor(images: "list[np.ndarray]") -> Tensor:
    """Pictures of (height, width, 3) bytes to a tensor (count, 3, height, width) on [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
