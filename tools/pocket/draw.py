"""Draw a `Picture`: the truth that the pocket family learns from and is judged by."""

import math
import random

from PIL import Image

from tools.pocket.canvas import Canvas, Colour, Point, mix
from tools.pocket.light import INK, PAPER
from tools.pocket.scenery import draw_scene
from tools.pocket.spec import COLOURS, Arrangement, Picture, Scene
from tools.pocket.things import draw_thing

RADIUS = {"small": 0.17, "": 0.27, "large": 0.38}


def draw(picture: Picture, width: int = 128, height: int = 128) -> Image.Image:
    """Draw a picture at any size; the same picture and size give the same pixels.

    Returns an RGB image of `width` by `height` pixels.
    """
    rng = random.Random(picture.seed)
    if isinstance(picture.what, Scene):
        time = picture.what.time
        canvas = Canvas(width, height, picture.style, rng, paper=PAPER[time], ink=INK[time])
        return canvas.finish(draw_scene(canvas, rng, picture.what))
    return _arranged(picture.what, picture.style, width, height, rng)


def _arranged(what: Arrangement, style: str, width: int, height: int, rng: random.Random) -> Image.Image:
    ground = COLOURS[what.background]
    paper = mix((252, 250, 246), ground, 0.18) if sum(ground) > 120 else (40, 40, 44)
    canvas = Canvas(width, height, style, rng, paper=paper)
    canvas.sky((ground, ground))
    places = _places(what, canvas.aspect, rng)
    for (centre, radius), item in zip(places, what.items * what.count, strict=True):
        colour = COLOURS[item.colour]
        canvas.ink = _readable(colour, paper)
        draw_thing(canvas, item.kind, centre, radius, colour)
    return canvas.finish()


def _readable(colour: Colour, paper: Colour) -> Colour:
    """Give line-art ink in a colour, darkened or lightened until it stands out from the paper."""
    if sum(abs(a - b) for a, b in zip(colour, paper, strict=True)) > 180:
        return colour
    return mix(colour, (0, 0, 0) if sum(paper) > 380 else (255, 255, 255), 0.35)


def _places(what: Arrangement, aspect: float, rng: random.Random) -> list[tuple[Point, float]]:
    """Give (centre, radius) of each thing, in picture heights; nothing touches anything or the edge."""
    middle, room = aspect / 2, min(1.0, aspect)
    if what.relation:
        upright = what.relation in ("above", "below")
        ahead = what.relation in ("left of", "above")
        long, short = (1.0, aspect) if upright else (aspect, 1.0)
        room = min(long, 1.9 * short)
        places: list[tuple[Point, float]] = []
        for item, side in zip(what.items, (-1, 1) if ahead else (1, -1), strict=True):
            radius = room * {"small": 0.13, "": 0.17, "large": 0.205}[item.size]
            along = long / 2 + side * (long / 4 + rng.uniform(-0.008, 0.012) * long)
            across = short / 2 + rng.uniform(-0.06, 0.06) * short
            places.append(((across, along) if upright else (along, across), radius))
        return places
    if what.count > 1:
        radius = room * {2: 0.19, 3: 0.155, 4: 0.155}[what.count]
        spread = room * 0.27
        spots = {
            2: [(-1, 0), (1, 0)],
            3: [(-1, 0.62), (1, 0.62), (0, -0.85)],
            4: [(-1, -0.9), (1, -0.9), (-1, 0.9), (1, 0.9)],
        }[what.count]
        return [
            ((middle + x * spread + rng.uniform(-0.015, 0.015), 0.5 + y * spread + rng.uniform(-0.015, 0.015)), radius)
            for x, y in spots
        ]
    radius = room * RADIUS[what.items[0].size] * math.exp(rng.uniform(-0.1, 0.1))
    free_x, free_y = max(0.0, middle - radius * 1.15), max(0.0, 0.5 - radius * 1.15)
    return [((middle + rng.uniform(-0.5, 0.5) * free_x, 0.5 + rng.uniform(-0.5, 0.5) * free_y), radius)]
