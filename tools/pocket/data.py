"""What the denoisers learn from: drawn pictures as latents, in buckets of one size each, with words made up anew every time."""

import hashlib
import itertools
import logging
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
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

Size = tuple[int, int]

# (width, height) in pixels, and how many pictures of 1,000 are drawn at it.
BUCKETS: dict[Size, int] = {
    (128, 128): 580,
    (144, 96): 36, (96, 144): 36, (128, 96): 36, (96, 128): 36, (176, 96): 36, (96, 176): 36,
    (64, 64): 70, (96, 96): 40, (192, 128): 16, (128, 192): 16, (192, 192): 40, (256, 256): 22,
}  # fmt: skip
# How much more often a picture of a kind is taken than it is on the shelf: outlines are the hardest to learn.
EMPHASIS = {"scene": 1.0, "shapes": 2.2, "subject": 1.4}
# And how much more often a landscape with something in it that is small or seldom.
RARE = {
    "boat": 6.0,
    "house": 2.5,
    "cactus": 2.0,
    "tree": 1.5,
    "palm tree": 1.5,
    "lighthouse": 1.5,
    "balloon": 1.5,
    "rainbow": 1.5,
}
STYLED = 0.4
OTHER_SIZES = 0.22  # the share of batches that are not of the first size
WORDLESS = 0.1
AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Batch:
    """Latents (count, 4, height/8, width/8), scaled to unit deviation; their pictures, and words for them."""

    latents: Tensor
    pictures: list[Picture]
    prompts: list[str]
    size: Size


