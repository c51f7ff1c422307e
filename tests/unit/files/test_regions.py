"""A picture under its grid: readable on any picture, in any size; and the mask of what is chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bot.files.regions import SHOWN_PX, mask_of, under_grid
from bot.generation import RawPicture
from bot.prompts.regions import grid_over


def pixels(picture: RawPicture) -> np.ndarray:
    return np.frombuffer(picture.pixels, np.uint8).reshape(picture.height, picture.width, 3).astype(int)


def saved(folder: Path, size: tuple[int, int], colour: str) -> Path:
    path = folder / "picture.png"
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.mark.parametrize("size", [(128, 128), (160, 104), (2048, 1152)], ids=str)
def test_under_grid_shows_every_picture_in_one_size(tmp_path: Path, size: tuple[int, int]) -> None:
    shown = under_grid(saved(tmp_path, size, "gray"), grid_over(*size), ())
    assert max(shown.width, shown.height) == SHOWN_PX
    assert shown.width / shown.height == pytest.approx(size[0] / size[1], abs=0.01)


@pytest.mark.parametrize("colour", ["white", "black"])
def test_under_grid_names_and_lines_stand_out_from_light_and_dark(tmp_path: Path, colour: str) -> None:
    grid = grid_over(128, 128)
    values = pixels(under_grid(saved(tmp_path, (128, 128), colour), grid, ()))
    ground = values[200, 200, 0]
    named = values[4:60, 4:100]  # where A1 is written
    assert (abs(named - ground) > 200).any(-1).sum() > 100
    line = values[200, 250:262]
    assert (abs(line - ground) > 200).any()


def test_under_grid_tints_the_chosen_squares_alone(tmp_path: Path) -> None:
    grid = grid_over(128, 128)
    values = pixels(under_grid(saved(tmp_path, (128, 128), "white"), grid, {5}))
    tinted = (values[:, :, 2] - values[:, :, 0]) > 40
    assert tinted[340:500, 340:500].all()
    tinted[256:512, 256:512] = False
    assert not tinted.any()


def test_under_grid_frames_a_chosen_square_of_the_tints_own_colour(tmp_path: Path) -> None:
    path = saved(tmp_path, (128, 128), "#5865f2")
    plain, chosen = (pixels(under_grid(path, grid_over(128, 128), squares)) for squares in ((), {5}))
    changed = (abs(plain - chosen) > 60).any(-1)
    assert changed[400, 256:280].any()
    assert not changed[:250].any()


def test_mask_of_squares_is_white_on_them_alone() -> None:
    grid = grid_over(160, 104)
    mask = mask_of(grid, {0, 23})
    values = pixels(mask)
    assert (mask.width, mask.height) == (160, 104)
    white = np.zeros((104, 160), bool)
    for left, upper, right, lower in (grid.box(0), grid.box(23)):
        white[upper:lower, left:right] = True
    assert (values == np.where(white, 255, 0)[..., None]).all()
