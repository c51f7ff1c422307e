"""One labelled sheet of pictures that compare. Pool threads.

Cells keep their real size. Letters are as large as the sheet asks for, since Discord shows a large one small.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from bot.generation import GenerationRequest, RawPicture

PAPER, INK = (255, 255, 255), (30, 31, 34)
LETTERS_A_SIDE = 36
"""A sheet's long side in heights of its letters: shown 550 px wide, they are 15 px high."""
SMALLEST_PX, LARGEST_PX = 10, 160


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies, in pixels: the labels' height and where the cells begin; `text_px` is the letters' size."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cell: tuple[int, int]
    text_px: int
    gap: int
    left: int
    top: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole."""
        width, height = self.cell
        columns, rows = len(self.columns), max(1, len(self.rows))
        return self.left + columns * (width + self.gap), self.top + rows * (height + self.gap)

    def place(self, n: int) -> tuple[int, int]:
        """The upper left corner of picture n."""
        row, column = divmod(n, len(self.columns))
        return self.left + column * (self.cell[0] + self.gap), self.top + row * (self.cell[1] + self.gap)


def lay_out(request: GenerationRequest) -> Layout:
    """Plan a request's sheet: the first axis along the top, the second, where there is one, down the left side."""
    columns, *more = ([f"{axis.name} {value}" for value in axis.values] for axis in request.axes)
    rows = more[0] if more else []
    width, height = request.width, request.height
    long_side = max(width * len(columns), height * max(1, len(rows)))
    text_px = min(LARGEST_PX, max(SMALLEST_PX + 2, long_side // LETTERS_A_SIDE))
    gap = max(2, text_px // 4)
    while text_px > SMALLEST_PX and not _fits(columns, rows, request, text_px, gap):
        text_px -= 1
    left = gap + max((_size(label, width, text_px)[0] for label in rows), default=-gap) + gap
    top = gap + max(_size(label, width, text_px)[1] for label in columns) + gap
    return Layout(tuple(columns), tuple(rows), (width, height), text_px, gap, left, top)


def draw_sheet(request: GenerationRequest, pictures: Sequence[RawPicture]) -> RawPicture:
    """Draw the sheet of a request's pictures, with its labels."""
    layout = lay_out(request)
    sheet = Image.new("RGB", layout.size, PAPER)
    for picture in pictures:
        image = Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)
        sheet.paste(image, layout.place(picture.n))
    draw = ImageDraw.Draw(sheet)
    width, height = layout.cell

    def write(label: str, middle: tuple[float, float]) -> None:
        lines = "\n".join(_wrapped(label, width, layout.text_px))
        draw.multiline_text(middle, lines, fill=INK, font=font(layout.text_px), anchor="mm", align="center")

    for column, label in enumerate(layout.columns):
        write(label, (layout.place(column)[0] + width / 2, layout.top / 2))
    for row, label in enumerate(layout.rows):
        write(label, (layout.left / 2, layout.place(row * len(layout.columns))[1] + height / 2))
    return RawPicture(0, request.seed, sheet.width, sheet.height, sheet.tobytes())


def _fits(columns: Sequence[str], rows: Sequence[str], request: GenerationRequest, text_px: int, gap: int) -> bool:
    wide = max(_size(label, request.width, text_px)[0] for label in [*columns, *rows])
    high = max((_size(label, request.width, text_px)[1] for label in rows), default=0)
    return wide <= request.width - gap and high <= request.height


def _size(label: str, width: int, text_px: int) -> tuple[int, int]:
    """How large a label is, wrapped to a cell's width."""
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    box = draw.multiline_textbbox((0, 0), "\n".join(_wrapped(label, width, text_px)), font=font(text_px))
    return round(box[2] - box[0] + 0.5), round(box[3] - box[1] + 0.5)


def _wrapped(label: str, width: int, text_px: int) -> list[str]:
    letters = font(text_px)
    lines: list[str] = []
    for word in label.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and letters.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@functools.lru_cache(maxsize=16)
def font(text_px: int) -> ImageFont.FreeTypeFont:
    """Give Pillow's own letters in a size, in pixels."""
    letters = ImageFont.load_default(text_px)
    assert isinstance(letters, ImageFont.FreeTypeFont)  # Pillow's wheels have FreeType
    return letters
