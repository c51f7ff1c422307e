"""What can be in a picture, chosen by a seed: landscapes, and coloured things on a coloured background.

Everything the pocket family is trained and judged on is a `Picture`: the drawing (`draw`), the words (`captions`) and
the judging (`detector`) all start from one. Combinations that are kept for judging never come out of `sample`.
"""

import hashlib
import random
from dataclasses import dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (37, 99, 235),
    "yellow": (250, 204, 21),
    "orange": (249, 115, 22),
    "purple": (147, 51, 234),
    "pink": (244, 114, 182),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "star", "heart")
SUBJECTS = ("cat", "rabbit", "fish", "bird", "butterfly", "flower", "apple", "mushroom", "car", "rocket")
SIZES = ("small", "", "large")
RELATIONS = ("left of", "right of", "above", "below")
STYLES = ("", "flat", "watercolour", "pixel art", "line art", "neon")

PLACES = ("beach", "sea", "mountains", "hills", "forest", "desert", "city", "snow")
TIMES = ("day", "sunset", "night", "dawn")
WEATHERS = ("", "cloudy", "rain", "snowfall", "fog")

# Shown exactly when they are named.
NAMED_EXTRAS: dict[str, tuple[str, ...]] = {
    "moon": PLACES,
    "boat": ("beach", "sea"),
    "lighthouse": ("beach", "sea"),
    "house": ("hills", "mountains", "snow", "forest", "desert"),
    "tree": ("hills", "mountains", "desert"),
    "palm tree": ("beach", "desert"),
    "cactus": ("desert",),
    "balloon": ("hills", "mountains", "desert", "sea", "city"),
    "rainbow": ("hills", "mountains", "sea", "forest"),
    "neon lights": ("city",),
}
# Shown by chance, and then sometimes named.
CHANCE_EXTRAS = ("sun", "stars", "clouds", "birds")
EXTRAS = (*NAMED_EXTRAS, *CHANCE_EXTRAS)
NIGHT_ONLY = ("moon", "stars", "neon lights")
NEVER_AT_NIGHT = ("sun", "rainbow", "birds", "balloon")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing of an arrangement; `kind` is of SHAPES or SUBJECTS, `size` of SIZES."""

    kind: str
    colour: str
    size: str = ""


@dataclass(frozen=True, slots=True)
class Arrangement:
    """One thing, two in a relation (the first is `relation` the second), or `count` of the same."""

    background: str
    items: tuple[Item, ...]
    relation: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Scene:
    """A landscape; `extras` is a sorted tuple of EXTRAS."""

    place: str
    time: str
    weather: str = ""
    extras: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """What is in a picture, its style, and the seed of everything left to chance (layout, hues)."""

    what: Scene | Arrangement
    style: str = ""
    seed: int = 0


def held_out(*names: str) -> bool:
    """Whether a combination is kept for judging: about one in twelve, by a hash, the same everywhere.

    Arguments: colour, shape and background of a thing; or place, time and extra of a landscape. Neon lights have one
    place and one time only, so they are never kept.
    """
    salt = ("pocket 2667",) if names[0] in PLACES else ()  # one that keeps something of moon, boat and house
    return "neon lights" not in names and hashlib.sha256("/".join((*salt, *names)).encode()).digest()[0] < 21


def has_held_out(picture: Picture) -> bool:
    """Whether any combination in the picture is kept for judging."""
    what = picture.what
    if isinstance(what, Scene):
        return any(held_out(what.place, what.time, extra) for extra in what.extras)
    return any(held_out(item.colour, item.kind, what.background) for item in what.items)


def possible_extras(place: str, time: str) -> list[str]:
    """The named extras that can stand in a place at a time."""
    return [
        extra
        for extra, places in NAMED_EXTRAS.items()
        if place in places
        and not (extra in NIGHT_ONLY and time != "night")
        and not (extra in NEVER_AT_NIGHT and time == "night")
    ]


def _scene(rng: random.Random) -> Scene:
    place, time = rng.choice(PLACES), rng.choice(TIMES)
    weather = rng.choice(WEATHERS[1:]) if rng.random() < 0.15 else ""
    extras: set[str] = set()
    possible = possible_extras(place, time)
    if weather in ("rain", "snowfall", "fog"):
        hidden = possible if time == "night" else ("moon", "rainbow", "balloon")
        possible = [extra for extra in possible if extra not in hidden]
    wanted = rng.choices((0, 1, 2), (0.35, 0.5, 0.15))[0]
    extras.update(rng.sample(possible, min(wanted, len(possible))))
    clear = weather in ("", "cloudy")
    if clear:
        if time != "night" and rng.random() < (0.75 if time == "sunset" else 0.5):
            extras.add("sun")
        if time == "night" and rng.random() < 0.7:
            extras.add("stars")
        if time != "night" and rng.random() < 0.12:
            extras.add("birds")
    if weather == "cloudy" or (clear and rng.random() < 0.25):
        extras.add("clouds")
    return Scene(place, time, weather, tuple(sorted(extras)))


def _item(rng: random.Random, background: str, kinds: tuple[str, ...]) -> Item:
    colour = rng.choice([name for name in COLOURS if name != background])
    size = rng.choices(SIZES, (0.2, 0.5, 0.3))[0]
    return Item(rng.choice(kinds), colour, size)


def _arrangement(rng: random.Random) -> Arrangement:
    background = rng.choice(list(COLOURS))
    form = rng.choices(("shape", "subject", "two", "several"), (0.34, 0.24, 0.34, 0.08))[0]
    if form == "two":
        return Arrangement(
            background, (_item(rng, background, SHAPES), _item(rng, background, SHAPES)), rng.choice(RELATIONS)
        )
    if form == "several":
        item = _item(rng, background, SHAPES)
        return Arrangement(background, (Item(item.kind, item.colour),), count=rng.randint(2, 4))
    return Arrangement(background, (_item(rng, background, SHAPES if form == "shape" else SUBJECTS),))


def sample(seed: int) -> Picture:
    """Choose a training picture; the same seed gives the same picture, and none holds a combination kept for judging."""
    rng = random.Random(f"pocket {seed}")
    while True:
        what = _scene(rng) if rng.random() < 0.55 else _arrangement(rng)
        style = rng.choice(STYLES[1:]) if rng.random() < 0.25 else ""
        picture = Picture(what, style, rng.getrandbits(32))
        if not has_held_out(picture):
            return picture
