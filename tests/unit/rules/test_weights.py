"""Weights in prompts, read in one pass."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.catalogue.models_file import parse_catalogue
from bot.errors import ModerationRefused, RequestError
from bot.generation import GenerationOptions
from bot.limits import resolve
from bot.moderation import Moderator
from bot.prompts.weights import asks_for_weights, read_weights

CATALOGUE = parse_catalogue(
    "".join(
        f'[models.{name}]\nname = "{name.title()}"\nsource = "a/b"\nfamily = "{family}"\nlicence = "-"\n'
        for name, family in (("one", "sd15"), ("two", "flux"), ("three", "sd3"), ("flow", "flux2"))
    ),
    origin="the test",
)


def parts(prompt: str) -> list[tuple[str, float]]:
    return [(part.text, part.weight) for part in read_weights(prompt).prompts[0]]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red ball", [("a red ball", 1.0)]),
        ("a (red:1.3) ball", [("a ", 1.0), ("red", 1.3), (" ball", 1.0)]),
        ("(red:0.5)", [("red", 0.5)]),
        ("(red: .5 )", [("red", 0.5)]),
        ("(red) ball", [("red", 1.1), (" ball", 1.0)]),
        ("((red)) ball", [("red", 1.21), (" ball", 1.0)]),
        ("[red] ball", [("red", 0.9091), (" ball", 1.0)]),
        ("red++ ball", [("red", 1.21), (" ball", 1.0)]),
        ("a red-- ball", [("a ", 1.0), ("red", 0.81), (" ball", 1.0)]),
        ("(red ball)+, x", [("red ball", 1.1), (", x", 1.0)]),
        ("(a [b] c:1.5) d", [("a ", 1.5), ("b", 1.3636), (" c", 1.5), (" d", 1.0)]),
        (r"a \(red\) ball", [("a (red) ball", 1.0)]),
        (r"C\+\+ code", [("C++ code", 1.0)]),
        ("an (open one", [("an (open one", 1.0)]),
        ("a closed) one]", [("a closed) one]", 1.0)]),
        ("a well-known, half-timbered house - old", [("a well-known, half-timbered house - old", 1.0)]),
        ("at 10:30 (now)", [("at 10:30 ", 1.0), ("now", 1.1)]),
        ("(:1.2)", [("", 1.0)]),
    ],
)
def test_read_weights_as_other_programs_write_them(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert parts(prompt) == expected


def test_read_weights_blend_has_its_prompts_and_shares() -> None:
    read = read_weights('("a cat, (red:1.2)", "a \\"big\\" dog").blend(0.7, 0.3)')
    assert [[part.text for part in prompt] for prompt in read.prompts] == [["a cat, ", "red"], ['a "big" dog']]
    assert read.shares == (0.7, 0.3)
    assert not read.plain


def test_read_weights_what_stands_around_a_blend_is_said_of_each() -> None:
    read = read_weights('a photo of ("a (cat:1.2)", "a dog").blend(1, 1), at night')
    assert [one.words for one in (replace(read, prompts=(each,)) for each in read.prompts)] == [
        "a photo of a cat, at night",
        "a photo of a dog, at night",
    ]
    assert read.prompts[0][1].weight == 1.2


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("(a:9)", "goes from 0 to 2; 9 is too much"),
        ("(" * 11 + "a" + ")" * 11, "nested more than 10 deep"),
        (" ".join(f"(a{n}:1.2)" for n in range(90)), "more than 75 weighted parts"),
        ('("a", "b").blend(1)', "a share for each of them"),
        ('("a").blend(1)', "takes 2 to 5 prompts"),
        ("(a, b).blend(1, 2)", "A blend is written"),
        ('("a", "b").blend(1, x)', "are numbers"),
        ('("a", "b").blend(1, -1)', "are 0 together"),
        ('("a", "b").blend(1, 1) ("c", "d").blend(1, 1)', "once in a prompt"),
        ('("a", "b").blend(1, 5)', "goes from -2 to 2"),
    ],
)
def test_read_weights_too_much_is_refused_in_a_sentence(prompt: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read_weights(prompt)


def test_resolve_weights_are_refused_by_a_model_that_knows_none_but_brackets_are_not() -> None:
    def resolved(prompt: str, model: str) -> str:
        return resolve(GenerationOptions(prompt, model=model), CATALOGUE, new_seed=lambda: 1).prompt

    for model in ("one", "two", "three"):
        assert resolved("a (red:1.3) ball", model) == "a (red:1.3) ball"
    assert resolved("a ball (red)", "flow") == "a ball (red)"
    for prompt in ("a (red:1.3) ball", "red++ ball", '("a", "b").blend(1, 1)'):
        assert asks_for_weights(prompt)
        with pytest.raises(RequestError, match="Flow knows no weights or blends"):
            resolved(prompt, "flow")


def test_moderator_sees_a_word_through_the_brackets_in_it() -> None:
    Moderator().check("a na(ked:1.1) statue")
    with pytest.raises(ModerationRefused):
        Moderator().check("a na(ked:1.1) chi[ld]")


@given(st.text(alphabet=st.sampled_from('ab ()[]:.,1+-\\"blend'), max_size=1500))
def test_read_weights_any_text_is_read_or_refused_at_once(prompt: str) -> None:
    began = time.perf_counter()
    with contextlib.suppress(RequestError):
        assert all(0 <= part.weight <= 2 for one in read_weights(prompt).prompts for part in one)
    assert time.perf_counter() - began < 1
