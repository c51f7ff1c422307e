"""A finished picture under the grid that its parts are chosen by, and the mask of what was chosen. Pool threads."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from PIL import Image, ImageDraw

from bot.files.sheet import font
from bot.generation import RawPicture
from bot.prompts.regions import Grid

SHOWN_PX = 1024
"""The long side of what is shown: large enough to read the names on, whatever the picture's own size."""
LIGHT, DARK, CHOSEN = (255, 255, 255), (0, 0, 0), (88, 101, 242)
_CHOSEN_SHARE = 0.45
_FRAME_PX = 6
_LETTERS_A_SQUARE = 6
"""A square's shorter side in heights of its letters."""


def under_grid(path: Path, grid: Grid, squares: Collection[int]) -> RawPicture:
    """Draw a finished picture, a PNG of ours, under its grid, with the chosen squares tinted and framed. Raises OSError."""
    with Image.open(path, formats=("PNG",)) as image:
        picture = image.convert("RGB")
    scale = SHOWN_PX / max(picture.size)
    resampling = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    shown = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), resampling)
    boxes = [[round(edge * scale) for edge in grid.box(square)] for square in range(grid.count)]
    for square in squares:
        left, upper, right, lower = boxes[square]
        part = shown.crop((left, upper, right, lower))
        shown.paste(Image.blend(part, Image.new("RGB", part.size, CHOSEN), _CHOSEN_SHARE), (left, upper))
    draw = ImageDraw.Draw(shown)
    # Light between dark: one of them is seen on any picture.
    for colour, reach in ((DARK, 3), (LIGHT, 1)):
        for left, upper, right, lower in boxes:
            draw.rectangle((left - reach, upper - reach, right + reach - 1, lower + reach - 1), None, colour, 2 * reach)
    for left, upper, right, lower in (boxes[square] for square in squares):
        # A tint alone is lost on a picture of its colour.
        draw.rectangle((left + 3, upper + 3, right - 4, lower - 4), None, LIGHT, _FRAME_PX)
    for square, (left, upper, right, lower) in enumerate(boxes):
        text_px = max(14, min(right - left, lower - upper) // _LETTERS_A_SQUARE)
        place = (left + text_px / 3, upper + text_px / 4)
        draw.text(place, grid.name(square), LIGHT, font(text_px), stroke_width=max(2, text_px // 12), stroke_fill=DARK)
    return RawPicture(0, 0, shown.width, shown.height, shown.tobytes())


def mask_of(grid: Grid, squares: Collection[int]) -> RawPicture:
    """Draw the mask that is white where something is to be redrawn, of the picture's size."""
    mask = Image.new("RGB", (grid.width, grid.height), DARK)
    for square in squares:
        mask.paste(LIGHT, grid.box(square))
    return RawPicture(0, 0, mask.width, mask.height, mask.tobytes())
