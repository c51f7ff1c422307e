"""The landscapes: eight places at four times of day, in several weathers."""

import math
import random
from collections.abc import Callable, Sequence

from tools.pocket import extras
from tools.pocket.canvas import Canvas, Colour, Point, mix, shiver
from tools.pocket.light import Light, light_of
from tools.pocket.spec import Scene

Ridge = list[Point]


def _ridge(canvas: Canvas, rng: random.Random, height: float, swing: float, waves: float) -> Ridge:
    """Give a rolling line across the picture at about `height`."""
    phases = [(rng.uniform(0, 2 * math.pi), waves * (1 + 0.9 * number), swing / (1 + number)) for number in range(3)]
    count = 48
    return [
        (
            canvas.aspect * step / count,
            height
            + sum(
                size * math.sin(phase + frequency * canvas.aspect * step / count) for phase, frequency, size in phases
            )
            * 0.6,
        )
        for step in range(count + 1)
    ]


def _peaks(canvas: Canvas, rng: random.Random, base: float, top: float, count: int) -> Ridge:
    """Give a jagged line of `count` peaks between the heights `base` and `top`."""
    points: Ridge = [(-0.15, base)]
    step = canvas.aspect / count
    for number in range(count):
        middle = step * (number + 0.5) + rng.uniform(-0.2, 0.2) * step
        peak = top + rng.uniform(0, 0.45) * (base - top)
        points.append((middle, peak))
        points.append((middle + step * rng.uniform(0.4, 0.6), base - rng.uniform(0.05, 0.35) * (base - top)))
    return [*points, (canvas.aspect + 0.15, base)]


def _down_to_the_edge(canvas: Canvas, ridge: Ridge) -> list[Point]:
    return [*ridge, (canvas.aspect + 0.2, 1.1), (-0.2, 1.1)]


def _water(canvas: Canvas, rng: random.Random, light: Light, horizon: float, bottom: float, lamp: float | None) -> None:
    deep = shiver(light.water, rng)
    steps = 1 if canvas.style == "flat" or canvas.outlined else 7
    for step in range(steps):
        top = horizon + (bottom - horizon) * step / steps
        canvas.rectangle(
            -0.1,
            top,
            canvas.aspect + 0.1,
            bottom + 0.05,
            mix(mix(deep, light.sky[-1], 0.3), deep, (step + 0.5) / steps),
            outline=step == 0,
        )
    for _ in range(12):
        x, y = rng.uniform(0, canvas.aspect), horizon + (bottom - horizon) * rng.uniform(0.12, 0.95)
        length = 0.03 + 0.07 * (y - horizon) / (bottom - horizon)
        canvas.line([(x - length, y), (x + length, y)], mix(deep, (255, 255, 255), 0.22), 0.009)
    if lamp is not None:
        for step in range(9):
            y = horizon + (bottom - horizon) * (0.05 + step / 10)
            half = 0.02 + 0.055 * rng.random()
            canvas.line([(lamp - half, y), (lamp + half, y)], light.lamp, 0.016)


def _beach(canvas: Canvas, rng: random.Random, light: Light, lamp: float | None) -> list[extras.Ground]:
    horizon = rng.uniform(0.5, 0.58)
    shore = rng.uniform(0.74, 0.82)
    _water(canvas, rng, light, horizon, shore + 0.06, lamp)
    line = _ridge(canvas, rng, shore, 0.03, 3.2)
    canvas.polygon(
        _down_to_the_edge(canvas, [(x, y - 0.025) for x, y in line]),
        mix(light.on((255, 255, 255)), light.water, 0.1),
        outline=False,
    )
    canvas.polygon(_down_to_the_edge(canvas, line), shiver(light.on((240, 214, 150)), rng))
    return [extras.Ground(horizon, shore, water=True), extras.Ground(shore + 0.03, 0.97)]


def _sea(canvas: Canvas, rng: random.Random, light: Light, lamp: float | None) -> list[extras.Ground]:
    horizon = rng.uniform(0.46, 0.58)
    _water(canvas, rng, light, horizon, 1.0, lamp)
    return [extras.Ground(horizon, 0.9, water=True)]


