"""The rules of drawing from pictures: which go with which model, how strongly, and in what size. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bot.catalogue.annotators import AnnotatorSpec, map_makers
from bot.catalogue.controls import CONTROL_TYPES, READY_MADE, kind_of
from bot.catalogue.models import TILED, VARIED, ModelSpec
from bot.catalogue.references import IpAdapterSpec
from bot.errors import RequestError
from bot.generation import DRAFT, GenerationOptions, InputRef

STRENGTH = 0.6
MASKED_STRENGTH = 1.0
"""What is masked is drawn anew where nobody says how strongly."""
MAX_CONTROL_SCALE = 2.0
_SAME_SHAPE = 0.02


SIDES: dict[str, tuple[int, int, int, int]] = {
    "all": (1, 1, 1, 1), "left": (1, 0, 0, 0), "top": (0, 1, 0, 0), "right": (0, 0, 1, 0), "bottom": (0, 0, 0, 1),
    "left and right": (1, 0, 1, 0), "top and bottom": (0, 1, 0, 1),
}  # fmt: skip
"""Where a picture can be gone on with: left, top, right, bottom."""
MIN_EXPAND, MAX_EXPAND = 10, 100
"""How much is added in all along an axis, in percent of the picture's own length."""
USUAL_EXPAND = 50


@dataclass(frozen=True, slots=True)
class FromPictures:
    """The part of a request that is about its pictures, by its names there."""

    image: str = ""
    strength: float = 1.0
    mask: str = ""
    control: str = ""
    control_type: str = ""
    control_scale: float = 1.0
    reference: str = ""
    reference_scale: float = 1.0
    base_seed: int | None = None
    variation: float = 0.0
    tiling: bool = False


def resolve_pictures(
    options: GenerationOptions, spec: ModelSpec, steps: int, quality: str, annotators: Sequence[AnnotatorSpec] = ()
) -> FromPictures:
    """Check what a request says of its pictures, and fill in the rest; `annotators` make maps of them. Raises RequestError."""
    if quality == DRAFT and (options.mask or options.control):
        raise RequestError("Drafts take no mask and no control map; leave the quality out.")
    adapter = _ip_adapter(options, spec)
    return FromPictures(
        image=_image(options, spec),
        strength=_strength(options, spec, steps),
        mask=_mask(options, spec),
        control="" if options.control is None else options.control.digest,
        control_type=_control_type(options, spec, annotators),
        control_scale=_control_scale(options),
        reference="" if adapter is None or options.reference is None else options.reference.digest,
        reference_scale=1.0 if adapter is None else adapter.scale,
        base_seed=options.base_seed,
        variation=_variation(options, spec),
        tiling=_tiling(options, spec),
    )


def size_like(picture: InputRef, spec: ModelSpec) -> tuple[int, int]:
    """Choose the size of a picture's shape that has about as many pixels as the model likes. Pixels, width first."""
    ratio = picture.width / picture.height
    across, down = spec.default_size
    pixels = min(across * down, spec.max_pixels)
    multiple = spec.side_multiple
    low = math.ceil(spec.min_side / multiple) * multiple
    high = spec.max_side // multiple * multiple

    def side(length: float) -> int:
        return min(max(round(length / multiple) * multiple, low), high)

    width, height = side(math.sqrt(pixels * ratio)), side(math.sqrt(pixels / ratio))
    while width * height > spec.max_pixels:  # rounding upwards, twice
        width, height = (width - multiple, height) if width >= height else (width, height - multiple)
    return width, height


def expansion(width: int, height: int, side: str, amount: int) -> tuple[int, int, int, int]:
    """Tell what is added to a picture left, at the top, right and at the bottom, in pixels. Raises RequestError."""
    sides = SIDES.get(side)
    if sides is None:
        raise RequestError(f"A picture goes on at one of {', '.join(SIDES)}.")
    if not MIN_EXPAND <= amount <= MAX_EXPAND:
        raise RequestError(f"The amount goes from {MIN_EXPAND} to {MAX_EXPAND} percent.")
    left, top, right, bottom = sides
    across, down = (max(1, round(length * amount / 100)) for length in (width, height))
    return (
        left * across // (left + right or 1), top * down // (top + bottom or 1),
        right * across // (left + right or 1), bottom * down // (top + bottom or 1),
    )  # fmt: skip


def expanded_size(width: int, height: int, side: str, amount: int) -> tuple[int, int]:
    """Tell how large a picture is with what is added. Raises RequestError."""
    left, top, right, bottom = expansion(width, height, side, amount)
    return left + width + right, top + height + bottom


