"""What of a model is on the card at a time, and how large a picture is decoded at once. Pure: numbers in, a plan out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

ROOM = 0.85
"""How much of the device's memory weights may take; the rest is for the picture in the making."""
ROOM_ALONE = 0.95
"""The same for one part on its own: FLUX.1's denoiser, 23.8 GB, is run on cards of 24 GiB."""
PINNED_SHARE = 0.7
"""How much of the main memory may be page-locked: what is cannot be swapped, and everything else has to live in the rest."""
DENOISERS = ("transformer", "unet")
CARDS_GB = (4, 6, 8, 12, 24)
"""The cards people have, by what is written on the box; in bytes these are GiB."""
GIB = 1 << 30


class Mode(StrEnum):
    """How a model is on the card."""

    WHOLE = "whole"
    """All of it, all the time."""
    PARTS = "its parts in turns"
    """Text encoder, denoiser and VAE take turns; one that is at work stays for as long as it is."""
    GROUPS = "its layers in turns, the next on its way meanwhile"
    """Layers are copied from page-locked main memory while the one before computes."""
    LAYERS = "its layers in turns"
    """Each layer is copied when it is due, and everything waits for it: very slow."""
    NONE = "too large"
    """Not even the main memory holds it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What of a model is on the card at a time. `stay`: with groups, the names of the parts that are there all the time."""

    mode: Mode
    stay: tuple[str, ...] = ()


def plan_for(parts: Mapping[str, int], card_bytes: int | None, ram_bytes: int | None, *, whole: bool = True) -> Plan:
    """Decide from the sizes of a model's parts, by name, and of the card's and the main memory, in bytes.

    A memory of None, unknown, counts as enough. `whole` is False where the model was found not to fit whole after all.
    """
    total, largest = sum(parts.values()), max(parts.values(), default=0)
    if whole and (card_bytes is None or total <= ROOM * card_bytes):
        return Plan(Mode.WHOLE)
    # From here on the weights live in main memory and visit the card.
    if ram_bytes is not None and total > ram_bytes:
        return Plan(Mode.NONE)
    if card_bytes is None or largest <= ROOM_ALONE * card_bytes:
        return Plan(Mode.PARTS)
    stay = _staying(parts, card_bytes)
    moving = total - sum(parts[name] for name in stay)
    if ram_bytes is None or moving <= PINNED_SHARE * ram_bytes:
        return Plan(Mode.GROUPS, stay)
    return Plan(Mode.LAYERS)


def _staying(parts: Mapping[str, int], card_bytes: int) -> tuple[str, ...]:
    """Name what stays on the card beside moving layers: the denoiser, which works at every step, then the VAE, then the rest.

    Where the denoiser itself moves, what works once a picture leaves the room to the picture.
    """
    left = ROOM * card_bytes
    stay: list[str] = []
    denoiser = next((name for name in DENOISERS if name in parts), None)
    for name in sorted(parts, key=lambda name: (name != denoiser, name != "vae", parts[name])):
        if parts[name] <= left and (name in (denoiser, "vae") or denoiser in stay):
            stay.append(name)
            left -= parts[name]
    return tuple(stay)


def on_card_while_decoding(parts: Mapping[str, int], plan: Plan) -> int:
    """Add up the weights that share the card with a picture being decoded, in bytes."""
    match plan.mode:
        case Mode.WHOLE:
            return sum(parts.values())
        case Mode.GROUPS:
            return sum(parts[name] for name in plan.stay)
        case _:
            return parts.get("vae", 0)


def tile_side(width: int, height: int, pixel_bytes: float, room_bytes: float | None) -> int | None:
    """Choose the side of the tiles a picture is decoded in, in pixels; None decodes it at once, where there is room for that.

    `pixel_bytes` is the decoder's peak a pixel. `room_bytes` None is unknown, and counts as enough.
    """
    if room_bytes is None or width * height * pixel_bytes <= room_bytes:
        return None
    return next((side for side in TILE_SIDES if side * side * pixel_bytes <= room_bytes), TILE_SIDES[-1])


TILE_SIDES = (768, 512, 384, 256)
"""Smaller tiles show: each is decoded without knowing of the others, and blended over a quarter of its side."""


_CLIP_L, _CLIP_G, _T5_XXL, _QWEN3_4B, _KL = 246_121_000, 1_389_320_000, 9_524_621_000, 8_044_936_000, 167_307_000
FAMILY_PARTS: Mapping[str, Mapping[str, int]] = {
    "sd15": {"unet": 1_719_042_000, "text_encoder": _CLIP_L, "vae": _KL},
    "sd21": {"unet": 1_731_821_000, "text_encoder": 680_776_000, "vae": _KL},
    "sdxl": {"unet": 5_134_927_000, "text_encoder": _CLIP_L, "text_encoder_2": _CLIP_G, "vae": _KL},
    "sd3": {
        "transformer": 4_939_334_000, "text_encoder": _CLIP_L, "text_encoder_2": _CLIP_G, "text_encoder_3": _T5_XXL,
        "vae": _KL,
    },
    "flux": {"transformer": 23_782_357_000, "text_encoder": _CLIP_L, "text_encoder_2": _T5_XXL, "vae": _KL},
    "flux2": {"transformer": 7_751_089_000, "text_encoder": _QWEN3_4B, "vae": _KL},
    "z-image": {"transformer": 12_309_817_000, "text_encoder": _QWEN3_4B, "vae": _KL},
    "qwen-image": {"transformer": 40_860_802_000, "text_encoder": 16_584_000_000, "vae": 254_000_000},
}  # fmt: skip
"""The parts of the families' best known models in 16 bits, in bytes, for models that are not on this machine: SD 1.5, SD 2.1,
SDXL, SD 3.5 Medium, FLUX.1, FLUX.2 klein 4B, Z-Image Turbo, Qwen-Image.

Parameters counted in the classes of diffusers 0.42.1 and transformers 5.23.0 with the published configurations; Qwen-Image's
text encoder and VAE are their files' sizes.
"""
QUANTIZED_SHARE = {"int8": 0.51, "fp8": 0.51}
"""What is left of a denoiser's 16-bit size: a byte a weight, the scales, and what is left as it was."""