def vae_name(vae: AutoencoderKL) -> str:
    """Name an autoencoder by its encoder's weights, so that what it encoded is not taken for another's."""
    digest = hashlib.sha256()
    for value in vae.encoder.state_dict().values():
        digest.update(value.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Pictures (count, 3, height, width) on [-1, 1] to scaled latents (count, 4, height/8, width/8)."""
    with half_precision(pixels.device):
        latents = vae.encode(pixels, return_dict=False)[0].mean
    return latents.float() * vae.config["scaling_factor"]


def helpers() -> int:
    """How many processes may draw while this one trains: none where two cores are all there is."""
    return max(0, (os.cpu_count() or 1) - 2)


class Drawn(Dataset[Tensor]):
    """Pictures, drawn when asked for, as tensors (3, height, width) on [-1, 1]."""

    def __init__(self, pictures: list[Picture], size: Size) -> None:
        self._pictures, self._size = pictures, size

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Tensor:
        return to_tensor([np.asarray(draw(self._pictures[index], *self._size))])[0]


def emphasis(picture: Picture) -> float:
    """How often a picture is taken, compared with others."""
    styled = STYLED if picture.style else 1.0
    if isinstance(picture.what, Scene):
        return EMPHASIS["scene"] * styled * max((RARE.get(extra, 1.0) for extra in picture.what.extras), default=1.0)
    return EMPHASIS["shapes" if picture.what.items[0].kind in SHAPES else "subject"] * styled


# The same for tuning, where landscapes with something in them are most of what is seen.
TUNING_EMPHASIS = {"scene": 0.6, "shapes": 0.8, "two": 1.6, "subject": 1.6}
TUNING_RARE = {
    "boat": 10.0,
    "house": 6.0,
    "lighthouse": 3.0,
    "palm tree": 2.5,
    "cactus": 3.0,
    "tree": 2.5,
    "balloon": 2.5,
    "rainbow": 1.5,
    "moon": 2.0,
    "neon lights": 3.0,
}
AT_NIGHT = 2.5  # hulls and walls are hardest to tell from the dark


def tuning_emphasis(picture: Picture) -> float:
    """How often a picture is taken in tuning: what the judge found drawn worst is taken most."""
    styled = STYLED if picture.style else 1.0
    if not isinstance(picture.what, Scene):
        kind = "subject" if picture.what.items[0].kind not in SHAPES else "two" if picture.what.relation else "shapes"
        return TUNING_EMPHASIS[kind] * styled
    rare = max((TUNING_RARE.get(extra, 1.0) for extra in picture.what.extras), default=1.0)
    return TUNING_EMPHASIS["scene"] * styled * rare * (AT_NIGHT if rare > 2 and picture.what.time == "night" else 1.0)


class Buckets:
    """The pictures of a shelf shared out over sizes, a row for each seed from `first` on, and what a batch takes of them."""

    def __init__(
        self, total: int, first: int, sizes: dict[Size, int], weigh: Callable[[Picture], float] = emphasis
    ) -> None:
        self._shares, self._rng = sizes, random.Random(first)
        self.seeds: dict[Size, range] = {}
        for size, share in sizes.items():
            count = max(1, round(total * share / sum(sizes.values())))
            self.seeds[size] = range(first, first + count)
            first += count
        self.pictures = {size: [sample(seed) for seed in seeds] for size, seeds in self.seeds.items()}
        self._weights = {
            size: list(itertools.accumulate(weigh(picture) for picture in pictures))
            for size, pictures in self.pictures.items()
        }

    def choose(self, count: int, size: Size | None = None) -> tuple[Size, list[int]]:
        """Choose a size, where none is given, and rows of it: `count` of 128×128 or fewer pixels, fewer of more pixels."""
        if size is None:
            size, *others = self._shares
            if others and self._rng.random() < OTHER_SIZES:
                size = self._rng.choices(others, [self._shares[other] for other in others])[0]
        count = max(1, min(count, count * 128 * 128 // (size[0] * size[1])))
        return size, self._rng.choices(range(len(self.seeds[size])), cum_weights=self._weights[size], k=count)

    def pick(self, count: int, choices: int) -> list[int]:
        """Choose one of some `choices` for each of `count` rows."""
        return [self._rng.randrange(choices) for _ in range(count)]

    def words(self, word: Callable[[random.Random], str], wordless: float = WORDLESS) -> str:
        """Make up words, or none in a share of times."""
        return "" if self._rng.random() < wordless else word(self._rng)

    def captions(self, pictures: list[Picture], wordless: float = WORDLESS) -> list[str]:
        """Make up words for pictures."""
        return [self.words(partial(caption, picture), wordless) for picture in pictures]


class Shelf:
    """The pictures of one work folder, encoded once and kept there; `batch` takes some of one size.

    Resumable: a bucket that is complete for this autoencoder is not encoded again.
    """

    def __init__(
        self,
        work: Path,
        vae: AutoencoderKL,
        total: int,
        device: torch.device,
        *,
        first: int = 0,
        weigh: Callable[[Picture], float] = emphasis,
    ) -> None:
        self._device = device
        self._latents: dict[Size, np.ndarray] = {}
        self._buckets = Buckets(total, first, BUCKETS, weigh)
        folder = work / f"latents-{vae_name(vae)}"
        folder.mkdir(parents=True, exist_ok=True)
        for size, seeds in self._buckets.seeds.items():
            path = folder / f"{size[0]}x{size[1]}-{seeds.start}-{len(seeds)}.npy"
            if not path.exists():
                logger.info("latents: %d pictures of %d×%d", len(seeds), *size)
                fresh = path.with_suffix(".new.npy")
                np.save(fresh, np.concatenate(list(self._encoded(vae, self._buckets.pictures[size], size))))
                fresh.rename(path)
            self._latents[size] = np.load(path, mmap_mode="r")

    def _encoded(self, vae: AutoencoderKL, pictures: list[Picture], size: Size) -> Iterator[np.ndarray]:
        step = max(1, AT_ONCE * 128 * 128 // (size[0] * size[1]))
        for pixels in DataLoader(Drawn(pictures, size), batch_size=step, num_workers=helpers()):
            yield encode(vae, pixels.to(self._device)).cpu().numpy().astype(np.float16)

    def batch(self, count: int, *, size: Size | None = None) -> Batch:
        """Take pictures of one size, chosen by chance: `count` of 128×128 or fewer pixels, fewer of more pixels."""
        size, rows = self._buckets.choose(count, size)
        pictures = [self._buckets.pictures[size][row] for row in rows]
        prompts = self._buckets.captions(pictures)
        return Batch(on_device(self._latents[size][rows], self._device), pictures, prompts, size)


def on_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Rows of a shelf as a tensor of float32."""
    return torch.from_numpy(values.astype(np.float32)).to(device)


def to_tensor(images: "list[np.ndarray]") -> Tensor:
    """Pictures of (height, width, 3) bytes to a tensor (count, 3, height, width) on [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