def _mountains(canvas: Canvas, rng: random.Random, light: Light, _lamp: float | None) -> list[extras.Ground]:
    for number, (base, top) in enumerate(((0.68, 0.26), (0.74, 0.42))):
        ridge = _peaks(canvas, rng, base, top, rng.randint(2, 3) + number)
        rock = shiver(light.on(mix((104, 112, 136), light.sky[-1], 0.35 - 0.3 * number)), rng)
        canvas.polygon(_down_to_the_edge(canvas, ridge), rock)
        for (x, y), (_, low) in zip(ridge[1::2], ridge[2::2], strict=False):
            depth = 0.3 * (base - y)
            if depth > 0.03:
                slope = max(0.35, (low - y) / 0.2)
                half = depth / slope
                cap = [
                    (x, y),
                    (x + half * 0.7, y + depth),
                    (x + half * 0.25, y + depth * 0.75),
                    (x - half * 0.1, y + depth * 1.1),
                    (x - half * 0.7, y + depth),
                ]
                canvas.polygon(cap, light.on((246, 248, 255)))
            if not canvas.outlined and canvas.style != "flat":
                canvas.polygon([(x, y + depth * 0.9), (x + 0.1, base), (x + 0.02, base)], mix(rock, (10, 10, 30), 0.18))
    meadow = _ridge(canvas, rng, 0.8, 0.03, 3)
    canvas.polygon(_down_to_the_edge(canvas, meadow), shiver(light.on((86, 140, 84)), rng))
    return [extras.Ground(0.82, 0.95)]


def _hills(canvas: Canvas, rng: random.Random, light: Light, _lamp: float | None) -> list[extras.Ground]:
    for number, height in enumerate((0.56, 0.68, 0.82)):
        green = mix((126, 186, 96), (58, 140, 66), number / 2)
        canvas.polygon(_down_to_the_edge(canvas, _ridge(canvas, rng, height, 0.075, 2.6)), shiver(light.on(green), rng))
    return [extras.Ground(0.7, 0.92)]


def _forest(canvas: Canvas, rng: random.Random, light: Light, _lamp: float | None) -> list[extras.Ground]:
    canvas.polygon(_down_to_the_edge(canvas, _ridge(canvas, rng, 0.72, 0.02, 3)), shiver(light.on((70, 112, 60)), rng))
    for row, (foot, size) in enumerate(((0.74, 0.34), (0.82, 0.42), (0.92, 0.46))):
        count = round((8 - row) * canvas.aspect)
        green = mix((72, 138, 86), (28, 92, 52), row / 2)
        for number in range(count):
            x = canvas.aspect * (number + 0.5 + rng.uniform(-0.3, 0.3)) / count
            if row == 2 and abs(x / canvas.aspect - 0.5) < 0.24:
                continue
            extras.fir(
                canvas,
                (x, foot + rng.uniform(-0.02, 0.02)),
                size * rng.uniform(0.8, 1.15),
                shiver(light.on(green), rng),
                light,
            )
    return [extras.Ground(0.88, 0.96)]


def _desert(canvas: Canvas, rng: random.Random, light: Light, _lamp: float | None) -> list[extras.Ground]:
    for number, height in enumerate((0.58, 0.68, 0.8)):
        sand = mix((236, 190, 122), (214, 148, 82), number / 2)
        ridge = _ridge(canvas, rng, height, 0.06, 2.0)
        canvas.polygon(_down_to_the_edge(canvas, ridge), shiver(light.on(sand), rng))
    return [extras.Ground(0.74, 0.93)]


def _lit_snow(colour: Colour, light: Light) -> Colour:
    """Snow keeps some of its white in every light."""
    return mix(light.on(colour), colour, 0.3 if light.time == "night" else 0.1)


def _snow(canvas: Canvas, rng: random.Random, light: Light, _lamp: float | None) -> list[extras.Ground]:
    for number, height in enumerate((0.56, 0.68)):
        white = mix((206, 220, 240), (236, 242, 252), number)
        canvas.polygon(
            _down_to_the_edge(canvas, _ridge(canvas, rng, height, 0.05, 2.4)), shiver(_lit_snow(white, light), rng, 4)
        )
    for _ in range(rng.randint(3, 6)):
        foot = rng.uniform(0.66, 0.8)
        extras.fir(
            canvas,
            (rng.uniform(0.02, 0.98) * canvas.aspect, foot),
            0.28 * (0.4 + foot),
            light.on((52, 104, 84)),
            light,
            snow=True,
        )
    canvas.polygon(
        _down_to_the_edge(canvas, _ridge(canvas, rng, 0.83, 0.03, 2.4)),
        shiver(_lit_snow((248, 250, 255), light), rng, 3),
    )
    return [extras.Ground(0.82, 0.95)]


