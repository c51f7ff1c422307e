"""Pictures from Python, without Discord:

from bot import generate_image
generate_image("a sunset over the mountains").save("output.png")
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bot import __version__, provenance
from bot.catalogue import Catalogue
from bot.config import Settings, read_environment
from bot.engine.base import Engine, Listener, Weights
from bot.engine.models import hub_cache, load_catalogue, model_files, models_root
from bot.files.encode import XMP_KEYWORD
from bot.generation import (
    FetchProgress,
    GenerationOptions,
    GenerationRequest,
    GenerationResult,
    Progress,
    RawPicture,
)
from bot.limits import resolve
from bot.moderation import Moderator
from bot.provenance import EASEL_KEY, PARAMETERS_KEY, Marks


def random_seed() -> int:
    """Make up a seed from 0 to 2**32 - 1."""
    return secrets.randbelow(2**32)


class Studio:
    """Everything between a request and its pictures on this machine, without a queue. Draws for one thread at a time."""

    def __init__(
        self, settings: Settings, *, engine: Engine | None = None, weights: Weights | None = None,
        new_seed: Callable[[], int] = random_seed,
    ) -> None:  # fmt: skip
        """Read the catalogue. Raises ConfigError. `engine` and `weights` are made from `settings` where left out."""
        self.catalogue: Catalogue = load_catalogue(settings)
        self._weights: Weights = weights or model_files(self.catalogue, settings)
        self._engine: Engine = engine or _make_engine(self.catalogue, settings)
        self._moderator = Moderator()
        self._new_seed = new_seed
        self._lock = threading.Lock()

    def prepare(self, options: GenerationOptions) -> GenerationRequest:
        """Complete and check what was asked for. Raises RequestError; draws nothing."""
        request = resolve(options, self.catalogue, new_seed=self._new_seed)
        self._moderator.check(request.prompt, request.negative_prompt)
        return request

    def draw(
        self,
        request: GenerationRequest,
        listener: Listener | None = None,
        on_fetch: Callable[[FetchProgress], None] | None = None,
    ) -> GenerationResult:
        """Draw a prepared request on this thread, after downloading its model where that is missing.

        Raises ModelError, GenerationError and their kin.
        """
        listener = listener or Silence()
        with self._lock:
            if not self._weights.is_local(request.model):
                self._weights.fetch(request.model, on_fetch or _ignore, listener.cancelled)
            self._engine.start()
            return self._engine.generate(request, listener)

    def marks(self, request: GenerationRequest, picture: RawPicture, result: GenerationResult) -> Marks:
        """Write down what made a picture, for its file."""
        name = self.catalogue.name_of(request.model)
        return provenance.marks(
            request, picture.n, job_id="", model_name=name, device=result.device, dtype=result.dtype,
            version=__version__,
        )  # fmt: skip


class Silence:
    """A listener who wants nothing."""

    def cancelled(self) -> bool:
        """Never."""
        return False

    def wants_preview(self) -> bool:
        """Never."""
        return False

    def on_progress(self, progress: Progress) -> None:
        """Ignore it."""

    def on_load(self, progress: FetchProgress) -> None:
        """Ignore it."""


class Picture(Image.Image):
    """A Pillow image that writes what made it into the file it is saved to."""

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """Save as Pillow does; PNG gets the `parameters` and `easel` texts, and every format that can the IPTC mark."""
        name = (format or os.path.splitext(str(getattr(fp, "name", fp)))[1].lstrip(".")).lower()
        if name == "png" and "pnginfo" not in params:
            info = PngInfo()
            for keyword in (PARAMETERS_KEY, EASEL_KEY):
                if isinstance(text := self.info.get(keyword), str):
                    info.add_itxt(keyword, text) if keyword == EASEL_KEY or not text.isascii() else info.add_text(
                        keyword, text
                    )
            if isinstance(xmp := self.info.get("xmp"), bytes):
                info.add_itxt(XMP_KEYWORD, xmp.decode("utf-8"))
            params["pnginfo"] = info
        elif name in ("jpg", "jpeg", "webp") and "xmp" in self.info:
            params.setdefault("xmp", self.info["xmp"])
        super().save(fp, format, **params)


def generate_image(
    prompt: str,
    *,
    negative_prompt: str | None = None,
    model: str | None = None,
    aspect: str | None = None,
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int | None = None,
    sampler: str | None = None,
) -> Image.Image:
    """Draw one picture and give it as a Pillow image.

    The options are those of `/imagine`; what is left out comes from the model's defaults. Sizes are pixels, multiples
    of 8. `image.info` has the texts "parameters" and "easel", which `image.save("output.png")` writes into the file.
    The first call loads the model, which stays in memory. Raises EaselError with a sentence that says what to do.
    """
    images = generate_images(
        prompt, negative_prompt=negative_prompt, model=model, aspect=aspect, width=width, height=height, count=1,
        steps=steps, guidance=guidance, seed=seed, sampler=sampler,
    )  # fmt: skip
    return images[0]


def generate_images(prompt: str, *, count: int | None = None, **options: Any) -> list[Image.Image]:
    """Draw `count` variants, picture n (from 0) with `seed + n`; otherwise as `generate_image`."""
    studio = _studio()
    request = studio.prepare(GenerationOptions(prompt, count=count, **options))
    result = studio.draw(request)
    return [to_image(picture, studio.marks(request, picture, result)) for picture in result.pictures]


def to_image(picture: RawPicture, marks: Marks) -> Image.Image:
    """Make a Pillow image that carries its marks."""
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)
    image.info.update(marks.chunks)
    image.info["xmp"] = marks.xmp.encode("utf-8")
    image.__class__ = Picture
    return image


@lru_cache(maxsize=1)
def _studio() -> Studio:
    return Studio(read_environment(os.environ))


def _make_engine(catalogue: Catalogue, settings: Settings) -> Engine:
    from bot.engine.diffusers_engine import DiffusersEngine

    return DiffusersEngine(
        catalogue, models_root=models_root(settings), cache_dir=hub_cache(settings), device=settings.device,
        dtype=settings.dtype, max_batch=settings.max_batch,
    )  # fmt: skip


def _ignore(_: FetchProgress) -> None:
    return None
