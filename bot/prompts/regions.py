"""Parts of a picture that have names: a grid over it, its squares, and regions of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import product

from bot.catalogue.models import SIZE_MULTIPLE

FEWEST, MOST = 12, 25
"""How many squares a grid has; a select menu holds 25."""
_USUAL = 16

Squares = frozenset[int]
"""Squares of a grid by number, from 0, row by row."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid over a picture of `width` × `height` px."""

    width: int
    height: int
    columns: int
    rows: int

    @property
    def count(self) -> int:
        """How many squares it has."""
        return self.columns * self.rows

    def name(self, square: int) -> str:
        """Name a square by its column and row: A1 is the upper left one."""
        row, column = divmod(square, self.columns)
        return f"{chr(ord('A') + column)}{row + 1}"

    def box(self, square: int) -> tuple[int, int, int, int]:
        """Give a square's left, upper, right and lower edge, in pixels."""
        row, column = divmod(square, self.columns)
        across, down = _edges(self.width, self.columns), _edges(self.height, self.rows)
        return across[column], down[row], across[column + 1], down[row + 1]

    def regions(self) -> dict[str, Squares]:
        """Give the regions that are a part of it, by name: none that is all of it, or nothing."""
        last_column, last_row = self.columns - 1, self.rows - 1
        places = {square: divmod(square, self.columns) for square in range(self.count)}
        found = {
            name: Squares(square for square, (row, column) in places.items() if within(column, row, last_column, last_row))
            for name, within in REGIONS.items()
        }  # fmt: skip
        return {name: squares for name, squares in found.items() if 0 < len(squares) < self.count}


Within = Callable[[int, int, int, int], bool]
"""Whether a square is in a region, by its column and row and the last of each, all from 0."""

REGIONS: Mapping[str, Within] = {
    "Left half": lambda column, row, last_column, last_row: 2 * column <= last_column,
    "Right half": lambda column, row, last_column, last_row: 2 * column >= last_column,
    "Top half": lambda column, row, last_column, last_row: 2 * row <= last_row,
    "Bottom half": lambda column, row, last_column, last_row: 2 * row >= last_row,
    "Left column": lambda column, row, last_column, last_row: column == 0,
    "Right column": lambda column, row, last_column, last_row: column == last_column,
    "Top row": lambda column, row, last_column, last_row: row == 0,
    "Bottom row": lambda column, row, last_column, last_row: row == last_row,
    "Centre": lambda column, row, last_column, last_row: 0 < column < last_column and 0 < row < last_row,
    "All but the centre": lambda column, row, last_column, last_row: column in (0, last_column) or row in (0, last_row),
}
"""Ready-made regions. A middle column or row is in both halves."""


def grid_over(width: int, height: int) -> Grid:
    """Lay a grid of nearly square parts over a picture, FEWEST to MOST of them. Sizes are pixels."""

    def fit(columns: int, rows: int) -> tuple[float, int]:
        # Rounded, so that a picture of nearly 3:2 has the grid of one that is exactly so.
        return round(abs(math.log(width * rows / (height * columns))), 1), abs(columns * rows - _USUAL)

    sides = range(1, MOST + 1)
    choices = [(c, r) for c, r in product(sides, sides) if FEWEST <= c * r <= MOST]
    return Grid(width, height, *min(choices, key=lambda sides: fit(*sides)))


def spelled(squares: Collection[int]) -> str:
    """Write squares as custom ids carry them: bits in hexadecimal, 0 where there are none."""
    return f"{sum(1 << square for square in squares):x}"


def squares_of(text: str) -> Squares:
    """Read what `spelled` wrote. Raises ValueError."""
    bits = int(text, 16)
    return Squares(square for square in range(bits.bit_length()) if bits >> square & 1)


def _edges(length: int, parts: int) -> list[int]:
    """Cut a side where latents are cut, too: a denoiser redraws nothing smaller than SIZE_MULTIPLE px."""
    inner = [round(length * part / parts / SIZE_MULTIPLE) * SIZE_MULTIPLE for part in range(1, parts)]
    return [0, *inner, length]
