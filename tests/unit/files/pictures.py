"""Pictures and results for the tests of files."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from bot.files.certificate import load_identity
from bot.files.credentials import Credentials
from bot.files.marker import Marker
from bot.generation import GenerationRequest, GenerationResult, RawPicture

REQUEST = GenerationRequest(
    prompt="a sunset, over the sea", negative_prompt="fog", model="pocket", width=64, height=48, count=2,
    num_inference_steps=20, guidance_scale=4.0, seed=40, sampler="Default",
)  # fmt: skip


def raw(n: int = 0, width: int = 64, height: int = 48, seed: int | None = None) -> RawPicture:
    pixels = random.Random(n).randbytes(width * height * 3)
    return RawPicture(n=n, seed=40 + n if seed is None else seed, width=width, height=height, pixels=pixels)


def result(count: int = 2) -> GenerationResult:
    pictures = tuple(raw(n) for n in range(count))
    return GenerationResult(pictures=pictures, denoise_s=1.0, total_s=1.5, device="cpu", dtype="fp32")


NOW = datetime.now(UTC)


@lru_cache(maxsize=2)
def marker(*, watermark: bool = False) -> Marker:
    """A marker with a certificate of the tests' own, made once a process."""
    with TemporaryDirectory() as folder:
        identity = load_identity(Path(folder), None, None, now=NOW)
    return Marker(Credentials(identity, version="0.1.0"), version="0.1.0", watermark=watermark)


class FixedScore:
    """Gives one score to every picture, or raises."""

    def __init__(self, score: float | Exception = 0.01) -> None:
        self.given = score

    def score(self, picture: RawPicture) -> float:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


NOT_FINITE = (math.nan, math.inf)
