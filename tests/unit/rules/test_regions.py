"""Grids over pictures: nearly square parts, cut where latents are; their names, and regions of them."""

from __future__ import annotations

import pytest

from bot.prompts.regions import FEWEST, MOST, REGIONS, Squares, grid_over, spelled, squares_of

SIZES = [(128, 128), (160, 104), (104, 160), (912, 512), (768, 1344), (512, 384), (2048, 64), (64, 64), (1000, 496)]


@pytest.mark.parametrize(
    ("size", "grid"),
    [((512, 512), (4, 4)), ((768, 512), (6, 4)), ((160, 104), (6, 4)), ((384, 512), (3, 4)), ((912, 512), (5, 3))],
    ids=str,
)
def test_grid_over_a_picture_fits_its_shape(size: tuple[int, int], grid: tuple[int, int]) -> None:
    found = grid_over(*size)
    assert (found.columns, found.rows) == grid


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_grid_squares_cover_the_picture_once_and_end_where_latents_do(size: tuple[int, int]) -> None:
    grid = grid_over(*size)
    assert FEWEST <= grid.count <= MOST
    boxes = [grid.box(square) for square in range(grid.count)]
    assert sum((right - left) * (lower - upper) for left, upper, right, lower in boxes) == size[0] * size[1]
    assert all(edge % 8 == 0 for box in boxes for edge in box)
    assert min(right - left for left, _, right, _ in boxes) >= 8
    assert boxes[0][:2] == (0, 0)
    assert boxes[-1][2:] == size


def test_grid_names_are_column_and_row() -> None:
    grid = grid_over(160, 104)
    assert [grid.name(square) for square in (0, 5, 6, 23)] == ["A1", "F1", "A2", "F4"]
    assert grid.box(6) == (0, 24, 24, 48)


def test_regions_of_a_grid_are_the_squares_that_their_names_say() -> None:
    grid = grid_over(512, 512)
    regions = grid.regions()
    assert list(regions) == list(REGIONS)
    assert {grid.name(square) for square in regions["Centre"]} == {"B2", "C2", "B3", "C3"}
    assert {grid.name(square)[0] for square in regions["Left half"]} == {"A", "B"}
    assert regions["All but the centre"] == Squares(range(16)) - regions["Centre"]
    assert regions["Top row"] == Squares(range(4))


def test_regions_that_would_be_all_or_nothing_are_left_out() -> None:
    regions = grid_over(2048, 64).regions()
    assert set(regions) == {"Left half", "Right half", "Left column", "Right column"}


@pytest.mark.parametrize("squares", [(), (0,), (3, 24), tuple(range(25))], ids=str)
def test_squares_are_read_as_they_were_spelled(squares: tuple[int, ...]) -> None:
    assert squares_of(spelled(squares)) == Squares(squares)
    assert len(spelled(squares)) <= 7
