"""Colour names and connected regions of a picture, in numpy alone: what the detector measures before it classifies."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tools.pocket.spec import COLOURS

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

NAMES = tuple(COLOURS)
# Of the named colours the nearest two, red and orange, lie 34 apart in Lab; half of the way is the edge between them.
EDGE = 15.0
# Parts of the picture's area: less is a speck, not a thing.
SPECK = 0.006
# How far, in pixels, a rim reaches from its thing.
RIM = 4

_SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
    np.float32,
)
_D65 = np.array([0.95047, 1.0, 1.08883], np.float32)


def lab(rgb: npt.ArrayLike) -> Array:
    """Convert sRGB, 0 to 255 in the last axis, to CIE Lab under D65."""
    values = np.asarray(rgb, np.float32) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)
    xyz = linear @ _SRGB_TO_XYZ.T / _D65
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=-1).astype(np.float32)


PALETTE = lab(list(COLOURS.values()))


def distance(pixels: Array, colour: Array) -> Array:
    """The Euclidean distance in Lab (CIE 1976 ΔE) of every pixel to one colour."""
    return np.linalg.norm(pixels - colour, axis=-1)


def nearest(pixels: Array) -> npt.NDArray[np.intp]:
    """The index in NAMES of the named colour nearest to each pixel. `pixels`: (..., 3) in Lab."""
    return np.argmin(np.linalg.norm(pixels[..., None, :] - PALETTE, axis=-1), axis=-1)


def colour_name(colour: Array) -> str:
    """The name of one colour in Lab."""
    return NAMES[int(nearest(colour))]


def _shifted(mask: Mask, outside: bool) -> list[Mask]:
    padded = np.pad(mask, 1, constant_values=outside)
    return [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]


def eroded(mask: Mask) -> Mask:
    """The mask less its outermost pixels (four neighbours); the picture's edge does not wear it away."""
    return np.logical_and.reduce([mask, *_shifted(mask, True)])


def dilated(mask: Mask) -> Mask:
    """The mask with one more pixel all round (four neighbours)."""
    return np.logical_or.reduce([mask, *_shifted(mask, False)])


def components(mask: Mask) -> list[Mask]:
    """The connected parts of a mask (four neighbours), the largest first: runs of each row joined with those above."""
    parent: list[int] = []
    runs: list[tuple[int, int, int]] = []

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    above: list[int] = []
    for y, row in enumerate(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)):
        change = np.diff(row)
        here: list[int] = []
        for start, stop in zip(
            np.flatnonzero(change == 1).tolist(), np.flatnonzero(change == -1).tolist(), strict=True
        ):
            run = len(runs)
            runs.append((y, start, stop))
            parent.append(run)
            for other in above:
                if runs[other][1] < stop and start < runs[other][2]:
                    parent[root(other)] = root(run)
            here.append(run)
        above = here
    parts: dict[int, Mask] = {}
    for run, (y, start, stop) in enumerate(runs):
        parts.setdefault(root(run), np.zeros_like(mask))[y, start:stop] = True
    return sorted(parts.values(), key=lambda part: -int(part.sum()))


@dataclass(frozen=True, slots=True)
class Region:
    """One coloured thing: its mask, and its colour in Lab and by name."""

    mask: Mask
    lab: Array
    colour: str

    @property
    def area(self) -> float:
        """Its part of the picture."""
        return float(self.mask.mean())

    @property
    def centre(self) -> tuple[float, float]:
        """Its centre of mass (x, y), each 0 to 1."""
        ys, xs = np.nonzero(self.mask)
        return float(xs.mean() + 0.5) / self.mask.shape[1], float(ys.mean() + 0.5) / self.mask.shape[0]


def background(pixels: Array) -> Array:
    """The colour in Lab that the picture's frame has most. `pixels`: (height, width, 3) in Lab."""
    height, width, _ = pixels.shape
    band = max(2, min(height, width) // 16)
    inner = np.zeros((height, width), bool)
    inner[band:-band, band:-band] = True
    frame = pixels[~inner]
    names = nearest(frame)
    return np.median(frame[names == np.bincount(names).argmax()], axis=0).astype(np.float32)


def cover(pixels: Array, thing: Array, ground: Array) -> Array:
    """How far each pixel is on the way from the ground's colour to the thing's, 0 to 1."""
    way = thing - ground
    return np.clip(((pixels - ground) @ way) / max(float(way @ way), 1e-6), 0, 1).astype(np.float32)


def _main_colours(pixels: Array, standing: Mask, ground: Array) -> list[Array]:
    """The colours that cover thick parts of what stands out.

    The mixed pixels of an edge are too thin to count, and a blotch of the ground's own name is the ground, badly painted.
    """
    core = eroded(eroded(standing))
    names = np.where(core if core.any() else standing, nearest(pixels), -1)
    thick = (eroded(names == name) for name in range(len(NAMES)) if name != nearest(ground))
    return [np.median(pixels[part], axis=0).astype(np.float32) for part in thick if part.mean() > SPECK / 3]


def _without_rims(found: list[Region]) -> list[Region]:
    """Give each blurred rim, which takes a colour between thing and ground for its own, back to the thing it lies along."""
    kept: list[Region] = []
    for region in found:
        for index, larger in enumerate(kept):
            near = larger.mask
            for _ in range(RIM):
                near = dilated(near)
            if (near & region.mask).sum() > 0.6 * region.mask.sum():
                kept[index] = replace(larger, mask=larger.mask | region.mask)
                break
        else:
            kept.append(region)
    return kept


def regions(pixels: Array, ground: Array) -> list[Region]:
    """Find the coloured things before a ground, the largest first; two colours that touch are two things."""
    standing = distance(pixels, ground) > EDGE
    colours = _main_colours(pixels, standing, ground)
    if not colours:
        return []
    owner = np.argmin(np.stack([distance(pixels, colour) for colour in [ground, *colours]]), axis=0)
    found: list[Region] = []
    for index in range(1, len(colours) + 1):
        for part in components((owner == index) & standing):
            inside = eroded(eroded(part))
            if part.mean() < SPECK or not inside.any():
                continue
            own = np.median(pixels[inside], axis=0).astype(np.float32)
            found.append(Region(part, own, colour_name(own)))
    return _without_rims(sorted(found, key=lambda region: -region.area))
