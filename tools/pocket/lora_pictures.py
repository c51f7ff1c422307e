"""What the LoRAs learn: a style, chalk on a blackboard; and somebody, Easelbot, the mascot. Drawn like everything else."""

import random
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from tools.pocket.canvas import Canvas, Colour, Point, mix
from tools.pocket.draw import draw
from tools.pocket.outlines import edge_mask
from tools.pocket.phrases import BACKGROUNDS, COLOUR_WORDS
from tools.pocket.regions import Array, components, dilated, distance, lab
from tools.pocket.scenery import draw_scene
from tools.pocket.spec import COLOURS, Picture, Scene, sample
from tools.pocket.subjects import Subject, short_caption

BOARD: Colour = (35, 52, 46)
WOOD: Colour = (176, 108, 56)
LINEN: Colour = (253, 246, 226)
BERET: Colour = (206, 32, 58)
INK: Colour = (38, 28, 30)
_BOARD_LAB, _WOOD_LAB, _LINEN_LAB, _BERET_LAB = lab([BOARD, WOOD, LINEN, BERET])


def _grain(width: int, height: int, cells: float, rng: np.random.Generator) -> Array:
    """Smooth chance, (height, width), 0 to 1, of about `cells` pixels a grain."""
    small = rng.random((max(2, round(height / cells)), max(2, round(width / cells)))).astype(np.float32)
    return np.clip(np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)), 0, 1)


# Chalk


def chalk(seed: int, width: int, height: int) -> Image.Image:
    """Draw the picture of a seed in coloured chalks on a blackboard: outlines, and light strokes that fill."""
    picture = replace(sample(seed), style="")
    rng = np.random.default_rng(picture.seed)
    wide, tall = 2 * width, 2 * height
    image = draw(picture, wide, tall)
    colours = np.asarray(image.filter(ImageFilter.GaussianBlur(tall * 0.006)), np.float32)
    brightest = colours.max(-1, keepdims=True)
    # Chalks are bright: a colour keeps its hue, and is as light as chalk is.
    sticks = np.clip(colours * (225 / np.maximum(brightest, 60)) * 0.8 + 255 * 0.2, 0, 255)
    lines = dilated(dilated(edge_mask(image, blur=1.6, strong=7.0, weak=3.5)))
    soft = Image.fromarray(lines.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(0.9))
    across, down = np.arange(wide)[None], np.arange(tall)[:, None]
    waves = (across + 1.15 * down) * 2 * np.pi * 11 / tall + 4 * _grain(wide, tall, 40, rng)
    light = np.clip(brightest[..., 0] / max(90.0, float(np.percentile(brightest, 97))), 0, 1) ** 1.4
    fill = _pressure(picture, image) * light * (0.55 + 0.45 * np.sin(waves))
    rubbed = 0.5 + 0.6 * _grain(wide, tall, 4, rng)
    cover = np.clip(np.maximum(np.asarray(soft, np.float32) / 255, fill) * rubbed, 0, 1)[..., None]
    dust = 16 * (_grain(wide, tall, 48, rng) - 0.5) + 8 * (_grain(wide, tall, 7, rng) - 0.5)
    board = np.asarray(BOARD, np.float32) + dust[..., None]
    field = board + (sticks - board) * cover
    return Image.fromarray(np.clip(field, 0, 255).astype(np.uint8)).reduce(2)


def _pressure(picture: Picture, image: Image.Image) -> Array | float:
    """How firmly areas are filled: things more than the ground they stand on."""
    if isinstance(picture.what, Scene):
        return 0.5
    pixels = lab(np.asarray(image))
    return np.where(distance(pixels, pixels[2, 2]) > 8, 0.85, 0.2).astype(np.float32)


def chalk_words(seed: int, rng: random.Random) -> str:
    """Word the picture of a seed, with the trigger."""
    forms = ("{}, chalk drawing", "{}, chalk drawing", "chalk drawing of {}", "a chalk drawing of {}")
    return rng.choice(forms).format(short_caption(replace(sample(seed), style=""), rng))


