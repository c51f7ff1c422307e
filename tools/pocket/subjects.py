"""Something new for pocket to learn, in a few hundred drawings: what it is, and its drawings as latents with words."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from tools.pocket.captions import caption
from tools.pocket.data import Buckets, Size, on_device, vae_name
from tools.pocket.draw import draw
from tools.pocket.rows import Columns, encoded, kept_rows, on_unit_range
from tools.pocket.spec import Picture, sample
from tools.pocket.training import on

# Drawings to learn from start here, drawings to be judged by there.
FIRST, UNSEEN = 1_000_000, 2_000_000
# With these many words a trigger is still read: 32 tokens are all there is.
MAX_WORDS = 16
SIZES: dict[Size, int] = {(128, 128): 8, (96, 128): 1, (128, 96): 1}


def short_caption(picture: Picture, rng: random.Random) -> str:
    """Word a picture in few enough words, uncapitalised and without a full stop, for a trigger to fit in beside them."""
    while True:
        words = caption(picture, rng).rstrip(".")
        if len(words.split()) <= MAX_WORDS:
            return words[0].lower() + words[1:]


@dataclass(frozen=True, slots=True)
class Subject:
    """A style or somebody: a seed gives a drawing (of width and height) and words with the trigger; `is_there` measures it."""

    name: str
    trigger: str
    description: str
    draw: Callable[[int, int, int], Image.Image]
    words: Callable[[int, random.Random], str]
    is_there: Callable[[Image.Image], bool]


@dataclass(frozen=True, slots=True)
class SubjectBatch:
    """Latents (count, 4, h, w) and words for them."""

    latents: Tensor
    prompts: list[str]


class SubjectShelf:
    """Drawings of a subject, encoded once and kept in `work`; resumable.

    A part of them, `plain` of ten, are ordinary pictures with ordinary words: what is learned shall wait for its trigger.
    """

    def __init__(
        self,
        work: Path,
        vae: AutoencoderKL,
        subject: Subject,
        total: int,
        device: torch.device,
        *,
        plain: int = 3,
        first: int = FIRST,
        sizes: dict[Size, int] = SIZES,
    ) -> None:
        self._subject, self._plain, self._device = subject, plain, device
        self._buckets = Buckets(total, first, sizes, weigh=lambda _: 1.0)
        folder = work / f"{subject.name}-{vae_name(vae)}"
        vae = on(vae, device).eval()
        self._latents = {
            size: self._kept(folder / f"{size[0]}x{size[1]}-{seeds.start}-{plain}", vae, size, seeds)["latents"]
            for size, seeds in self._buckets.seeds.items()
        }

    def _is_plain(self, seed: int) -> bool:
        return seed % 10 < self._plain

    def _kept(self, folder: Path, vae: AutoencoderKL, size: Size, seeds: range) -> Columns:
        def make(number: int) -> Columns:
            seed = seeds[number]
            image = draw(sample(seed), *size) if self._is_plain(seed) else self._subject.draw(seed, *size)
            return {"image": np.array(image)}

        def finish(drawn: dict[str, Tensor]) -> Columns:
            return {"latents": encoded(vae, on_unit_range(drawn["image"]), self._device)}

        return kept_rows(folder, len(seeds), make, finish)

    def batch(self, count: int) -> SubjectBatch:
        """Take drawings of one size, chosen by chance."""
        size, rows = self._buckets.choose(count)
        prompts = [self._buckets.words(partial(self._words, self._buckets.seeds[size][row])) for row in rows]
        return SubjectBatch(on_device(self._latents[size][rows], self._device), prompts)

    def _words(self, seed: int, rng: random.Random) -> str:
        return caption(sample(seed), rng) if self._is_plain(seed) else self._subject.words(seed, rng)
