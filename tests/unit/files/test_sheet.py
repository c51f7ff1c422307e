"""The labelled sheet, measured on its pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bot.files.decode_worker import MAX_PIXELS
from bot.files.sheet import PAPER, Layout, draw_sheet, lay_out
from bot.generation import Axis, GenerationRequest, RawPicture, Variant
from bot.prompts.grids import MAX_CELLS, MAX_GRID_PIXELS
from tests.unit.store.support import request


def asked(x: Axis, y: Axis | None = None, side: tuple[int, int] = (96, 64)) -> GenerationRequest:
    count = len(x.values) * (len(y.values) if y else 1)
    axes = (x,) if y is None else (x, y)
    variants = tuple(Variant(seed=1) for _ in range(count))
    return request(width=side[0], height=side[1], count=count, variants=variants, axes=axes)


def filled(of: GenerationRequest) -> list[RawPicture]:
    size = of.width * of.height
    return [RawPicture(n, 1, of.width, of.height, bytes((200, n * 10, 50)) * size) for n in range(of.count)]


def drawn(of: GenerationRequest) -> tuple[Layout, np.ndarray]:
    sheet = draw_sheet(of, filled(of))
    return lay_out(of), np.frombuffer(sheet.pixels, np.uint8).reshape(sheet.height, sheet.width, 3)


STEPS, GUIDANCE = Axis("steps", ("10", "20", "30")), Axis("guidance", ("3", "7.5"))


def test_sheet_has_every_picture_in_its_place_and_size() -> None:
    layout, pixels = drawn(asked(STEPS, GUIDANCE))
    assert pixels.shape[:2] == layout.size[::-1]
    for n in range(6):
        left, top = layout.place(n)
        cell = pixels[top : top + 64, left : left + 96]
        assert (cell == (200, n * 10, 50)).all()
        assert (pixels[top : top + 64, left + 96] == PAPER).all()
    assert layout.place(4)[0] == layout.place(1)[0]
    assert layout.place(4)[1] > layout.place(1)[1]


def ink(part: np.ndarray) -> tuple[int, int, int, int]:
    """First and last column and row with ink."""
    dark = (part < 128).all(axis=2)
    columns, rows = np.flatnonzero(dark.any(axis=0)), np.flatnonzero(dark.any(axis=1))
    return columns[0], columns[-1], rows[0], rows[-1]


@pytest.mark.parametrize("side", [(64, 64), (96, 64), (512, 512), (1024, 768)], ids=str)
def test_sheet_labels_are_whole_and_beside_their_pictures(side: tuple[int, int]) -> None:
    layout, pixels = drawn(asked(STEPS, GUIDANCE, side))
    for column in range(3):
        left = layout.place(column)[0]
        first, last, top, bottom = ink(pixels[: layout.top, left - layout.gap : left + side[0] + layout.gap])
        assert first > 0
        assert last < side[0] + 2 * layout.gap - 1
        assert abs((first + last) / 2 - (side[0] + 2 * layout.gap) / 2) <= 2
        assert top > 0
        assert bottom < layout.top - 1
    for row in range(2):
        top = layout.place(3 * row)[1]
        first, last, _, _ = ink(pixels[top : top + side[1], : layout.left])
        assert 0 < first < last < layout.left - 1


def test_sheet_letters_are_legible_at_discords_width() -> None:
    layout = lay_out(asked(STEPS, GUIDANCE, (1024, 1024)))
    assert layout.text_px * 550 / max(layout.size) >= 12


def test_sheet_long_label_is_wrapped_within_its_column() -> None:
    layout, pixels = drawn(asked(Axis("sampler", ("DPM++ 2M SDE Karras", "Euler a")), side=(64, 64)))
    assert layout.top > 2 * layout.text_px
    assert layout.left == layout.gap
    first, last, _, _ = ink(pixels[: layout.top, : layout.place(1)[0] - layout.gap])
    assert last - first <= 64


def test_sheet_of_the_largest_grid_is_one_that_the_bot_itself_opens() -> None:
    side = int((MAX_GRID_PIXELS / MAX_CELLS) ** 0.5) // 8 * 8
    values = tuple(map(str, range(1, 6)))
    width, height = lay_out(asked(Axis("steps", values), Axis("guidance", values), (side, side))).size
    assert width * height <= MAX_PIXELS


def test_sheet_same_pictures_give_the_same_bytes() -> None:
    of = asked(STEPS)
    assert draw_sheet(of, filled(of)) == draw_sheet(of, filled(of))
    assert Image.frombytes("RGB", lay_out(of).size, draw_sheet(of, filled(of)).pixels).getpixel((0, 0)) == PAPER
