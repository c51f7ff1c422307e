"""Lists of prompts: read, numbered, made into one request of many pictures."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from bot import limits, provenance
from bot.errors import ModerationRefused, RequestError
from bot.generation import GenerationOptions, GenerationRequest, Variant
from bot.moderation import Moderator
from bot.prompts.lists import MAX_PROMPTS, numbered, read_list, split_lines
from tests.unit.rules.test_limits import CATALOGUE


def resolved(*lines: str, **changes: Any) -> GenerationRequest:
    return limits.resolve(GenerationOptions("", lines=lines, **changes), CATALOGUE, new_seed=lambda: 40)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"one\ntwo", ("one", "two")),
        (b"\xef\xbb\xbfone\r\ntwo\r\n", ("one", "two", "")),
        (b"one\rtwo", ("one", "two")),
        ("one\u2028two\x85three".encode(), ("one\u2028two\x85three",)),
    ],
    ids=["plain", "a mark and CRLF", "CR", "other separators"],
)
def test_read_list_splits_at_ends_of_lines_alone(data: bytes, lines: tuple[str, ...]) -> None:
    assert read_list(data) == lines


def test_read_list_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(RequestError, match="no UTF-8 text"):
        read_list("über".encode("latin-1"))


def test_numbered_skips_blank_lines_and_keeps_their_numbers() -> None:
    assert numbered(["", " one ", "\u200b", "two"]) == [(2, "one"), (4, "two")]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["", " "], "no prompts; write one a line"),
        (["a"] * (MAX_PROMPTS + 1), f"{MAX_PROMPTS + 1} prompts; at most {MAX_PROMPTS} fit"),
        (["a", "", "b" * 1501], "^Line 3: The prompt has 1,501 characters"),
        (["a\0"], r"^Line 1: The prompt has a control character \(U\+0000\) at position 2"),
    ],
    ids=["none", "too many", "too long", "nul"],
)
def test_resolve_bad_list_is_refused_in_one_sentence(lines: list[str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        resolved(*lines)


def test_resolve_list_is_one_request_of_a_picture_a_line() -> None:
    request = resolved("a cat", "", " a dog ", seed=7)
    assert (request.count, request.prompt) == (2, "a cat")
    assert request.variants == (Variant("a cat"), Variant("a dog"))
    second = request.alone(1)
    assert (second.prompt, second.seed, second.count, second.variants) == ("a dog", 8, 1, ())
    assert second == limits.resolve(GenerationOptions("a dog", seed=8), CATALOGUE, new_seed=lambda: 0)


def test_resolve_list_last_seed_has_to_fit() -> None:
    assert resolved("a", "b", seed=limits.MAX_SEED - 1).count == 2
    with pytest.raises(RequestError, match="Seed goes from 0"):
        resolved("a", "b", seed=limits.MAX_SEED)


def test_resolve_list_with_a_count_is_refused() -> None:
    with pytest.raises(RequestError, match="leave the count out"):
        resolved("a", count=2)


def test_resolve_list_of_too_many_pixels_says_how_many_fit() -> None:
    with pytest.raises(RequestError, match="at most 32 fit"):
        resolved(*["a"] * 33, model="sdxl", width=2048, height=1024)
    assert resolved(*["a"] * 32, model="sdxl", width=2048, height=1024).count == 32


def test_price_of_a_list_is_the_sum_of_its_pictures() -> None:
    request = resolved("a", "b", "c")
    assert limits.price(request) == 3 * limits.price(request.alone(0))
    assert limits.drawn_price(request, [(0, 64, 64), (2, 64, 64)]) == 2 * 64 * 64 * 20


def test_price_counts_each_pictures_own_steps() -> None:
    request = dataclasses.replace(resolved("a"), count=2, variants=(Variant(num_inference_steps=5), Variant()))
    assert limits.price(request) == 64 * 64 * (5 + 20)
    assert request.steps_taken == 12


def test_moderator_names_the_line_it_refuses() -> None:
    lines = ("a cat", "", "naked child")
    with pytest.raises(ModerationRefused, match=r"^Line 3: Easel does not draw minors"):
        Moderator().check_request(resolved(*lines), lines)


@pytest.mark.parametrize("wrap", ["naked {prompt}", "{prompt}, porn"], ids=["before", "after"])
def test_moderator_sees_what_a_style_makes_of_a_prompt_and_of_a_line(wrap: str) -> None:
    for lines in (("a child",), ("a cat", "a child")):
        request = resolved(*lines)
        Moderator().check_request(request, lines)
        with pytest.raises(ModerationRefused):
            Moderator().check_request(dataclasses.replace(request, wrap=wrap), lines)
    alone = dataclasses.replace(resolved("a child"), variants=(), prompt="a child", wrap=wrap)
    with pytest.raises(ModerationRefused):
        Moderator().check_request(alone)


def test_marks_of_a_lists_picture_are_those_of_that_picture_alone() -> None:
    request = resolved("a cat", "a dog", seed=7)
    marks = provenance.marks(request, 1, job_id="j", model_name="Pocket", device="cpu", dtype="fp32", version="1")
    record = provenance.parse_easel(marks.chunks[provenance.EASEL_KEY])
    assert record is not None
    assert record.alone == request.alone(1)
    assert "a cat" not in "".join(marks.chunks.values()) + marks.xmp


def test_split_lines_of_one_line_is_that_line() -> None:
    assert split_lines("a cat") == ("a cat",)
