"""From a picture to the map that a control network follows. Pool threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image, ImageOps

from bot.catalogue.annotators import MAP_MAKERS
from bot.catalogue.controls import READY_MADE
from bot.errors import RequestError

WEAK, STRONG = 100, 200
"""Canny's two thresholds, as the networks' own demonstrations have them."""


def control_map(picture: Image.Image, control_type: str) -> Image.Image:
    """Make the map of a kind from a picture (RGB), of the same size; "raw …" is one already.

    What takes an annotator to make stays the picture: the engine makes the map when it draws (`bot/engine/looking/seen_maps.py`). Raises RequestError
    for what is no control type.
    """
    if control_type.startswith(READY_MADE) or control_type in MAP_MAKERS:
        return picture
    maker = _MAKERS.get(control_type)
    if maker is None:
        raise RequestError("There is no such control type any more; choose another one.")
    return maker(picture)


def canny(picture: Image.Image) -> Image.Image:
    """Give the edges of a picture, white on black (J. Canny, 1986)."""
    import cv2
    import numpy as np

    library: Any = cv2
    return Image.fromarray(library.Canny(np.asarray(picture.convert("RGB")), WEAK, STRONG)).convert("RGB")


def scribble(picture: Image.Image) -> Image.Image:
    """Give a drawing of lines as white lines on black, whichever of the two is the paper."""
    grey = picture.convert("L")
    if sum(grey.resize((16, 16)).tobytes()) / 256 > 127:
        grey = ImageOps.invert(grey)
    return grey.point([255 * (value > 127) for value in range(256)]).convert("RGB")


def tile(picture: Image.Image) -> Image.Image:
    """Give the picture itself, whose details the network makes anew."""
    return picture


_MAKERS: dict[str, Callable[[Image.Image], Image.Image]] = {"canny": canny, "scribble": scribble, "tile": tile}
