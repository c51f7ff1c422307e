"""How large a picture a VAE decodes at once: in tiles where its peak does not fit. GPU thread."""

from __future__ import annotations

import logging
from typing import Any

from bot.engine.memory.plans import TILE_SIDES, tile_side

log = logging.getLogger(__name__)

FLOATS_A_PIXEL = 1024
"""What the decoder of Stable Diffusion's VAE holds at its peak, in numbers a pixel: 969 at 256², 996 at 128², measured in fp32 on
a processor."""
_CHANNELS = 128
"""Its channels at full size, to which the peak is in proportion."""


class Decoder:
    """Sets a pipeline's VAE for the size of the next picture.

    The same model, size and card give the same tiles, so that a seed gives the same picture whatever else is in memory; only
    after a decode ran out of memory all alone, that size goes on in smaller ones.
    """

    def __init__(self, pipe: Any, room_bytes: float | None) -> None:
        """`room_bytes` is what a decode may take of the device; None is unknown, and counts as enough."""
        self._vae = getattr(pipe, "vae", None)
        self._room_bytes = room_bytes
        self._forced: dict[tuple[int, int], int] = {}

    def side(self, width: int, height: int) -> int | None:
        """Tell the side of the tiles a picture of this size is decoded in, in pixels; None where it is decoded at once."""
        if not hasattr(self._vae, "enable_tiling"):
            return None
        forced = self._forced.get((width, height))
        if forced is not None:
            return forced
        return tile_side(width, height, pixel_bytes(self._vae), self._room_bytes)

    def prepare(self, width: int, height: int) -> None:
        """Set the VAE for a picture of this size."""
        if not hasattr(self._vae, "enable_tiling"):
            return
        vae: Any = self._vae
        side = self.side(width, height)
        if side is None:
            vae.disable_tiling()
            return
        vae.enable_tiling()
        if hasattr(vae, "tile_latent_min_size"):
            # AutoencoderKL's own tiles are as large as the pictures it was trained on: for SDXL's size, no tiles at all.
            factor = 2 ** (len(vae.config.block_out_channels) - 1)
            vae.tile_sample_min_size, vae.tile_latent_min_size = side, side // factor

    def smaller(self, width: int, height: int) -> bool:
        """Go on in smaller tiles at this size, because there was no room; False where there are none smaller."""
        if not hasattr(self._vae, "enable_tiling"):
            return False
        now = self.side(width, height) or max(width, height)
        side = next((side for side in TILE_SIDES if side < now), None)
        if side is None:
            return False
        log.warning("no room to decode %d×%d at once; from now on in tiles of %d pixels", width, height, side)
        self._forced[width, height] = side
        return True


def pixel_bytes(vae: Any) -> float:
    """Tell what a VAE's decoder takes at its peak, in bytes a pixel of the picture."""
    import torch

    config = vae.config
    channels = (getattr(config, "block_out_channels", None) or [getattr(config, "base_dim", None) or _CHANNELS])[0]
    # As its pipeline does: SDXL's VAE overflows in fp16.
    upcast = vae.dtype == torch.float16 and bool(getattr(config, "force_upcast", False))
    width = 4 if upcast else torch.finfo(vae.dtype).bits // 8
    return FLOATS_A_PIXEL * channels / _CHANNELS * width
