"""The rules of enlarging pictures: how far, by which network or model, in which tiles, at what price. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from bot.catalogue.models import Catalogue, ModelSpec
from bot.errors import RequestError
from bot.generation import DETAIL, PLAIN, UPSCALE_MODES, GenerationRequest, InputRef, UpscaleOptions
from bot.prompts.text import is_blank

FACTORS = (2, 4)
MAX_SIDE_PX = 2048
"""The longest side of a picture that is enlarged: that is how large pictures are taken in."""
MAX_RESULT_PX = 4096
"""The longest side of what comes of it."""
TILE_PX, OVERLAP_PX = 256, 48
"""A network sees so much of the picture at once, and tiles share so much, or what it cannot see beyond an edge would show."""
DETAIL_STRENGTH = 0.3
"""Details are redrawn over the last such share of the steps: the layout stays."""
MIN_DETAIL_STEPS = math.ceil(1 / DETAIL_STRENGTH)
NAMELESS = "Upscaled picture"
"""The title of a picture of which no prompt is known."""


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where one axis is cut: tiles of `length` px begin at `starts`, each sharing `overlap` px or more with the next."""

    starts: tuple[int, ...]
    length: int

    def times(self, factor: int) -> Cuts:
        """Give the same cuts of the enlarged axis."""
        return Cuts(tuple(start * factor for start in self.starts), self.length * factor)


def cuts(size: int, tile: int, overlap: int) -> Cuts:
    """Cut an axis of `size` px into tiles of `tile` px, the last one flush with the end; one as long as all where that is less."""
    if size <= tile:
        return Cuts((0,), size)
    count = math.ceil((size - overlap) / (tile - overlap))
    return Cuts(tuple(round(n * (size - tile) / (count - 1)) for n in range(count)), tile)


def tile_count(width: int, height: int, tile: int = TILE_PX, overlap: int = OVERLAP_PX) -> int:
    """Count the tiles of a picture."""
    return len(cuts(width, tile, overlap).starts) * len(cuts(height, tile, overlap).starts)


def check_upscale(width: int, height: int, factor: int) -> None:
    """Refuse what would be too large. Raises RequestError."""
    longest = max(width, height)
    if longest > MAX_SIDE_PX:
        raise RequestError(
            f"The picture is {width}×{height}; those of at most {MAX_SIDE_PX} px a side are enlarged. Send a smaller one."
        )
    if longest * factor > MAX_RESULT_PX:
        raise RequestError(
            f"{width}×{height} enlarged {factor}× would be {width * factor}×{height * factor}, and at most {MAX_RESULT_PX} px a side are "
            f"made; choose 2×, or a picture of at most {MAX_RESULT_PX // factor} px a side."
        )


def may_upscale(width: int, height: int, factor: int) -> bool:
    """Whether a picture of this size may be enlarged so far."""
    return max(width, height) <= min(MAX_SIDE_PX, MAX_RESULT_PX // factor)


def resolve_upscale(options: UpscaleOptions, catalogue: Catalogue, *, new_seed: Callable[[], int]) -> GenerationRequest:
    """Check what was asked and fill in the rest; `new_seed` as for `limits.resolve`. Raises RequestError."""
    if options.factor not in FACTORS:
        raise RequestError(f"Pictures are enlarged 2 or 4 times, not {str(options.factor)[:20]}.")
    if options.mode not in UPSCALE_MODES:
        raise RequestError(f"There is no such mode; choose one of {', '.join(UPSCALE_MODES)}.")
    if not catalogue.upscalers:
        raise RequestError(
            "No upscaler is installed here; whoever runs the bot can put one into the folder `upscalers` of its data directory."
        )
    image = options.image
    check_upscale(image.width, image.height, options.factor)
    redraws = options.mode == DETAIL
    spec = _model_of_detail(options.model, catalogue) if redraws else None
    steps = tile_count(image.width, image.height) if spec is None else max(spec.steps, MIN_DETAIL_STEPS)
    return GenerationRequest(
        prompt=NAMELESS if is_blank(options.prompt) else options.prompt.strip(),
        negative_prompt=options.negative_prompt.strip() if spec is not None and spec.negative_prompt else "",
        model=catalogue.upscalers[0].id if spec is None else spec.id,
        width=image.width * options.factor,
        height=image.height * options.factor,
        count=1,
        num_inference_steps=steps,
        guidance_scale=0.0 if spec is None else spec.guidance,
        seed=(new_seed() if redraws else 0) if options.seed is None else options.seed,
        sampler="" if spec is None else spec.sampler,
        private=options.private,
        spoiler=options.spoiler,
        guidance_end=1.0 if spec is None else spec.guidance_end,
        image=image.digest,
        strength=1.0 if spec is None else DETAIL_STRENGTH,
        upscale=options.factor,
        upscale_mode=options.mode,
        upscale_source=options.model,
    )


def options_of_upscale(request: GenerationRequest) -> UpscaleOptions:
    """Turn a complete request that enlarges back into options, without its seed."""
    return UpscaleOptions(
        InputRef(request.image, *source_size(request)),
        factor=request.upscale,
        mode=request.upscale_mode,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        model=request.upscale_source,
        private=request.private,
        spoiler=request.spoiler,
    )


def redraws(request: GenerationRequest) -> bool:
    """Whether a model redraws the details of what is enlarged."""
    return bool(request.upscale) and request.upscale_mode == DETAIL


def is_plain(request: GenerationRequest) -> bool:
    """Whether a request is enlarged by a network alone."""
    return bool(request.upscale) and request.upscale_mode == PLAIN


def source_size(request: GenerationRequest) -> tuple[int, int]:
    """Tell the size of the picture that a request enlarges."""
    return request.width // request.upscale, request.height // request.upscale


def _model_of_detail(model: str, catalogue: Catalogue) -> ModelSpec:
    """Choose who redraws: the model that drew the picture, else the default, else the first that can."""
    known = (catalogue.get(model), catalogue.get(catalogue.default), *catalogue.models)
    found = next((spec for spec in known if spec is not None and spec.from_pictures), None)
    if found is None:
        raise RequestError("No model here redraws pictures, so the mode detail is not to be had; choose plain.")
    return found
