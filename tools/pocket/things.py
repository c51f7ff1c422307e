"""Shapes, animals and objects in one colour, each drawn inside a circle of a given radius."""

import math
from collections.abc import Callable

from tools.pocket.canvas import Canvas, Colour, Point, mix

INK: Colour = (30, 26, 34)
PALE: Colour = (250, 250, 250)


def _ring(centre: Point, radius: float, count: int, start: float = -math.pi / 2) -> list[Point]:
    turns = [start + 2 * math.pi * step / count for step in range(count)]
    return [(centre[0] + radius * math.cos(turn), centre[1] + radius * math.sin(turn)) for turn in turns]


def _circle(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    canvas.ellipse(centre, radius * 0.92, radius * 0.92, colour)


def _square(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    half = radius * 0.8
    canvas.rectangle(centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half, colour)


def _triangle(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    canvas.polygon(_ring((centre[0], centre[1] + radius * 0.2), radius * 1.08, 3), colour)


def _star(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    outer, inner = _ring(centre, radius * 1.08, 5), _ring(centre, radius * 0.46, 5, -math.pi / 2 + math.pi / 5)
    canvas.polygon([point for pair in zip(outer, inner, strict=True) for point in pair], colour)


def _heart(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    points: list[Point] = []
    for step in range(48):
        turn = 2 * math.pi * step / 48
        x = 16 * math.sin(turn) ** 3
        y = 13 * math.cos(turn) - 5 * math.cos(2 * turn) - 2 * math.cos(3 * turn) - math.cos(4 * turn)
        points.append((centre[0] + radius * x / 16.5, centre[1] - radius * (y + 2.5) / 16.5))
    canvas.polygon(points, colour)


def _against(colour: Colour) -> Colour:
    """Give ink that shows on a colour."""
    return PALE if sum(colour) < 260 else INK


def _eye(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    canvas.dot(centre, radius, _against(colour))


def _cat(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    x, y = centre
    r = radius
    canvas.line(
        [(x + 0.42 * r, y + 0.75 * r), (x + 0.85 * r, y + 0.55 * r), (x + 0.8 * r, y + 0.05 * r)], colour, 0.17 * r
    )
    canvas.ellipse((x, y + 0.5 * r), 0.5 * r, 0.52 * r, colour)
    for side in (-1, 1):
        canvas.polygon(
            [
                (x + side * 0.52 * r, y - 0.3 * r),
                (x + side * 0.5 * r, y - 0.98 * r),
                (x + side * 0.05 * r, y - 0.6 * r),
            ],
            colour,
        )
    canvas.ellipse((x, y - 0.3 * r), 0.55 * r, 0.46 * r, colour)
    for side in (-1, 1):
        _eye(canvas, (x + side * 0.22 * r, y - 0.36 * r), 0.085 * r, colour)
    canvas.polygon([(x - 0.08 * r, y - 0.2 * r), (x + 0.08 * r, y - 0.2 * r), (x, y - 0.1 * r)], _against(colour))


def _rabbit(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    x, y = centre
    r = radius
    for side in (-1, 1):
        canvas.ellipse((x + side * 0.22 * r, y - 0.62 * r), 0.15 * r, 0.42 * r, colour)
        canvas.ellipse(
            (x + side * 0.22 * r, y - 0.6 * r), 0.06 * r, 0.28 * r, mix(colour, (255, 170, 190), 0.6), outline=False
        )
    canvas.ellipse((x, y + 0.55 * r), 0.56 * r, 0.48 * r, colour)
    canvas.ellipse((x, y - 0.05 * r), 0.44 * r, 0.38 * r, colour)
    for side in (-1, 1):
        _eye(canvas, (x + side * 0.18 * r, y - 0.1 * r), 0.08 * r, colour)
    canvas.dot((x, y + 0.06 * r), 0.06 * r, (240, 120, 150))


def _fish(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    x, y = centre
    r = radius
    fin = mix(colour, INK, 0.2)
    canvas.polygon([(x + 0.4 * r, y), (x + 1.0 * r, y - 0.5 * r), (x + 0.86 * r, y), (x + 1.0 * r, y + 0.5 * r)], fin)
    canvas.polygon([(x - 0.25 * r, y - 0.35 * r), (x + 0.1 * r, y - 0.8 * r), (x + 0.3 * r, y - 0.3 * r)], fin)
    canvas.ellipse((x - 0.15 * r, y), 0.75 * r, 0.48 * r, colour)
    canvas.ellipse((x - 0.52 * r, y - 0.12 * r), 0.13 * r, 0.13 * r, PALE)
    canvas.dot((x - 0.54 * r, y - 0.12 * r), 0.07 * r, INK)


def _bird(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    x, y = centre
    r = radius
    canvas.polygon(
        [(x + 0.35 * r, y + 0.1 * r), (x + 1.05 * r, y - 0.1 * r), (x + 0.85 * r, y + 0.35 * r)], mix(colour, INK, 0.25)
    )
    canvas.polygon(
        [(x - 0.78 * r, y - 0.42 * r), (x - 1.08 * r, y - 0.3 * r), (x - 0.78 * r, y - 0.2 * r)], (245, 160, 30)
    )
    canvas.ellipse((x, y + 0.15 * r), 0.66 * r, 0.5 * r, colour)
    canvas.ellipse((x - 0.5 * r, y - 0.34 * r), 0.36 * r, 0.35 * r, colour)
    canvas.polygon(
        [(x - 0.2 * r, y + 0.05 * r), (x + 0.5 * r, y + 0.0 * r), (x + 0.1 * r, y + 0.5 * r)], mix(colour, INK, 0.3)
    )
    _eye(canvas, (x - 0.58 * r, y - 0.42 * r), 0.08 * r, colour)
    for side in (-0.15, 0.15):
        canvas.line([(x + side * r, y + 0.62 * r), (x + side * r, y + 0.95 * r)], (210, 120, 30), 0.06 * r)


def _butterfly(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    x, y = centre
    r = radius
    for side in (-1, 1):
        canvas.ellipse((x + side * 0.5 * r, y - 0.32 * r), 0.48 * r, 0.46 * r, colour)
        canvas.ellipse((x + side * 0.38 * r, y + 0.42 * r), 0.34 * r, 0.36 * r, mix(colour, INK, 0.18))
        canvas.ellipse((x + side * 0.52 * r, y - 0.34 * r), 0.2 * r, 0.19 * r, mix(colour, PALE, 0.55), outline=False)
        canvas.line([(x, y - 0.5 * r), (x + side * 0.25 * r, y - 0.95 * r)], INK, 0.05 * r)
    canvas.ellipse((x, y), 0.1 * r, 0.62 * r, INK)


def _flower(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    x, y = centre
    r = radius
    canvas.line([(x, y), (x, y + r)], (40, 140, 60), 0.12 * r)
    canvas.ellipse((x + 0.26 * r, y + 0.68 * r), 0.24 * r, 0.1 * r, (40, 140, 60))
    for petal in _ring((x, y - 0.28 * r), 0.4 * r, 6):
        canvas.ellipse(petal, 0.28 * r, 0.28 * r, colour)
    canvas.ellipse(
        (x, y - 0.28 * r),
        0.24 * r,
        0.24 * r,
        (120, 70, 30) if colour[0] > 200 and colour[1] > 150 and colour[2] < 100 else (252, 200, 40),
    )


def _apple(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    x, y = centre
    r = radius
    canvas.line([(x, y - 0.5 * r), (x + 0.1 * r, y - 0.98 * r)], (96, 60, 30), 0.1 * r)
    canvas.ellipse((x + 0.38 * r, y - 0.78 * r), 0.27 * r, 0.13 * r, (60, 165, 70))
    for side in (-1, 1):
        canvas.ellipse(
            (x + side * 0.3 * r, y + 0.12 * r), 0.56 * r, 0.68 * r, colour, outline=not canvas.outlined or side > 0
        )
    canvas.ellipse((x - 0.4 * r, y - 0.15 * r), 0.12 * r, 0.2 * r, mix(colour, PALE, 0.6), outline=False)


def _mushroom(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    x, y = centre
    r = radius
    canvas.polygon(
        [(x - 0.24 * r, y), (x + 0.24 * r, y), (x + 0.32 * r, y + 0.95 * r), (x - 0.32 * r, y + 0.95 * r)],
        (240, 226, 200),
    )
    cap = [
        (x + 0.95 * r * math.cos(turn), y + 0.12 * r - 1.0 * r * math.sin(turn))
        for turn in (math.pi * step / 20 for step in range(21))
    ]
    canvas.polygon(cap, colour)
    for dx, dy, size in ((-0.45, -0.25, 0.13), (0.05, -0.55, 0.16), (0.48, -0.2, 0.12)):
        canvas.dot((x + dx * r, y + dy * r), size * r, mix(PALE, INK, 0.0) if sum(colour) < 680 else (200, 60, 60))


def _car(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    x, y = centre
    r = radius
    canvas.polygon(
        [(x - 0.6 * r, y), (x - 0.36 * r, y - 0.52 * r), (x + 0.36 * r, y - 0.52 * r), (x + 0.66 * r, y)], colour
    )
    for left, right in ((-0.42, -0.04), (0.06, 0.46)):
        canvas.polygon(
            [
                (x + left * r, y - 0.04 * r),
                (x + (left * 0.7) * r, y - 0.42 * r),
                (x + right * 0.75 * r, y - 0.42 * r),
                (x + right * r, y - 0.04 * r),
            ],
            (190, 226, 245),
        )
    canvas.rectangle(x - 1.0 * r, y - 0.04 * r, x + 1.0 * r, y + 0.42 * r, colour)
    for side in (-0.55, 0.55):
        canvas.ellipse((x + side * r, y + 0.44 * r), 0.25 * r, 0.25 * r, INK)
        canvas.ellipse((x + side * r, y + 0.44 * r), 0.11 * r, 0.11 * r, (200, 200, 205), outline=False)
    canvas.dot((x - 0.9 * r, y + 0.12 * r), 0.08 * r, (255, 240, 170))


def _rocket(canvas: Canvas, centre: Point, radius: float, colour: Colour) -> None:
    x, y = centre
    r = radius
    canvas.polygon([(x - 0.2 * r, y + 0.5 * r), (x + 0.2 * r, y + 0.5 * r), (x, y + 1.08 * r)], (255, 170, 40))
    for side in (-1, 1):
        canvas.polygon(
            [
                (x + side * 0.28 * r, y + 0.1 * r),
                (x + side * 0.68 * r, y + 0.68 * r),
                (x + side * 0.26 * r, y + 0.56 * r),
            ],
            mix(colour, INK, 0.3),
        )
    body = [
        (-0.3, 0.56),
        (-0.36, 0.1),
        (-0.3, -0.4),
        (-0.14, -0.82),
        (0, -1.02),
        (0.14, -0.82),
        (0.3, -0.4),
        (0.36, 0.1),
        (0.3, 0.56),
    ]
    canvas.polygon([(x + dx * r, y + dy * r) for dx, dy in body], colour)
    canvas.ellipse((x, y - 0.25 * r), 0.17 * r, 0.17 * r, (190, 226, 245))


DRAWN: dict[str, Callable[[Canvas, Point, float, Colour], None]] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "heart": _heart,
    "cat": _cat, "rabbit": _rabbit, "fish": _fish, "bird": _bird, "butterfly": _butterfly,
    "flower": _flower, "apple": _apple, "mushroom": _mushroom, "car": _car, "rocket": _rocket,
}  # fmt: skip


def draw_thing(canvas: Canvas, kind: str, centre: Point, radius: float, colour: Colour) -> None:
    """Draw one thing; `centre` and `radius` are in picture heights."""
    DRAWN[kind](canvas, centre, radius, colour)