def _city(
    canvas: Canvas, rng: random.Random, light: Light, _lamp: float | None, *, neon: bool = False
) -> list[extras.Ground]:
    street = 0.88
    wall = {"day": (128, 140, 162), "sunset": (92, 56, 84), "night": (26, 30, 56), "dawn": (150, 128, 154)}[light.time]
    for row in range(2):
        x = -0.05
        while x < canvas.aspect + 0.02:
            width = rng.uniform(0.1, 0.19)
            top = rng.uniform(0.26, 0.5) + 0.14 * row
            colour = shiver(mix(wall, light.sky[-1], 0.3 - 0.3 * row), rng, 6)
            canvas.rectangle(x, top, x + width, street, colour)
            if rng.random() < 0.3:
                canvas.line([(x + width / 2, top), (x + width / 2, top - 0.07)], colour, 0.012)
            if row == 1 or rng.random() < 0.5:
                _windows(canvas, rng, light, (x, top, x + width), street, neon=neon)
            if neon and rng.random() < 0.7:
                tube = rng.choice(NEON)
                canvas.line([(x + 0.012, top + 0.01), (x + width - 0.012, top + 0.01)], tube, 0.02)
                canvas.line([(x + 0.012, top + 0.01), (x + 0.012, street)], tube, 0.014)
            x += width + rng.uniform(0.0, 0.015)
    canvas.rectangle(-0.1, street, canvas.aspect + 0.1, 1.1, mix(wall, (16, 14, 24), 0.55))
    return [extras.Ground(street, 0.97)]


NEON: tuple[Colour, ...] = ((255, 60, 190), (40, 230, 255), (170, 90, 255), (255, 220, 60))


def _windows(
    canvas: Canvas, rng: random.Random, light: Light, box: tuple[float, float, float], street: float, *, neon: bool
) -> None:
    left, top, right = box
    lit = {"day": 0.75, "sunset": 0.6, "night": 0.55, "dawn": 0.4}[light.time]
    glass = {"day": (206, 228, 246), "sunset": (255, 206, 110), "night": (255, 222, 120), "dawn": (255, 230, 190)}[
        light.time
    ]
    columns = max(2, round((right - left) / 0.045))
    gap = (right - left) / columns
    y = top + 0.04
    while y < street - 0.05:
        for column in range(columns):
            if rng.random() < lit:
                colour = rng.choice(NEON) if neon else glass
                x = left + gap * (column + 0.5)
                canvas.light(x - 0.011, y, x + 0.011, y + 0.026, colour)
        y += 0.058


PLACES: dict[str, Callable[[Canvas, random.Random, Light, float | None], list[extras.Ground]]] = {
    "beach": _beach,
    "sea": _sea,
    "mountains": _mountains,
    "hills": _hills,
    "forest": _forest,
    "desert": _desert,
    "city": _city,
    "snow": _snow,
}


def _lamp_of(canvas: Canvas, rng: random.Random, scene: Scene) -> Point | None:
    """Where the sun or the moon stands: low at the ends of the day, high otherwise."""
    x = rng.uniform(0.2, 0.8) * canvas.aspect
    if "moon" in scene.extras:
        return x, rng.uniform(0.14, 0.26)
    if "sun" in scene.extras:
        low = scene.place in ("beach", "sea")
        return x, rng.uniform(0.13, 0.24) if scene.time == "day" else rng.uniform(0.42, 0.5) if low else rng.uniform(
            0.2, 0.34
        )
    return None


def draw_scene(canvas: Canvas, rng: random.Random, scene: Scene) -> tuple[Colour, float] | None:
    """Paint a landscape; returns the fog to veil it with, as (colour, strength), where there is fog."""
    light = light_of(scene.time, scene.weather, rng)
    lamp = _lamp_of(canvas, rng, scene)
    glows: Sequence[tuple[Point, float, Colour]] = ()
    if lamp is not None:
        glows = [(lamp, 0.2 if scene.time == "night" else 0.32, light.halo)]
    elif scene.time in ("sunset", "dawn"):
        glows = [((canvas.aspect * rng.uniform(0.3, 0.7), 0.6), 0.4, light.halo)]
    canvas.sky(light.sky, glows)
    if "stars" in scene.extras:
        extras.stars(canvas, rng)
    if lamp is not None:
        extras.lamp(canvas, rng, lamp, light)
    extras.in_the_sky(canvas, rng, scene, light)
    beam = lamp[0] if lamp is not None else None
    if scene.place == "city":
        grounds = _city(canvas, rng, light, beam, neon="neon lights" in scene.extras)
    else:
        grounds = PLACES[scene.place](canvas, rng, light, beam)
    extras.on_the_ground(canvas, rng, scene, light, grounds)
    extras.weather(canvas, rng, scene.weather, light)
    return (light.fog, 0.6) if scene.weather == "fog" else None
