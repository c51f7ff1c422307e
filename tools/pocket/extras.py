"""What stands in a landscape or hangs over it: sun and moon, clouds, boats, houses, trees, weather."""

import math
import random
from dataclasses import dataclass

from tools.pocket.canvas import Canvas, Colour, Point, mix
from tools.pocket.light import Light, seen
from tools.pocket.spec import Scene


@dataclass(frozen=True, slots=True)
class Ground:
    """A band of the picture where things can stand, from `top` to `bottom` in picture heights."""

    top: float
    bottom: float
    water: bool = False


def stars(canvas: Canvas, rng: random.Random) -> None:
    for _ in range(round(34 * canvas.aspect)):
        bright = rng.random()
        canvas.dot(
            (rng.uniform(0, canvas.aspect), rng.uniform(0, 0.55)),
            0.005 + 0.005 * bright,
            mix((170, 180, 220), (255, 255, 245), bright),
        )


def lamp(canvas: Canvas, rng: random.Random, centre: Point, light: Light) -> None:
    """Hang the sun, or at night the moon, full or crescent."""
    radius = rng.uniform(0.075, 0.1)
    canvas.ellipse(centre, radius, radius, light.lamp)
    if light.time == "night" and not canvas.outlined:
        if rng.random() < 0.35:
            height = min(1.0, centre[1])
            behind = mix(mix(light.sky[0], light.sky[1], min(1, 2 * height)), light.halo, 0.45)
            canvas.ellipse((centre[0] + radius * 0.5, centre[1] - radius * 0.25), radius * 0.85, radius * 0.85, behind)
        elif canvas.style != "flat":
            for dx, dy, size in ((-0.35, -0.2, 0.2), (0.3, 0.3, 0.16), (0.15, -0.45, 0.12)):
                canvas.ellipse(
                    (centre[0] + dx * radius, centre[1] + dy * radius),
                    size * radius,
                    size * radius,
                    mix(light.lamp, (150, 150, 150), 0.3),
                )


def _cloud(canvas: Canvas, rng: random.Random, centre: Point, size: float, colour: Colour) -> None:
    x, y = centre
    for dx, dy, radius in (
        (-0.9, 0.1, 0.45),
        (0.9, 0.12, 0.42),
        (-0.35, -0.2, 0.55),
        (0.35, -0.12, 0.6),
        (0, 0.15, 0.6),
    ):
        canvas.ellipse(
            (x + dx * size, y + dy * size),
            radius * size * 1.1,
            radius * size * rng.uniform(0.62, 0.75),
            colour,
            outline=not canvas.outlined or dy < 0.15,
        )


def _balloon(canvas: Canvas, rng: random.Random, centre: Point, size: float, light: Light) -> None:
    x, y = centre
    main = rng.choice([(226, 52, 52), (250, 170, 30), (60, 110, 230), (170, 60, 200)])
    canvas.polygon(
        [
            (x - 0.55 * size, y + 0.4 * size),
            (x + 0.55 * size, y + 0.4 * size),
            (x + 0.16 * size, y + 1.05 * size),
            (x - 0.16 * size, y + 1.05 * size),
        ],
        mix(light.on(main), (0, 0, 0), 0.15),
    )
    canvas.ellipse((x, y), 0.72 * size, 0.78 * size, mix(light.on(main), main, 0.5))
    canvas.ellipse((x, y), 0.28 * size, 0.77 * size, mix(light.on((255, 245, 220)), (255, 245, 220), 0.5))
    canvas.rectangle(x - 0.16 * size, y + 1.15 * size, x + 0.16 * size, y + 1.4 * size, light.on((120, 80, 40)))


def in_the_sky(canvas: Canvas, rng: random.Random, scene: Scene, light: Light) -> None:
    """Draw what hangs behind the land: rainbow, clouds, birds, balloon."""
    if "rainbow" in scene.extras:
        middle = canvas.aspect * rng.uniform(0.4, 0.6)
        for step, colour in enumerate(
            [(228, 60, 60), (246, 150, 40), (250, 220, 60), (70, 180, 90), (60, 120, 230), (150, 80, 210)]
        ):
            radius = 0.5 - 0.024 * step
            arc = [
                (middle + radius * math.cos(turn), 0.68 - radius * math.sin(turn))
                for turn in (math.pi * part / 30 for part in range(31))
            ]
            canvas.line(arc, mix(colour, light.sky[1], 0.15), 0.026)
    if "clouds" in scene.extras:
        count = rng.randint(4, 6) if scene.weather == "cloudy" else rng.randint(2, 3)
        for number in range(round(count * max(1, canvas.aspect * 0.8))):
            x = canvas.aspect * ((number + rng.uniform(0.2, 0.8)) / count % 1)
            _cloud(
                canvas,
                rng,
                (x, rng.uniform(0.08, 0.3)),
                rng.uniform(0.07, 0.12),
                mix(light.cloud, light.sky[0], 0.35 if scene.weather == "cloudy" else 0.05),
            )
    if "birds" in scene.extras:
        x, y = rng.uniform(0.2, 0.6) * canvas.aspect, rng.uniform(0.15, 0.35)
        for _ in range(rng.randint(3, 5)):
            cx, cy, size = x + rng.uniform(0, 0.3), y + rng.uniform(-0.08, 0.08), 0.035
            canvas.line([(cx - size, cy - size * 0.6), (cx, cy), (cx + size, cy - size * 0.6)], (40, 36, 60), 0.013)
    if "balloon" in scene.extras:
        _balloon(
            canvas,
            rng,
            (rng.uniform(0.2, 0.8) * canvas.aspect, rng.uniform(0.18, 0.28)),
            rng.uniform(0.13, 0.17),
            light,
        )