def _image(options: GenerationOptions, spec: ModelSpec) -> str:
    if options.image is None:
        return ""
    if not spec.from_pictures:
        raise RequestError(f"{spec.name} draws from words alone; leave the picture out, or choose another model.")
    return options.image.digest


def _strength(options: GenerationOptions, spec: ModelSpec, steps: int) -> float:
    value = options.strength
    if options.image is None:
        if value is not None:
            raise RequestError("Strength says how far to leave a picture; add the picture, or leave the strength out.")
        return 1.0
    if value is None:
        value = STRENGTH if options.mask is None else MASKED_STRENGTH
    number = _number(value, "Strength")
    if not 0 < number <= 1:
        raise RequestError(
            f"Strength goes from just above 0 (keep the picture) to 1 (leave it); {number:g} does not fit."
        )
    if int(steps * number) < 1:
        least = math.ceil(100 / steps) / 100
        raise RequestError(
            f"A strength of {number:g} leaves no step of {steps} to draw; use {least:g} or more, or more steps."
        )
    return number


def _mask(options: GenerationOptions, spec: ModelSpec) -> str:
    mask, image = options.mask, options.image
    if mask is None:
        return ""
    if image is None:
        raise RequestError("A mask says what to redraw of a picture; add the picture, too.")
    if abs(mask.width * image.height - mask.height * image.width) > _SAME_SHAPE * mask.width * image.height:
        raise RequestError(
            f"The mask is {mask.width}×{mask.height} and the picture {image.width}×{image.height}; "
            "send a mask of the picture's shape."
        )
    return mask.digest


def _control_type(options: GenerationOptions, spec: ModelSpec, annotators: Sequence[AnnotatorSpec]) -> str:
    given = options.control_type
    if options.control is None:
        if given is not None:
            raise RequestError("A control type needs a control picture; add one, or leave the type out.")
        return ""
    kinds = list(spec.controls)
    if not kinds:
        raise RequestError(f"{spec.name} follows no control pictures; leave it out, or choose another model.")
    name = kinds[0] if given is None else " ".join(given.lower().split())
    if name not in CONTROL_TYPES:
        raise RequestError(f"There is no such control type; choose one of {', '.join(_types(kinds))}.")
    if kind_of(name) not in kinds:
        raise RequestError(f"{spec.name} has no control network for {name}; it has {', '.join(_types(kinds))}.")
    try:
        map_makers(annotators, name)
    except LookupError as error:
        raise RequestError(
            f"Nothing here makes a {name} map of a picture: the models file has no annotator of the kind “{error.args[0]}”. "
            f"Send a ready-made one as “{READY_MADE}{name}”."
        ) from None
    return name


def _types(kinds: list[str]) -> list[str]:
    return [*kinds, *(READY_MADE + kind for kind in kinds)]


def _control_scale(options: GenerationOptions) -> float:
    value = options.control_scale
    if value is None:
        return 1.0
    if options.control is None:
        raise RequestError("A control scale needs a control picture; add one, or leave the scale out.")
    number = _number(value, "The control scale")
    if not 0 <= number <= MAX_CONTROL_SCALE:
        raise RequestError(f"The control scale goes from 0 to {MAX_CONTROL_SCALE:g}; {number:g} does not fit.")
    return number


def _ip_adapter(options: GenerationOptions, spec: ModelSpec) -> IpAdapterSpec | None:
    """Give what reads the reference picture; None where there is no such picture. Raises RequestError."""
    if options.reference is None:
        return None
    if spec.ip_adapter is None:
        raise RequestError(
            f"{spec.name} has no IP-Adapter, which reads reference pictures; leave the reference out, or choose another model."
        )
    return spec.ip_adapter


def _variation(options: GenerationOptions, spec: ModelSpec) -> float:
    if options.base_seed is None:
        if options.variation is not None:
            raise RequestError("A variation is of another seed's picture; give the base seed, too, or leave it out.")
        return 0.0
    if spec.family not in VARIED:
        raise RequestError(f"{spec.name} draws no variations of a seed; draw it again, or choose another model.")
    number = _number(0.0 if options.variation is None else options.variation, "A variation")
    if not 0 <= number <= 1:
        raise RequestError(f"A variation goes from 0 to 1; {number:g} does not fit.")
    return number


def _tiling(options: GenerationOptions, spec: ModelSpec) -> bool:
    if not options.tiling:
        return False
    if spec.family not in TILED:
        raise RequestError(f"{spec.name} draws no tiles; leave the tiling out, or choose another model.")
    if options.mask is not None:
        raise RequestError("A part of a picture cannot be tiled; leave out the mask or the tiling.")
    return True


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RequestError(f"{what} takes a number.")
    return float(value) or 0.0
