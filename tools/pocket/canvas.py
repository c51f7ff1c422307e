"""A canvas that draws the same outlines in several styles: plain, flat, watercolour, pixel art, line art, neon.

Coordinates are in picture heights: x from 0 to `canvas.aspect`, y from 0 (top) to 1. Painting is supersampled and reduced.
"""

import colorsys
import math
import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]
Floats = NDArray[np.float32]

BLACK: Colour = (0, 0, 0)
LINE_WIDTH = 0.014


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Blend two colours; `share` is how much of the other there is, 0 to 1."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def shiver(colour: Colour, rng: random.Random, amount: int = 8) -> Colour:
    """Move a colour a little, so that no two pictures are painted alike."""
    red, green, blue = (min(255, max(0, value + rng.randint(-amount, amount))) for value in colour)
    return red, green, blue


def glowing(colour: Colour) -> Colour:
    """Give the colour of a neon tube for a colour of paint."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(part / 255 for part in colour))
    if saturation < 0.12:
        return (235, 240, 255) if value > 0.3 else (110, 120, 160)
    red, green, blue = colorsys.hsv_to_rgb(hue, min(1.0, saturation * 0.6 + 0.4), 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


class Canvas:
    """Paints outlines in one style; `paper` and `ink` are what line art and neon are drawn on and with."""

    def __init__(
        self,
        width: int,
        height: int,
        style: str,
        rng: random.Random,
        *,
        paper: Colour = (250, 248, 244),
        ink: Colour = (30, 30, 40),
    ) -> None:
        self.width, self.height = width, height
        self.style = style
        self.aspect = width / height
        self.rng = rng
        self.paper, self.ink = paper, ink
        self._zoom = max(2, round(384 / max(width, height)))
        self._unit = height * self._zoom
        self._painting = Image.new("RGB", (width * self._zoom, height * self._zoom), paper)
        self._draw = ImageDraw.Draw(self._painting)
        self._tubes = Image.new("RGB", self._painting.size) if style == "neon" else None
        self._tube_draw = ImageDraw.Draw(self._tubes) if self._tubes else None

    @property
    def outlined(self) -> bool:
        """Whether the style draws outlines instead of filling areas."""
        return self.style in ("line art", "neon")

    def sky(self, stops: Sequence[Colour], glows: Sequence[tuple[Point, float, Colour]] = ()) -> None:
        """Fill everything with an even top-to-bottom passage through `stops`, lit by (centre, radius, colour) glows."""
        if self.style == "line art":
            return
        if self.style == "flat":
            glows = ()
            bands = 4
            rows = np.minimum(np.floor(np.linspace(0, bands, self.height)), bands - 1) / (bands - 1)
        else:
            rows = np.linspace(0, 1, self.height)
        positions = np.linspace(0, 1, len(stops))
        channels = [np.interp(rows, positions, [stop[channel] for stop in stops]) for channel in range(3)]
        field: Floats = np.repeat(np.stack(channels, -1)[:, None], self.width, 1).astype(np.float32)
        down, across = np.mgrid[0 : self.height, 0 : self.width].astype(np.float32) / self.height
        for (x, y), radius, colour in glows:
            strength = np.exp(-((across - x) ** 2 + (down - y) ** 2) / (radius * radius))[..., None]
            field += (np.asarray(colour, np.float32) - field) * strength * 0.7
        if self.style == "neon":
            field = field * 0.22
        image = Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))
        self._painting.paste(
            image.resize(
                self._painting.size, Image.Resampling.NEAREST if self.style == "flat" else Image.Resampling.BILINEAR
            )
        )

    def polygon(self, points: Sequence[Point], colour: Colour, *, outline: bool = True) -> None:
        """Fill a closed outline."""
        scaled = [(x * self._unit, y * self._unit) for x, y in points]
        if not self.outlined:
            self._draw.polygon(scaled, colour)
            return
        closed = [*scaled, scaled[0], scaled[1]]
        width = max(2, round(LINE_WIDTH * self._unit))
        if self._tube_draw is None:
            self._draw.polygon(scaled, self.paper)
            if outline:
                self._draw.line(closed, self.ink, width, joint="curve")
        else:
            self._draw.polygon(scaled, mix(BLACK, colour, 0.13))
            self._tube_draw.polygon(scaled, BLACK)
            if outline:
                self._tube_draw.line(closed, glowing(colour), width, joint="curve")

    def ellipse(self, centre: Point, radius_x: float, radius_y: float, colour: Colour, *, outline: bool = True) -> None:
        """Fill an ellipse."""
        count = 40
        turns = [2 * math.pi * step / count for step in range(count)]
        self.polygon(
            [(centre[0] + radius_x * math.cos(turn), centre[1] + radius_y * math.sin(turn)) for turn in turns],
            colour,
            outline=outline,
        )

    def rectangle(
        self, left: float, top: float, right: float, bottom: float, colour: Colour, *, outline: bool = True
    ) -> None:
        """Fill an upright rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour, outline=outline)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """Draw a stroke of a width in picture heights."""
        scaled = [(x * self._unit, y * self._unit) for x, y in points]
        pixels = max(1, round(width * self._unit))
        if self._tube_draw is not None:
            self._tube_draw.line(scaled, glowing(colour), pixels, joint="curve")
        else:
            self._draw.line(scaled, self.ink if self.style == "line art" else colour, pixels, joint="curve")

    def dot(self, centre: Point, radius: float, colour: Colour) -> None:
        """Put a small light: a star, a lit window, a snowflake. It is filled in every style."""
        box = [
            (centre[0] - radius) * self._unit,
            (centre[1] - radius) * self._unit,
            (centre[0] + radius) * self._unit,
            (centre[1] + radius) * self._unit,
        ]
        if self._tube_draw is not None:
            self._tube_draw.ellipse(box, glowing(colour))
        else:
            self._draw.ellipse(box, self.ink if self.style == "line art" else colour)

    def light(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill a small rectangle of light, as a lit window; filled in every style."""
        box = [left * self._unit, top * self._unit, right * self._unit, bottom * self._unit]
        if self._tube_draw is not None:
            self._tube_draw.rectangle(box, mix(BLACK, glowing(colour), 0.8))
        else:
            self._draw.rectangle(box, self.ink if self.style == "line art" else colour)

    def finish(self, veil: tuple[Colour, float] | None = None) -> Image.Image:
        """Give the picture: reduced, veiled by fog where asked, and finished in its style."""
        image = self._painting.reduce(self._zoom)
        if self._tubes is not None:
            tubes = self._tubes.reduce(self._zoom)
            halo = tubes.filter(ImageFilter.GaussianBlur(self.height * 0.022))
            lit = np.asarray(image, np.float32) + np.asarray(tubes, np.float32) + 0.9 * np.asarray(halo, np.float32)
            image = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
        if veil is not None:
            image = self._veiled(image, *veil)
        if self.style == "pixel art":
            return self._pixels(image)
        if self.style == "watercolour":
            return self._watercolour(image)
        return image

    def _veiled(self, image: Image.Image, colour: Colour, strength: float) -> Image.Image:
        rows = np.linspace(0, 1, self.height, dtype=np.float32)
        share = strength * np.exp(-(((rows - 0.62) / 0.28) ** 2))[:, None, None]
        field = np.asarray(image, np.float32)
        return Image.fromarray((field + (np.asarray(colour, np.float32) - field) * share).astype(np.uint8))

    def _pixels(self, image: Image.Image) -> Image.Image:
        block = max(2, round(max(self.width, self.height) / 32))
        small = image.resize((max(1, self.width // block), max(1, self.height // block)), Image.Resampling.BOX)
        levels = np.round(np.asarray(small, np.float32) / 24) * 24
        small = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
        return small.resize((self.width, self.height), Image.Resampling.NEAREST)

    def _watercolour(self, image: Image.Image) -> Image.Image:
        rng = np.random.default_rng(self.rng.getrandbits(32))

        def clouds(cells: int) -> Floats:
            grain = rng.random((cells, max(2, round(cells * self.aspect)))).astype(np.float32)
            wide = Image.fromarray(grain).resize((self.width, self.height), Image.Resampling.BICUBIC)
            return np.asarray(wide, np.float32) - 0.5

        field = np.asarray(image.filter(ImageFilter.GaussianBlur(self.height * 0.005)), np.float32)
        down, across = np.mgrid[0 : self.height, 0 : self.width]
        reach = self.height * 0.03
        down = np.clip(down + clouds(12) * reach, 0, self.height - 1).astype(int)
        across = np.clip(across + clouds(12) * reach, 0, self.width - 1).astype(int)
        field = field[down, across]
        blurred = np.asarray(
            Image.fromarray(field.astype(np.uint8)).filter(ImageFilter.GaussianBlur(self.height * 0.02)), np.float32
        )
        field = field - 0.5 * np.abs(field - blurred)
        paper = np.asarray((252, 249, 240), np.float32)
        wash = 0.74 + 0.36 * clouds(5)[..., None] + 0.16 * clouds(24)[..., None]
        field = paper + (field - paper) * np.clip(wash, 0, 1)
        edge = (
            np.minimum(np.minimum(down, self.height - 1 - down), np.minimum(across, self.width - 1 - across))
            / self.height
        )
        inside = np.clip((edge - 0.035 + 0.05 * clouds(14)) * 40, 0, 1)[..., None].astype(np.float32)
        return Image.fromarray(np.clip(paper + (field - paper) * inside, 0, 255).astype(np.uint8))
