"""A picture put together from overlapping tiles that fade into each other. NumPy; any thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bot.generation import RawPicture
from bot.prompts.upscaling import Cuts, cuts

if TYPE_CHECKING:
    import numpy as np

_ONE = 65_280
"""A whole weight of a whole colour (255) in the sums, which have 16 bits: half the memory of floats, and exact to 1/256 of a step."""

_STRIP_PX = 256
BROAD, NEAR = 16, 32
"""Shares of a tile's side: what is wider than one in so many is no detail, and how far around a change is judged."""
CHANGE = 0.08
"""The mean change, on [0, 1], above which a neighbourhood shows something new; from half of it on less of it is taken."""


class Mosaic:
    """Takes the tiles of a grid in any order. Two neighbours fade into each other over the middle third of what they share.

    The outer third of a tile, where its network could not see beyond the edge, counts for nothing.
    """

    def __init__(self, columns: Cuts, rows: Cuts) -> None:
        """`columns` and `rows` are the cuts of the finished picture's axes."""
        import numpy as np

        self._columns, self._rows = columns, rows
        self.places = [(row, column) for row in range(len(rows.starts)) for column in range(len(columns.starts))]
        self._across, self._down = _weights(columns), _weights(rows)
        self._sum = np.zeros((_size(rows), _size(columns), 3), dtype=np.uint16)

    def box(self, n: int) -> tuple[int, int, int, int]:
        """Give tile `n`'s left, top, width and height."""
        row, column = self.places[n]
        return self._columns.starts[column], self._rows.starts[row], self._columns.length, self._rows.length

    def put(self, n: int, pixels: Any) -> None:
        """Add tile `n`: (height, width, 3) floats on [0, 1]."""
        import numpy as np

        left, top, width, height = self.box(n)
        row, column = self.places[n]
        weights = self._down[row][:, None, None] * self._across[column][None, :, None]
        part = np.asarray(pixels, dtype=np.float32).clip(0, 1) * weights
        self._sum[top : top + height, left : left + width] += (part * _ONE).round().astype(np.uint16)

    def pixels(self) -> np.ndarray[Any, Any]:
        """Give what all tiles made: (height, width, 3) bytes."""
        import numpy as np

        made = np.empty(self._sum.shape, dtype=np.uint8)
        for top in range(0, len(made), _STRIP_PX):  # a large picture's whole would take much memory in between
            part = self._sum[top : top + _STRIP_PX].astype(np.uint32)
            made[top : top + _STRIP_PX] = ((part * 255 + _ONE // 2) // _ONE).clip(0, 255)
        return made


class Tiles:
    """A picture cut into tiles that a model redraws, and what they make together."""

    def __init__(self, pixels: np.ndarray[Any, Any], tile: tuple[int, int], multiple: int, least: int) -> None:
        """`pixels` (height, width, 3) bytes. A `tile` is (width, height); sides are multiples of `multiple`, `least` px or more.

        A picture smaller than a tile is one, its edges repeated up to the next size that the model draws.
        """
        import numpy as np

        self._size = pixels.shape[1], pixels.shape[0]
        width, height = (_drawable(s, t, multiple, least) for s, t in zip(self._size, tile, strict=True))
        more = ((0, height - self._size[1]), (0, width - self._size[0]), (0, 0))
        self._pixels = np.pad(pixels, more, mode="edge")
        self._mosaic = Mosaic(cuts(width, tile[0], tile[0] // 4), cuts(height, tile[1], tile[1] // 4))

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._mosaic.places)

    @property
    def side(self) -> tuple[int, int]:
        """Width and height of each."""
        return self._mosaic.box(0)[2:]

    def before(self, n: int) -> RawPicture:
        """Give tile `n` as it was."""
        left, top, width, height = self._mosaic.box(n)
        part = self._pixels[top : top + height, left : left + width]
        return RawPicture(n, 0, width, height, part.tobytes())

    def put(self, n: int, pixels: Any) -> None:
        """Take the details of tile `n` redrawn: (height, width, 3) floats on [0, 1]."""
        import numpy as np

        left, top, width, height = self._mosaic.box(n)
        before = self._pixels[top : top + height, left : left + width].astype(np.float32) / 255
        self._mosaic.put(n, details_on(before, np.asarray(pixels, dtype=np.float32)))

    def picture(self, seed: int) -> RawPicture:
        """Give what they make, once all are there."""
        width, height = self._size
        return RawPicture(0, seed, width, height, self._mosaic.pixels()[:height, :width].tobytes())


def details_on(before: np.ndarray[Any, Any], redrawn: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Lay the details of what was redrawn on what was there before, (height, width, 3) floats on [0, 1] both.

    A model that is given a part of a picture and the words for all of it draws the whole again in each part, at low strengths too
    (seen: a lighthouse in every tile). So broad colours stay as they were, and where a neighbourhood changes by more than CHANGE on average that
    is something new, of which nothing is taken.
    """
    import numpy as np

    change = redrawn - before
    reach, near = (max(1, min(before.shape[:2]) // share) for share in (BROAD, NEAR))
    broad = _blurred(change, reach)
    # As far as the average of what is new reaches, its outline would show.
    amount = _widened(_blurred(np.abs(change).mean(-1, keepdims=True), near), reach + near)
    return before + (change - broad) * (2 - amount * 2 / CHANGE).clip(0, 1)


def _blurred(image: np.ndarray[Any, Any], reach: int) -> np.ndarray[Any, Any]:
    """Average over (2 reach + 1)² px, less at the edges."""
    import torch

    planes = torch.as_tensor(image).permute(2, 0, 1)[None]
    mean = torch.nn.functional.avg_pool2d(planes, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)
    return mean[0].permute(1, 2, 0).numpy()


def _widened(image: np.ndarray[Any, Any], reach: int) -> np.ndarray[Any, Any]:
    """Take the largest over (2 reach + 1)² px."""
    import torch

    planes = torch.as_tensor(image).permute(2, 0, 1)[None]
    largest = torch.nn.functional.max_pool2d(planes, 2 * reach + 1, stride=1, padding=reach)
    return largest[0].permute(1, 2, 0).numpy()


def _drawable(side: int, tile: int, multiple: int, least: int) -> int:
    return side if side >= tile else min(tile, -(-max(side, least) // multiple) * multiple)


def _size(axis: Cuts) -> int:
    return axis.starts[-1] + axis.length


def _weights(axis: Cuts) -> list[np.ndarray[Any, Any]]:
    """How much each tile of an axis counts at each of its pixels; where tiles overlap these sum to one."""
    import numpy as np

    found = [np.ones(axis.length, dtype=np.float32) for _ in axis.starts]
    ends = [start + axis.length for start in axis.starts]
    for one, (end, following) in enumerate(zip(ends, axis.starts[1:], strict=False)):
        shared = end - following
        third = shared // 3
        ramp = np.zeros(shared, dtype=np.float32)
        ramp[shared - third :] = 1
        middle = shared - 2 * third
        ramp[third : shared - third] = (np.arange(middle, dtype=np.float32) + 0.5) / middle
        found[one][axis.length - shared :] *= 1 - ramp
        found[one + 1][:shared] *= ramp
    total = np.zeros(_size(axis), dtype=np.float32)
    for start, weights in zip(axis.starts, found, strict=True):
        total[start : start + axis.length] += weights
    return [w / total[start : start + axis.length] for start, w in zip(axis.starts, found, strict=True)]
