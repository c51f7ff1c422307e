"""Put a picture into words, many ways: what members type, from "beach, sunset, boat" to a whole sentence.

Everything a caption says is in the picture. What it may leave out: an extra shown by chance, "by day", now and then
the background, the colour of a subject ("a cat") or the relation of two things ("X and Y").
"""

import random
import re
from collections.abc import Iterable

from . import phrases
from .spec import CHANCE_EXTRAS, SHAPES, Arrangement, Item, Picture, Scene

MAX_WORDS = 24
_AN = re.compile(r"\b([Aa]) (?=[aeiou8])")
_A = re.compile(r"\b([Aa])n (?=[^aeiou8\s])")
_ARTICLE = re.compile(r"^(a|an|the) ")


def caption(picture: Picture, rng: random.Random) -> str:
    """Word a picture as someone might type it; the same `rng` state gives the same words, at most MAX_WORDS."""
    return named_caption(picture, rng)[0]


def named_caption(picture: Picture, rng: random.Random) -> tuple[str, frozenset[str]]:
    """Word a picture, and tell what may be left out but was named: extras, "background", "colour",
    "relation"; and "swapped" where the second of two things is named first.
    """
    while True:
        what = picture.what
        body, named = _scene(what, rng) if isinstance(what, Scene) else _arrangement(what, rng)
        text = _finish(_styled(_adorned(body, what, rng), picture.style, rng), rng)
        if len(text.split()) <= MAX_WORDS:
            return text, frozenset(named)


def plain_caption(picture: Picture) -> str:
    """Word a picture in the one way used in judging: its style, everything always shown, and no chance extra."""
    what = picture.what
    if isinstance(what, Scene):
        place = {"sea": "the sea", "mountains": "mountains", "hills": "hills", "snow": "a snowy field"}.get(
            what.place, f"a {what.place}"
        )
        time = "by day" if what.time == "day" else f"at {what.time}"
        weather = {
            "cloudy": " under a cloudy sky",
            "rain": " in the rain",
            "snowfall": " in falling snow",
            "fog": " in the fog",
        }
        extras = [extra if extra.endswith("s") and extra != "cactus" else f"a {extra}" for extra in named_extras(what)]
        body = f"{place} {time}{weather.get(what.weather, '')}" + (f" with {' and '.join(extras)}" if extras else "")
    else:
        items = [" ".join(filter(None, ("a", item.size, item.colour, item.kind))) for item in what.items]
        if what.count > 1:
            body = f"{('two', 'three', 'four')[what.count - 2]} {what.items[0].colour} {_plural(what.items[0].kind)}"
        else:
            body = f" {what.relation} ".join(items)
        body += f" on a {what.background} background"
    style = {"watercolour": "watercolour painting", "flat": "flat design", "neon": "neon style"}.get(
        picture.style, picture.style
    )
    return _AN.sub(r"\1n ", body) + (f", {style}" if style else "")


def named_extras(scene: Scene) -> list[str]:
    """The extras of a landscape that every caption names."""
    return [extra for extra in scene.extras if extra not in CHANCE_EXTRAS]


# Landscapes


def _scene(scene: Scene, rng: random.Random) -> tuple[str, set[str]]:
    chance = [extra for extra in scene.extras if extra in CHANCE_EXTRAS and rng.random() < 0.5]
    left = named_extras(scene) + [extra for extra in chance if not (extra == "clouds" and scene.weather == "cloudy")]
    rng.shuffle(left)
    named = set(left) | ({"clouds"} if scene.weather == "cloudy" else set())
    form = rng.choices(("plain", "over", "extra first", "list"), (0.4, 0.18, 0.27, 0.15))[0]
    if form == "list":
        return _scene_list(scene, left, rng), named
    if form == "over" and (scene.time != "day" or rng.random() < 0.3):
        time = rng.choice(phrases.TIME_OVER[scene.time])
        if "stars" in left and scene.time == "night" and rng.random() < 0.6:
            left.remove("stars")
            time = rng.choice(("a starry night over", "starry night over", "a starry sky over"))
        return _clauses(f"{time} {_place(scene, left, rng, bare=False)}", scene, "", left, rng), named
    if form == "extra first" and left:
        extra = left.pop(0)
        where = (
            rng.choice(phrases.EXTRA_WHERE[extra])
            if extra != "boat" or scene.place == "sea"
            else rng.choice(("by", "near", "off"))
        )
        start = f"{_extra(extra, rng)} {where} {_place(scene, left, rng, bare=False)}"
        return _clauses(start, scene, _time(scene, left, rng), left, rng), named
    start = _place(scene, left, rng, bare=True)
    return _clauses(start, scene, _time(scene, left, rng), left, rng), named