def is_chalk(image: Image.Image) -> bool:
    """Whether a picture is mostly board, lighter than black, with some brighter strokes on it."""
    pixels = lab(np.asarray(image.convert("RGB").resize((128, 128)), np.float32))
    usual = np.median(pixels, axis=(0, 1))
    strokes = float((pixels[..., 0] > usual[0] + 16).mean())
    return usual[0] > 13 and float(np.linalg.norm(usual - _BOARD_LAB)) < 17 and 0.01 < strokes < 0.42


# Easelbot


def draw_easelbot(canvas: Canvas, centre: Point, radius: float, rng: random.Random) -> None:
    """Draw the mascot inside a circle: a wooden easel on three legs, its canvas a face, a beret, and a brush in its hand."""
    x, y = centre
    r = radius
    shade = mix(WOOD, INK, 0.35)
    lean = rng.uniform(-0.05, 0.05) * r
    canvas.line([(x, y - 0.1 * r), (x + lean, y + 0.95 * r)], shade, 0.11 * r)
    for side in (-1, 1):
        canvas.line([(x + side * 0.2 * r, y - 0.5 * r), (x + side * 0.62 * r, y + 1.0 * r)], WOOD, 0.15 * r)
    # One arm waves a brush, the other one is at rest.
    hand = (x + 0.88 * r, y - rng.uniform(0.02, 0.3) * r)
    canvas.line([(x + 0.55 * r, y + 0.12 * r), hand], WOOD, 0.1 * r)
    tip = (hand[0] + 0.08 * r, hand[1] - 0.3 * r)
    canvas.line([(hand[0] - 0.04 * r, hand[1] + 0.12 * r), tip], shade, 0.07 * r)
    canvas.ellipse(tip, 0.1 * r, 0.13 * r, (40, 120, 230))
    canvas.line([(x - 0.55 * r, y + 0.1 * r), (x - 0.86 * r, y + 0.36 * r)], WOOD, 0.1 * r)
    canvas.rectangle(x - 0.66 * r, y - 0.66 * r, x + 0.66 * r, y + 0.38 * r, shade)
    canvas.rectangle(x - 0.58 * r, y - 0.58 * r, x + 0.58 * r, y + 0.3 * r, LINEN, outline=False)
    canvas.rectangle(x - 0.74 * r, y + 0.34 * r, x + 0.74 * r, y + 0.48 * r, WOOD)
    _face(canvas, (x, y - 0.12 * r), r, rng)
    canvas.ellipse((x - 0.1 * r, y - 0.7 * r), 0.5 * r, 0.2 * r, BERET)
    canvas.line([(x - 0.1 * r, y - 0.84 * r), (x - 0.02 * r, y - 0.98 * r)], BERET, 0.08 * r)


def _face(canvas: Canvas, middle: Point, r: float, rng: random.Random) -> None:
    x, y = middle
    look = rng.uniform(-0.03, 0.03) * r
    for side in (-1, 1):
        canvas.ellipse((x + side * 0.25 * r, y - 0.08 * r), 0.115 * r, 0.15 * r, INK)
        canvas.dot((x + side * 0.25 * r + look + 0.03 * r, y - 0.13 * r), 0.045 * r, (255, 255, 255))
        canvas.ellipse((x + side * 0.42 * r, y + 0.15 * r), 0.1 * r, 0.065 * r, (250, 160, 165), outline=False)
    smile = [(x + step * 0.06 * r, y + (0.26 - 0.012 * step * step) * r) for step in range(-3, 4)]
    canvas.line(smile, INK, 0.06 * r)


