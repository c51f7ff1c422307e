"""Small pictures side by side: what a long request shows while it is drawn. Pool threads."""

from __future__ import annotations

import math
from collections.abc import Mapping

from PIL import Image

from bot.generation import RawPicture

SIDE_PX = 128
SHEET_PX = 1024
_PAPER = (43, 45, 49)


def thumbnail(picture: RawPicture, side_px: int = SIDE_PX) -> RawPicture:
    """Make a picture small: at most `side_px` on its long side; what is small already stays as it is."""
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)
    image.thumbnail((side_px, side_px), Image.Resampling.BOX)
    return RawPicture(picture.n, picture.seed, image.width, image.height, image.tobytes())


def contact_sheet(thumbnails: Mapping[int, RawPicture | None], count: int, columns: int | None = None) -> RawPicture:
    """Lay thumbnails out by their number, row by row; the place of one that is missing, or None, stays empty.

    `columns` None makes it about square. At least one is a picture.
    """
    first = next(one for one in thumbnails.values() if one is not None)
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = Image.new("RGB", (columns * first.width, rows * first.height), _PAPER)
    for n, one in thumbnails.items():
        if one is not None:
            place = (n % columns * first.width, n // columns * first.height)
            sheet.paste(Image.frombytes("RGB", (one.width, one.height), one.pixels), place)
    sheet.thumbnail((SHEET_PX, SHEET_PX), Image.Resampling.BOX)
    return RawPicture(0, 0, sheet.width, sheet.height, sheet.tobytes())