def _clauses(start: str, scene: Scene, time: str, left: list[str], rng: random.Random) -> str:
    """Put time, weather and the extras still unnamed after the start, in any order."""
    parts = [time] if time else []
    if scene.weather and not _says_weather(start, scene):
        fitting = phrases.WEATHER_PHRASES[scene.weather]
        if scene.weather == "snowfall" and scene.place not in ("sea", "snow"):
            fitting = (*fitting, "covered in snow", "covered in snow", "covered by snow")
        parts.append(rng.choice(fitting))
    if left:
        parts.append(
            rng.choice(("with ", "with ", "with ", "and ")) + " and ".join(_extra(extra, rng) for extra in left)
        )
    rng.shuffle(parts)
    return " ".join([start, *parts])


def _says_weather(start: str, scene: Scene) -> bool:
    return scene.place != "snow" and any(word in start.split() for word in phrases.WEATHER_ADJECTIVES[scene.weather])


def _place(scene: Scene, left: list[str], rng: random.Random, *, bare: bool) -> str:
    """Name the place with its article, which may go missing where it stands `bare` at the start."""
    noun, counted = _place_noun(scene, left, rng)
    if scene.weather and scene.place != "snow" and rng.random() < 0.4:
        noun = f"{rng.choice(phrases.WEATHER_ADJECTIVES[scene.weather])} {noun}"
    if bare and rng.random() < 0.25:
        return noun
    if counted:
        return f"{'a' if rng.random() < 0.6 else 'the'} {noun}"
    return noun if rng.random() < 0.5 else f"the {noun}"


def _place_noun(scene: Scene, left: list[str], rng: random.Random) -> tuple[str, bool]:
    if "neon lights" in left and rng.random() < 0.3:
        if rng.random() < 0.6:
            left.remove("neon lights")
            return rng.choice(phrases.NEON_CITIES), True
        return "cyberpunk city", True
    counted = rng.random() < (0.3 if scene.place in ("mountains", "hills") else 0.8)
    return rng.choice((phrases.COUNTED if counted else phrases.UNCOUNTED)[scene.place]), counted


def _time(scene: Scene, left: list[str], rng: random.Random) -> str:
    """Say the time; "by day" may be left out, and words such as "on a starry night" name an extra as well."""
    for extra in list(left):
        both = phrases.TIME_WITH_EXTRA.get((scene.time, extra))
        if both and rng.random() < 0.3:
            left.remove(extra)
            return rng.choice(both)
    if scene.time == "day" and rng.random() < 0.35:
        return ""
    return rng.choice(phrases.TIME_PHRASES[scene.time])


def _extra(extra: str, rng: random.Random) -> str:
    noun = rng.choice(phrases.EXTRA_NOUNS[extra])
    return noun[1:] if noun.startswith("-") else f"a {noun}"


def _scene_list(scene: Scene, left: list[str], rng: random.Random) -> str:
    """Name everything one after the other: "beach, sunset, boat"."""
    parts = [rng.choice(phrases.EXTRA_NOUNS[extra]).removeprefix("-").removeprefix("the ") for extra in left]
    if scene.time != "day" or rng.random() > 0.35:
        parts.append(rng.choice(phrases.TIME_NOUNS[scene.time]))
    if scene.weather:
        parts.append(rng.choice(phrases.WEATHER_NOUNS[scene.weather]))
    rng.shuffle(parts)
    place = _place_noun(scene, [], rng)[0]
    parts.insert(0 if rng.random() < 0.6 else rng.randint(0, len(parts)), place)
    return (", " if rng.random() < 0.9 else " ").join(parts)


# Things on a background