def fir(canvas: Canvas, foot: Point, height: float, colour: Colour, light: Light, *, snow: bool = False) -> None:
    """Draw a fir tree standing at `foot`."""
    x, y = foot
    canvas.rectangle(
        x - 0.018 * height / 0.3, y - 0.16 * height, x + 0.018 * height / 0.3, y, light.on((100, 66, 40)), outline=False
    )
    for low, high, half in ((0.1, 0.55, 0.3), (0.36, 0.8, 0.23), (0.6, 1.0, 0.16)):
        canvas.polygon(
            [(x - half * height, y - low * height), (x, y - high * height), (x + half * height, y - low * height)],
            colour,
        )
        if snow and not canvas.outlined:
            middle = (low + high) / 2 + 0.06
            canvas.polygon(
                [
                    (x - half * 0.42 * height, y - middle * height),
                    (x, y - high * height),
                    (x + half * 0.42 * height, y - middle * height),
                ],
                light.on((246, 250, 255)),
            )


def _boat(canvas: Canvas, rng: random.Random, foot: Point, size: float, light: Light) -> None:
    x, y = foot
    lift = 0.35 if light.time == "night" else 0.2
    hull = mix(light.on(rng.choice([(176, 60, 50), (120, 72, 40), (40, 60, 120)])), (180, 90, 70), lift)
    sail = mix(light.on((250, 248, 240)), (250, 248, 240), 0.55)
    canvas.line([(x, y), (x, y - size)], hull, 0.014)
    canvas.polygon(
        [(x + 0.04 * size, y - 0.98 * size), (x + 0.5 * size, y - 0.2 * size), (x + 0.04 * size, y - 0.2 * size)], sail
    )
    canvas.polygon(
        [(x - 0.06 * size, y - 0.8 * size), (x - 0.06 * size, y - 0.2 * size), (x - 0.4 * size, y - 0.2 * size)],
        mix(sail, hull, 0.15),
    )
    canvas.polygon(
        [
            (x - 0.55 * size, y - 0.12 * size),
            (x + 0.6 * size, y - 0.12 * size),
            (x + 0.42 * size, y + 0.14 * size),
            (x - 0.4 * size, y + 0.14 * size),
        ],
        hull,
    )


def _lighthouse(canvas: Canvas, foot: Point, size: float, light: Light) -> None:
    x, y = foot
    canvas.polygon(
        [
            (x - 0.4 * size, y + 0.1 * size),
            (x - 0.22 * size, y - 0.08 * size),
            (x + 0.24 * size, y - 0.1 * size),
            (x + 0.42 * size, y + 0.1 * size),
        ],
        light.on((96, 90, 92)),
    )
    white, red = (mix(light.on(colour), colour, 0.35) for colour in ((248, 246, 240), (206, 44, 44)))
    parts = 5
    for part in range(parts):
        low, high = part / parts, (part + 1) / parts
        wide, narrow = 0.17 - 0.06 * low, 0.17 - 0.06 * high
        canvas.polygon(
            [
                (x - wide * size, y - low * size),
                (x + wide * size, y - low * size),
                (x + narrow * size, y - high * size),
                (x - narrow * size, y - high * size),
            ],
            red if part % 2 else white,
        )
    canvas.rectangle(x - 0.08 * size, y - 1.14 * size, x + 0.08 * size, y - size, (255, 236, 130))
    canvas.polygon([(x - 0.13 * size, y - 1.13 * size), (x, y - 1.3 * size), (x + 0.13 * size, y - 1.13 * size)], red)


def _house(canvas: Canvas, rng: random.Random, foot: Point, size: float, light: Light) -> None:
    x, y = foot
    wall = mix(light.on((246, 232, 204)), (246, 232, 204), 0.25)
    roof_colour = rng.choice([(190, 56, 44), (160, 70, 50), (70, 90, 150)])
    roof = mix(light.on(roof_colour), roof_colour, 0.25)
    canvas.rectangle(x + 0.2 * size, y - 1.02 * size, x + 0.34 * size, y - 0.7 * size, roof)
    canvas.rectangle(x - 0.5 * size, y - 0.56 * size, x + 0.5 * size, y, wall)
    canvas.polygon([(x - 0.64 * size, y - 0.52 * size), (x, y - 1.05 * size), (x + 0.64 * size, y - 0.52 * size)], roof)
    pane = (255, 220, 110) if light.time in ("night", "sunset") else light.on((120, 180, 220))
    canvas.rectangle(x - 0.36 * size, y - 0.42 * size, x - 0.12 * size, y - 0.18 * size, pane)
    canvas.rectangle(x + 0.1 * size, y - 0.4 * size, x + 0.32 * size, y, light.on((110, 70, 44)))


