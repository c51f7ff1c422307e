"""Model families whose denoiser takes every row on its own: small adapters over diffusers' own components.

`family_of` names the adapter of a pipeline, or None: such a pipeline is called as a whole (`bot.engine.general`).
"""

from __future__ import annotations

from typing import Any

from bot.engine.families.base import Conditioning, Family, Words
from bot.engine.families.flux import Flux
from bot.engine.families.flux2 import Flux2Klein
from bot.engine.families.sd3 import StableDiffusion3
from bot.engine.families.unet import StableDiffusion, StableDiffusionXL, StableDiffusionXLInpaint
from bot.engine.families.z_image import ZImage

__all__ = ["Conditioning", "Family", "Words", "family_of"]

_FAMILIES: dict[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionInpaintPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusionXLInpaintPipeline": StableDiffusionXLInpaint,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "Flux2KleinPipeline": Flux2Klein,
    "ZImagePipeline": ZImage,
}


def family_of(pipe: Any) -> type[Family] | None:
    """Give the adapter for a pipeline, by its class's name; None where the pipeline has to be called as a whole."""
    return _FAMILIES.get(type(pipe).__name__)