def _arrangement(what: Arrangement, rng: random.Random) -> tuple[str, set[str]]:
    named = {"colour"}
    first = what.items[0]
    if what.count > 1:
        body = f"{rng.choice(phrases.COUNTS[what.count])} {_item(first, rng, many=True)}"
    elif len(what.items) == 2:
        body, told = _two(what, rng)
        named |= told
    else:
        unsaid = first.kind not in SHAPES and rng.random() < 0.07
        if unsaid:
            named.discard("colour")
        body = _article(_item(Item(first.kind, "", first.size) if unsaid else first, rng), rng)
    if rng.random() < 0.1:
        return body, named
    background = rng.choice(phrases.COLOUR_WORDS[what.background])
    named.add("background")
    if rng.random() < 0.08:
        return f"on a {background} background{rng.choice((',', ''))} {body}", named
    return body + rng.choice(phrases.BACKGROUNDS).format(background), named


def _two(what: Arrangement, rng: random.Random) -> tuple[str, set[str]]:
    """Word two things and, mostly, how they stand; from either side."""
    items, relation, told = list(what.items), what.relation, set[str]()
    if rng.random() < 0.35:
        items, relation = items[::-1], phrases.OPPOSITE[relation]
        told.add("swapped")
    bare = rng.random() < 0.12
    first, second = (_item(item, rng) if bare else _article(_item(item, rng), rng) for item in items)
    form = rng.random()
    if form < 0.15:
        return f"{first}{rng.choice((' and ', ' and ', ' and ', ' with ', ', '))}{second}", told
    if form < 0.27:
        joint = rng.choice((" and ", ", "))
        return f"{first} {phrases.SIDES[relation]}{joint}{second} {phrases.SIDES[phrases.OPPOSITE[relation]]}", told | {
            "relation"
        }
    return f"{first} {rng.choice(phrases.RELATION_WORDS[relation])} {second}", told | {"relation"}


def _item(item: Item, rng: random.Random, *, many: bool = False) -> str:
    noun = rng.choice(phrases.KIND_NOUNS[item.kind])
    colour = rng.choice(phrases.COLOUR_WORDS[item.colour]) if item.colour else ""
    words = [rng.choice(phrases.SIZE_WORDS[item.size]), colour, _plural(noun) if many else noun]
    if item.kind == "circle" and noun == "circle" and rng.random() < 0.05:
        words[2] = "round circles" if many else "round circle"
    return " ".join(filter(None, words))


def _article(noun: str, rng: random.Random) -> str:
    article = rng.choices(("a", "", "the", "one"), (0.8, 0.1, 0.06, 0.04))[0]
    return f"{article} {noun}".strip()


def _plural(noun: str) -> str:
    if noun == "fish":
        return noun
    if noun.endswith("y"):
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("x", "s", "sh")) else "s")


# The whole


def _adorned(body: str, what: Scene | Arrangement, rng: random.Random) -> str:
    """Sometimes put a harmless adjective before the first noun."""
    if rng.random() > 0.14:
        return body
    words: Iterable[str] = phrases.ADJECTIVES if isinstance(what, Scene) else phrases.THING_ADJECTIVES
    adjective = rng.choice(list(words))
    return _ARTICLE.sub(rf"\1 {adjective} ", body)


def _styled(body: str, style: str, rng: random.Random) -> str:
    """Name the style before or after; without one, sometimes add the words people add."""
    if not style:
        if rng.random() < 0.2:
            body = f"{rng.choice(phrases.LEADS)} {body}"
        if rng.random() < 0.18:
            body += "".join(f", {word}" for word in rng.sample(phrases.QUALITY, rng.choice((1, 1, 2))))
        return body
    if rng.random() < 0.5:
        before = rng.choice(phrases.STYLE_BEFORE[style])
        return f"{before} {body if before.endswith(' of') else _ARTICLE.sub('', body)}"
    after = rng.choice(phrases.STYLE_AFTER[style])
    return body + (after if after.startswith(",") or not re.search(r", [^,]*$", body) else f",{after}")


def _finish(text: str, rng: random.Random) -> str:
    """Set the articles right; sometimes write a capital and a full stop."""
    text = _A.sub(r"\1 ", _AN.sub(r"\1n ", text))
    if rng.random() < 0.35:
        text = text[0].upper() + text[1:]
    return text + ("." if rng.random() < 0.2 else "")