def _tree(canvas: Canvas, rng: random.Random, foot: Point, size: float, light: Light) -> None:
    x, y = foot
    canvas.rectangle(x - 0.06 * size, y - 0.5 * size, x + 0.06 * size, y, seen(light, (110, 74, 44)))
    green = seen(light, rng.choice([(44, 120, 50), (60, 140, 60), (190, 110, 40)]))
    for dx, dy, radius in ((-0.22, -0.6, 0.28), (0.22, -0.62, 0.28), (0, -0.86, 0.3), (0, -0.6, 0.3)):
        canvas.ellipse((x + dx * size, y + dy * size), radius * size, radius * size * 0.9, green)


def _palm(canvas: Canvas, rng: random.Random, foot: Point, size: float, light: Light) -> None:
    x, y = foot
    lean = rng.choice((-1, 1)) * rng.uniform(0.1, 0.22) * size
    stem = [(x + lean * (part / 6) ** 2, y - size * part / 6) for part in range(7)]
    canvas.line(stem, seen(light, (124, 84, 50)), 0.07 * size)
    top_x, top_y = stem[-1]
    for turn in (-2.9, -2.3, -1.75, -1.3, -0.75, -0.2, 0.15, 3.0):
        tip = (top_x + 0.5 * size * math.cos(turn), top_y + 0.34 * size * math.sin(turn) + 0.1 * size)
        bend = (top_x + 0.28 * size * math.cos(turn), top_y + 0.3 * size * math.sin(turn) - 0.05 * size)
        canvas.polygon(
            [(top_x, top_y - 0.05 * size), bend, tip, (bend[0], bend[1] + 0.1 * size), (top_x, top_y + 0.05 * size)],
            seen(light, (46, 132, 62)),
        )


def _cactus(canvas: Canvas, foot: Point, size: float, light: Light) -> None:
    x, y = foot
    green = seen(light, (40, 128, 70))
    for left, right, top, bottom in (
        (-0.11, 0.11, 1.0, 0.0),
        (-0.42, -0.26, 0.78, 0.4),
        (-0.42, 0.0, 0.5, 0.36),
        (0.26, 0.42, 0.88, 0.52),
        (0.0, 0.42, 0.62, 0.48),
    ):
        canvas.rectangle(
            x + left * size,
            y - top * size,
            x + right * size,
            y - bottom * size,
            green,
            outline=not canvas.outlined or top - bottom > 0.2,
        )
    for cx, cy, radius in ((0, 1.0, 0.11), (-0.34, 0.78, 0.08), (0.34, 0.88, 0.08)):
        canvas.ellipse((x + cx * size, y - cy * size), radius * size, radius * size, green, outline=not canvas.outlined)


def on_the_ground(canvas: Canvas, rng: random.Random, scene: Scene, light: Light, grounds: list[Ground]) -> None:
    """Draw what stands on land and water, far things first, no two in the same third of the picture."""
    thirds = [0.2, 0.5, 0.8]
    rng.shuffle(thirds)

    def place(size: float, *, water: bool = False) -> Point:
        band = next((ground for ground in grounds if ground.water == water), grounds[-1])
        across = (thirds.pop() if thirds else 0.5) + rng.uniform(-0.07, 0.07)
        top = band.top + (size * 0.3 if water else 0)
        return across * canvas.aspect, rng.uniform(top, max(top, band.top + 0.7 * (band.bottom - band.top)))

    for extra in scene.extras:
        size = rng.uniform(0.85, 1.15)
        if extra == "lighthouse":
            _lighthouse(canvas, (place(0, water=True)[0], grounds[0].top + 0.06), 0.36 * size, light)
        elif extra == "boat":
            _boat(canvas, rng, place(0.26, water=True), 0.26 * size, light)
        elif extra == "house":
            _house(canvas, rng, place(0.2), 0.23 * size, light)
        elif extra == "tree":
            _tree(canvas, rng, place(0.3), 0.34 * size, light)
        elif extra == "palm tree":
            _palm(canvas, rng, place(0.4), 0.42 * size, light)
        elif extra == "cactus":
            _cactus(canvas, place(0.3), 0.32 * size, light)


def weather(canvas: Canvas, rng: random.Random, kind: str, light: Light) -> None:
    """Let it rain or snow over everything."""
    if kind == "rain":
        for _ in range(round(70 * canvas.aspect)):
            x, y = rng.uniform(-0.1, canvas.aspect), rng.uniform(-0.05, 1)
            canvas.line([(x, y), (x + 0.025, y + 0.08)], mix(light.sky[-1], (225, 235, 250), 0.55), 0.007)
    elif kind == "snowfall":
        for _ in range(round(80 * canvas.aspect)):
            canvas.dot(
                (rng.uniform(0, canvas.aspect), rng.uniform(0, 1)),
                rng.uniform(0.006, 0.014),
                mix(light.on((255, 255, 255)), (255, 255, 255), 0.6),
            )
