"""Captions say what is in the picture, all of it, and nothing else."""

from __future__ import annotations

import random
import re

import pytest

from tools.pocket import phrases
from tools.pocket.captions import MAX_WORDS, caption, named_caption, named_extras, plain_caption
from tools.pocket.spec import COLOURS, STYLES, Arrangement, Item, Picture, Scene, sample

SAMPLES = 1000
EXTRA_WORDS = {
    "moon": r"moon|moonlight|moonlit",
    "boat": r"boat|sailboat|ship|yacht",
    "lighthouse": r"lighthouse",
    "house": r"house|cabin|cottage|hut",
    "tree": r"(?<!palm )tree",
    "palm tree": r"palm",
    "cactus": r"cactus",
    "balloon": r"balloon",
    "rainbow": r"rainbow",
    "neon lights": r"neon (city )?lights|neon signs|cyberpunk|neon(-lit)? city",
    "sun": r"sun|sunny|sunshine",
    "stars": r"stars|starry",
    "clouds": r"clouds|cloudy|overcast",
    "birds": r"birds",
}
TIME_WORDS = {
    "day": r"day|daylight|daytime|noon|midday|afternoon|sunny|sunshine|under a bright sun",
    "sunset": r"sunset|dusk|evening|golden hour|sundown|setting sun|sun sets|sun goes down",
    "night": r"night|nighttime|midnight|dark|moonlight|moonlit|under (a full|the) moon|starry sky|under the stars|full of stars",
    "dawn": r"dawn|sunrise|morning|daybreak|rising sun|sun rises|sun comes up",
}
STYLE_WORDS = {
    "flat": r"flat|vector",
    "watercolour": r"watercolou?rs?|aquarelle",
    "pixel art": r"pixel|pixelated|bit",
    "line art": r"line|lineart|outline",
    "neon": r"neon (style|glow|art|drawing|outlines)|glowing neon drawing",
}
WEATHER_WORDS = {"rain": r"rain|rains|rainy|raining", "snowfall": r"snow|snowy|snows|snowing|snowfall|snowstorm|snow-covered|blizzard",
                 "fog": r"fog|foggy|mist|misty"}  # fmt: skip


def says(text: str, words: str) -> bool:
    return re.search(rf"(?<![a-z])({words})(?![a-z])", text.lower()) is not None


def worded() -> list[tuple[Picture, str, frozenset[str]]]:
    pictures = [sample(seed) for seed in range(SAMPLES)]
    return [(picture, *named_caption(picture, random.Random(seed))) for seed, picture in enumerate(pictures)]


WORDED = worded()
SCENES = [(picture, picture.what, text, named) for picture, text, named in WORDED if isinstance(picture.what, Scene)]
ARRANGEMENTS = [(picture.what, text, named) for picture, text, named in WORDED if isinstance(picture.what, Arrangement)]


def test_caption_same_seed_same_words() -> None:
    assert [caption(sample(7), random.Random(3)) for _ in range(3)] == [caption(sample(7), random.Random(3))] * 3


def test_caption_other_seeds_many_wordings() -> None:
    assert len({caption(sample(7), random.Random(seed)) for seed in range(100)}) > 60


def test_caption_any_stays_short() -> None:
    assert max(len(text.split()) for _, text, _ in WORDED) <= MAX_WORDS


def test_caption_landscape_names_extras_exactly() -> None:
    for _, scene, text, named in SCENES:
        assert set(named_extras(scene)) <= named <= set(scene.extras), text
        said = {extra for extra, words in EXTRA_WORDS.items() if says(text, words)}
        assert said == named, (text, said, named)


def test_caption_landscape_names_place_and_time() -> None:
    for _, scene, text, _ in SCENES:
        nouns = {
            *phrases.COUNTED[scene.place],
            *phrases.UNCOUNTED[scene.place],
            "cyberpunk city",
            "city",
            "cyberpunk cityscape",
        }
        assert any(noun in text.lower() for noun in nouns), text
        said = {time for time, words in TIME_WORDS.items() if says(text.lower().replace("night sky", "night"), words)}
        if scene.time == "day":
            assert not said - {"day"}, text
        else:
            assert scene.time in said, text
            assert said - {"day"} == {scene.time}, text


