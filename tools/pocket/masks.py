"""Masks for inpainting: what a member might mark to be drawn anew, chosen by chance."""

import random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from tools.pocket.detector import ground_and_regions
from tools.pocket.regions import Mask
from tools.pocket.spec import Arrangement, Picture

Bytes = npt.NDArray[np.uint8]
WHOLE_PICTURE = -1


def thing_boxes(what: Arrangement, image: Image.Image) -> list[tuple[int, tuple[float, float, float, float]]]:
    """Find the things of a plain arrangement in its drawing.

    Returns (index in `what.items`, box of left, top, right, bottom in parts of the picture) for each that is surely known.
    """
    colours = [item.colour for item in what.items]
    if what.count > 1 or len(set(colours)) < len(colours):
        return []
    found = [region for region in ground_and_regions(image)[2] if region.colour in colours]
    boxes: list[tuple[int, tuple[float, float, float, float]]] = []
    for index, colour in enumerate(colours):
        union = [region.mask for region in found if region.colour == colour]
        if union:
            ys, xs = np.nonzero(np.logical_or.reduce(union))
            height, width = union[0].shape
            boxes.append(
                (index, (xs.min() / width, ys.min() / height, (xs.max() + 1) / width, (ys.max() + 1) / height))
            )
    return boxes


def box_mask(size: tuple[int, int], box: tuple[float, float, float, float], *, rounded: bool = False) -> Mask:
    """Mark a box, or the ellipse in it. Arguments: (width, height) in pixels; the box in parts of the picture."""
    width, height = size
    image = Image.new("1", size)
    corners = (box[0] * width, box[1] * height, box[2] * width - 1, box[3] * height - 1)
    draw = ImageDraw.Draw(image)
    (draw.ellipse if rounded else draw.rectangle)(corners, 1)
    return np.asarray(image, bool)


def _strokes(size: tuple[int, int], rng: random.Random) -> Mask:
    """Mark what a brush would, in one to three strokes."""
    width, height = size
    image = Image.new("1", size)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(1, 3)):
        thick = rng.uniform(0.09, 0.24) * min(size)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        for _ in range(rng.randint(1, 5)):
            on_x = min(width, max(0.0, x + rng.gauss(0, 0.25) * width))
            on_y = min(height, max(0.0, y + rng.gauss(0, 0.25) * height))
            draw.line([(x, y), (on_x, on_y)], 1, round(thick))
            for end_x, end_y in ((x, y), (on_x, on_y)):
                draw.ellipse((end_x - thick / 2, end_y - thick / 2, end_x + thick / 2, end_y + thick / 2), 1)
            x, y = on_x, on_y
    return np.asarray(image, bool)


def _box(rng: random.Random, least: float, most: float) -> tuple[float, float, float, float]:
    wide, tall = rng.uniform(least, most), rng.uniform(least, most)
    left, top = rng.uniform(0, 1 - wide), rng.uniform(0, 1 - tall)
    return left, top, left + wide, top + tall


def _half(rng: random.Random) -> tuple[float, float, float, float]:
    share = rng.uniform(0.3, 0.7)
    return rng.choice(((0, 0, share, 1), (share, 0, 1, 1), (0, 0, 1, share), (0, share, 1, 1)))


def _around(box: tuple[float, float, float, float], rng: random.Random) -> tuple[float, float, float, float]:
    grown = [rng.uniform(0.02, 0.14) for _ in range(4)]
    return (
        max(0.0, box[0] - grown[0]),
        max(0.0, box[1] - grown[1]),
        min(1.0, box[2] + grown[2]),
        min(1.0, box[3] + grown[3]),
    )


def choose_mask(picture: Picture, image: Image.Image, rng: random.Random) -> tuple[Mask, int]:
    """Choose what to mark of a drawing: a box, an ellipse, strokes, a half, everything, or one thing with its surroundings.

    Returns the mask (height, width), and the index of the marked thing or WHOLE_PICTURE: what the words should tell.
    """
    if isinstance(picture.what, Arrangement) and not picture.style and rng.random() < 0.5:
        boxes = thing_boxes(picture.what, image)
        if boxes:
            index, box = rng.choice(boxes)
            return box_mask(image.size, _around(box, rng), rounded=False), index
    form = rng.choices(("box", "ellipse", "strokes", "half", "everything"), (0.32, 0.1, 0.26, 0.2, 0.12))[0]
    if form == "strokes":
        return _strokes(image.size, rng), WHOLE_PICTURE
    if form == "everything":
        return np.ones((image.height, image.width), bool), WHOLE_PICTURE
    box = _half(rng) if form == "half" else _box(rng, 0.2, 0.8)
    return box_mask(image.size, box, rounded=form == "ellipse"), WHOLE_PICTURE
