"""Choices and wildcards: what they expand to, and what is refused before anything is built from it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.errors import ConfigError, RequestError
from bot.prompts import weights
from bot.prompts.choices import NO_WILDCARDS, expand, read
from bot.prompts.wildcards import parse_wildcards

WILDCARDS = parse_wildcards(
    {
        "Animals": "a cat\n# nobody\n\na {big|small} dog, 50% #1\n__birds__",
        "birds": "an owl\na hen",
        "places/cities": "Rome",
    },
    origin="wildcards",
)


def drawn(text: str, seeds: int = 60) -> set[str]:
    scanned = read(text, WILDCARDS)
    found = {expand(scanned, WILDCARDS, seed) for seed in range(seeds)}
    assert max(map(len, found)) <= scanned.longest
    return found


@pytest.mark.parametrize(
    ("text", "possible"),
    [
        ("a {red|green} car", {"a red car", "a green car"}),
        ("{2$$a|b|c}", {"a, b", "a, c", "b, a", "b, c", "c, a", "c, b"}),
        ("{1-2$$ and $$a|b}!", {"a!", "b!", "a and b!", "b and a!"}),
        ("{2$${a|b}|c}", {"a, c", "b, c", "c, a", "c, b"}),
        ("{0-1$$a|b}c", {"c", "ac", "bc"}),
        ("{3::x|0::y}", {"x"}),
        ("{{a|b} c|d}", {"a c", "b c", "d"}),
        ("{ |very} cold", {" cold", "very cold"}),
        ("__ANIMALS__", {"a cat", "a big dog, 50% #1", "a small dog, 50% #1", "an owl", "a hen"}),
        ("{2$$ & $$__birds__}", {"an owl & a hen", "a hen & an owl"}),
        ("in __places/cities__", {"in Rome"}),
        ('{"colour": "{red|blue}", "size": 1}', {'{"colour": "red", "size": 1}', '{"colour": "blue", "size": 1}'}),
    ],
)
def test_expand_gives_every_possibility_and_nothing_else(text: str, possible: set[str]) -> None:
    assert drawn(text) == possible


@pytest.mark.parametrize(
    "text", ["a cat", "50% off // #3 $5", "a { b", "a } b", "{braces}", "{2::y}", "____", "snake_case __", "a|b", ":-}"]
)
def test_expand_text_without_choices_stays_as_typed(text: str) -> None:
    scanned = read(text, WILDCARDS)
    assert scanned.plain
    assert expand(scanned, WILDCARDS, 1) == text


def test_expand_escaped_signs_stand_as_themselves() -> None:
    assert drawn(r"\{a\|b\} {x|x}") == {"{a|b} x"}


def test_expand_same_seed_chooses_the_same() -> None:
    scanned = read("{a|b|c|d} __animals__ {2$$e|f|g}", WILDCARDS)
    assert [expand(scanned, WILDCARDS, seed) for seed in range(20)] == [
        expand(scanned, WILDCARDS, seed) for seed in range(20)
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{a|b", "close it"),
        ("{" * 8 + "|", "deep"),
        ("{" + "a|" * 400 + "}", "alternatives"),
        ("{30$$a|b}", "up to 20"),
        ("{3-2$$a|b|c}", "smaller number first"),
        ("{4$$a|b}", "name more"),
        ("{red|green|2$$a|b}", r"braces of their own, as \{red\|green\|\{2\$\$a"),
        ("{0::a|0::b}", "weight 0"),
        ("__animal__", "did you mean __animals__"),
        ("__nothing of the kind", ""),
        ("${x=1|2}", "variable"),
        ("__birds__ " * 41, "more than 40"),
    ],
)
def test_read_what_is_wrong_or_too_much_is_refused(text: str, says: str) -> None:
    if not says:
        assert read(text, WILDCARDS).plain
        return
    with pytest.raises(RequestError, match=says):
        read(text, WILDCARDS)


def test_read_choices_that_could_grow_without_measure_are_refused() -> None:
    text = "eight letters"
    for _ in range(3):
        text = "{20$$" + text + "|" * 19 + "}"
    with pytest.raises(RequestError, match="far too long"):
        read(text, WILDCARDS)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ({"a": "__b__", "b": "__a__"}, "in a circle.*a → b → a"),
        ({"a": "x\n{y|z"}, r"a\.txt, line 2"),
        ({"a": "# nothing"}, "no alternatives"),
        ({"a": "x" * 700}, "700 characters"),
        ({"a": "__nope__"}, "no wildcard"),
        ({"ä b": "x"}, "cannot be the name"),
    ],
)
def test_parse_wildcards_what_is_wrong_stops_the_start_with_file_and_line(texts: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_wildcards(texts, origin="wildcards")


SIGNS = st.text(alphabet='{}|$_:()[]+-\\"ab1. ,blend', max_size=1500)
REPEATED = st.builds(
    lambda piece, times, tail: (piece * times)[:1490] + tail,
    st.text(alphabet="{}|$_:()[]+-\\\"a1. ,", min_size=1, max_size=12), st.integers(1, 1500), st.text(max_size=10),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.one_of(SIGNS, REPEATED))
def test_any_prompt_is_read_or_refused_within_a_second(text: str) -> None:
    began = time.process_time()
    try:
        scanned = read(text, WILDCARDS)
        result = expand(scanned, WILDCARDS, 3)
        assert len(result) <= max(scanned.longest, 1)
        weights.words_of(result[:1500])
    except RequestError:
        pass
    assert time.process_time() - began < 1.0


def test_read_without_any_wildcards_says_where_they_would_be() -> None:
    with pytest.raises(RequestError, match="There are none yet"):
        read("__animals__", NO_WILDCARDS)