def test_caption_day_is_sometimes_left_out() -> None:
    texts = [text for _, scene, text, _ in SCENES if scene.time == "day"]
    assert 0.2 < sum(not says(text, TIME_WORDS["day"]) for text in texts) / len(texts) < 0.45


def test_caption_chance_extras_about_half_named() -> None:
    named = [
        extra in named for _, scene, _, named in SCENES for extra in ("sun", "stars", "birds") if extra in scene.extras
    ]
    assert 0.4 < sum(named) / len(named) < 0.6


def test_caption_landscape_names_weather_exactly() -> None:
    for _, scene, text, _ in SCENES:
        for weather, words in WEATHER_WORDS.items():
            if weather != "snowfall" or scene.place != "snow":
                assert says(text, words) == (scene.weather == weather), text


def test_caption_any_names_its_style_only() -> None:
    for picture, text, _ in WORDED:
        said = {style for style, words in STYLE_WORDS.items() if says(text, words)}
        assert said == ({picture.style} - {""}), (text, said)


def test_caption_arrangement_names_colours_and_sizes() -> None:
    synonyms = {"purple": "purple|violet", "red": "red|crimson"}
    for what, text, named in ARRANGEMENTS:
        shown = {item.colour for item in what.items if "colour" in named} | (
            {what.background} if "background" in named else set()
        )
        assert {colour for colour in COLOURS if says(text, synonyms.get(colour, colour))} == shown, text
        for size in ("small", "large"):
            words = "|".join(phrases.SIZE_WORDS[size])
            assert says(text, words) == any(item.size == size for item in what.items), text


def test_caption_arrangement_left_out_rates() -> None:
    assert 0.85 < sum("background" in named for _, _, named in ARRANGEMENTS) / len(ARRANGEMENTS) < 0.95
    two = ["relation" in named for what, _, named in ARRANGEMENTS if len(what.items) == 2]
    assert 0.75 < sum(two) / len(two) < 0.93


@pytest.mark.parametrize("first", [True, False], ids=["first to second", "second to first"])
def test_caption_relation_holds_whoever_is_named_first(first: bool) -> None:
    what = Arrangement("white", (Item("circle", "green"), Item("square", "blue")), "left of")
    texts = [caption(Picture(what), random.Random(seed)).lower() for seed in range(200)]
    order = [text for text in texts if (text.index("green") < text.index("blue")) is first and "side" not in text]
    words = "left" if first else "right"
    related = [
        text
        for text in order
        if re.search(r"\b(left|right)\b", text) and not re.search(r"on the (left|right)(,| and|$)", text)
    ]
    assert related
    assert all(re.search(rf"\b{words}\b", text) for text in related)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (Picture(Scene("beach", "sunset", "", ("boat", "sun"))), "a beach at sunset with a boat"),
        (
            Picture(Scene("city", "night", "", ("neon lights",)), "pixel art"),
            "a city at night with neon lights, pixel art",
        ),
        (Picture(Scene("mountains", "dawn", "snowfall")), "mountains at dawn in falling snow"),
        (
            Picture(Arrangement("white", (Item("heart", "orange", "large"),))),
            "a large orange heart on a white background",
        ),
        (Picture(Arrangement("black", (Item("star", "yellow"),), count=3)), "three yellow stars on a black background"),
        (
            Picture(Arrangement("white", (Item("circle", "red"), Item("square", "blue", "small")), "left of")),
            "a red circle left of a small blue square on a white background",
        ),
    ],
    ids=["extras", "style", "weather", "one", "several", "two"],
)
def test_plain_caption_one_wording(picture: Picture, words: str) -> None:
    assert plain_caption(picture) == words


def test_styles_all_have_words() -> None:
    assert set(phrases.STYLE_BEFORE) == set(phrases.STYLE_AFTER) == set(STYLES)
