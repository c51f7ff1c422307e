"""Control pictures for the ControlNets, in numpy and PIL alone: clean edges as Canny's are, and scribbles as of a hand."""

import random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from tools.pocket.regions import Array, Mask, components, dilated

# Slopes of brightness or colour, 0 to 255 a pixel: an edge starts at STRONG and goes on while it is WEAK.
STRONG, WEAK = 20.0, 9.0


def _slopes(image: Image.Image, blur: float) -> tuple[Array, Array]:
    """The slope across and down of the channel that changes most, (height, width) each."""
    field = np.asarray(image.convert("RGB").filter(ImageFilter.GaussianBlur(blur)), np.float32)
    padded = np.pad(field, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across, down = (rows[:, 2:] - rows[:, :-2]) / 8, (columns[2:] - columns[:-2]) / 8
    steepest = np.argmax(across**2 + down**2, axis=-1)[..., None]
    steep = [np.take_along_axis(slope, steepest, -1)[..., 0].astype(np.float32) for slope in (across, down)]
    return steep[0], steep[1]


def _neighbours(strength: Array, angle: Array) -> tuple[Array, Array]:
    """The strengths on both sides of every pixel, along its slope rounded to one of four directions."""
    padded = np.pad(strength, 1)
    sector = np.round(angle / (np.pi / 4)).astype(int) % 4
    height, width = strength.shape
    ahead, behind = np.zeros_like(strength), np.zeros_like(strength)
    for index, (x, y) in enumerate(((1, 0), (1, 1), (0, 1), (-1, 1))):
        here = sector == index
        ahead[here] = padded[1 + y : 1 + y + height, 1 + x : 1 + x + width][here]
        behind[here] = padded[1 - y : 1 - y + height, 1 - x : 1 - x + width][here]
    return ahead, behind


def edge_mask(image: Image.Image, *, blur: float = 0.8, strong: float = STRONG, weak: float = WEAK) -> Mask:
    """Find edges one pixel wide, in the way of Canny: slopes, only the steepest across an edge, weak ones if they join strong."""
    across, down = _slopes(image, blur)
    strength = np.hypot(across, down)
    ahead, behind = _neighbours(strength, np.arctan2(down, across))
    thin = (strength >= ahead) & (strength > behind) & (strength > weak)
    kept = thin & (strength > strong)
    while True:
        square = dilated(kept)
        grown = thin & (square | np.roll(square, 1, 0) | np.roll(square, -1, 0))
        if (grown == kept).all():
            return kept
        kept = grown


def _white_on_black(mask: Mask) -> Image.Image:
    return Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).convert("RGB")


def edges(image: Image.Image) -> Image.Image:
    """Draw the edges of a picture, white on black and one pixel wide; RGB of the same size."""
    return _white_on_black(edge_mask(image))


def _drift(size: tuple[int, int], reach: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A smooth field of displacements of about `reach` pixels."""
    grain = rng.standard_normal((5, 5)).astype(np.float32) * reach
    return np.asarray(Image.fromarray(grain).resize(size, Image.Resampling.BICUBIC), np.float32)


def outline_mask(image: Image.Image) -> Mask:
    """Find the main outlines of a picture: edges of what is large and plain, without what is short."""
    unit = min(image.size) / 128
    found = edge_mask(image, blur=2.2 * unit, strong=9.0 / unit, weak=4.0 / unit)
    main = np.zeros_like(found)
    for part in components(dilated(found)):
        if part.sum() > 40 * unit:
            main |= part & found
    return main


def scribble(image: Image.Image, seed: int) -> Image.Image:
    """Draw the main outlines of a picture as an unsteady hand would: few, thick, displaced and broken lines, white on black.

    The same picture and seed give the same scribble; RGB of the same size.
    """
    rng = np.random.default_rng(seed)
    unit = min(image.size) / 128
    main = outline_mask(image)
    height, width = main.shape
    down, across = np.mgrid[0:height, 0:width]
    reach = random.Random(seed).uniform(0.6, 2.0) * unit
    down = np.clip(np.round(down + _drift(image.size, reach, rng)), 0, height - 1).astype(int)
    across = np.clip(np.round(across + _drift(image.size, reach, rng)), 0, width - 1).astype(int)
    # A hand leaves gaps: lines are dropped where a smooth field of chance is low.
    gaps = np.asarray(
        Image.fromarray(rng.random((9, 9)).astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC), np.float32
    )
    hand = dilated(main)[down, across] & (gaps > rng.uniform(0.05, 0.22))
    lines = Image.fromarray(hand.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(0.9 * unit))
    return _white_on_black(np.asarray(lines) > 90)


def agreement(found: Mask, wanted: Mask, tolerance_px: int = 3) -> tuple[float, float, float]:
    """Compare lines (height, width) with those wanted, where `tolerance_px` aside is near enough.

    Returns precision, recall and their F1, 0 to 1; nothing found where something is wanted is 0 in all.
    """
    if not found.any() or not wanted.any():
        return 0.0, 0.0, 0.0
    near_found, near_wanted = found, wanted
    for _ in range(tolerance_px):
        near_found, near_wanted = dilated(near_found), dilated(near_wanted)
    precision, recall = float(near_wanted[found].mean()), float(near_found[wanted].mean())
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)