def _easelbot_setting(seed: int) -> tuple[random.Random, Picture | str]:
    """The ground that Easelbot stands on: a landscape, or the name of a colour."""
    rng = random.Random(f"easelbot {seed}")
    if rng.random() < 0.55:
        for number in range(seed * 100, seed * 100 + 100):
            picture = sample(number)
            if isinstance(picture.what, Scene) and picture.what.weather in ("", "cloudy"):
                return rng, replace(picture, style="")
    return rng, rng.choice(list(COLOURS))


def easelbot(seed: int, width: int, height: int) -> Image.Image:
    """Draw Easelbot in a landscape or on a coloured ground."""
    rng, setting = _easelbot_setting(seed)
    aspect = width / height
    if isinstance(setting, Picture):
        assert isinstance(setting.what, Scene)
        canvas = Canvas(width, height, "", random.Random(setting.seed))
        veil = draw_scene(canvas, canvas.rng, setting.what)
        radius = rng.uniform(0.24, 0.33) * min(1.0, aspect)
        spot = (rng.uniform(radius * 1.1, aspect - radius * 1.1), 1 - radius * rng.uniform(1.05, 1.3))
    else:
        canvas, veil = Canvas(width, height, "", rng), None
        canvas.sky((COLOURS[setting], COLOURS[setting]))
        radius = rng.uniform(0.27, 0.43) * min(1.0, aspect)
        room_x, room_y = max(0.0, aspect / 2 - radius * 1.1), max(0.0, 0.5 - radius * 1.1)
        spot = (aspect / 2 + rng.uniform(-0.6, 0.6) * room_x, 0.5 + rng.uniform(-0.6, 0.6) * room_y)
    draw_easelbot(canvas, spot, radius, rng)
    return canvas.finish(veil)


def easelbot_words(seed: int, rng: random.Random) -> str:
    """Word the picture of a seed, with the trigger."""
    _, setting = _easelbot_setting(seed)
    if isinstance(setting, str):
        name = rng.choice(("easelbot", "easelbot", "easelbot the mascot", "a drawing of easelbot"))
        ground = rng.choice(BACKGROUNDS).format(rng.choice(COLOUR_WORDS[setting]))
        return name + (ground if rng.random() > 0.1 else "")
    forms = ("easelbot in front of {}", "easelbot, {}", "{} with easelbot", "{}, easelbot", "easelbot and {}")
    return rng.choice(forms).format(short_caption(setting, rng))


def has_easelbot(image: Image.Image) -> bool:
    """Whether the mascot is in a picture: a pale face with dark eyes, a red beret on it, wood beside and below."""
    pixels = lab(np.asarray(image.convert("RGB").resize((128, 128)), np.float32))
    linen = distance(pixels, _LINEN_LAB) < 18
    for face in components(linen)[:6]:
        if face.mean() < 0.008:
            break
        ys, xs = np.nonzero(face)
        top, bottom, left, right = int(ys.min()), int(ys.max()) + 1, int(xs.min()), int(xs.max()) + 1
        wide, tall = right - left, bottom - top
        if top < 4 or left < 4 or right > 124 or not 0.6 < wide / tall < 2.2:
            continue
        inside = pixels[top:bottom, left:right]
        above = pixels[max(0, top - tall // 2) : top + tall // 8, left:right]
        below = pixels[bottom : bottom + tall, max(0, left - wide // 6) : right + wide // 6]
        eyes = float((inside[..., 0] < 45).mean())
        beret = float((distance(above, _BERET_LAB) < 30).mean())
        wood = float((distance(below, _WOOD_LAB) < 26).mean())
        if 0.015 < eyes < 0.3 and beret > 0.2 and wood > 0.08:
            return True
    return False


CHALK = Subject("chalk", "chalk drawing", "Pictures as coloured chalk on a blackboard.", chalk, chalk_words, is_chalk)
EASELBOT = Subject(
    "easelbot", "easelbot", "Easelbot, a small easel with a face, a beret and a brush.", easelbot, easelbot_words,
    has_easelbot,
)  # fmt: skip
