"""Words of strangers as they are shown."""

from __future__ import annotations

import random

import pytest

from bot.prompts.text import inert, plain


@pytest.mark.parametrize(
    ("typed", "shown"),
    [("a **bold** cat", r"a \*\*bold\*\* cat"), ("`rm -rf`", r"\`rm -rf\`"), ("line\nbreak\ttab", "line break tab"),
     ("# title", r"\# title"), ("- item", r"\- item"), ("1. item", r"1\. item"), ("-# small", r"\-# small"),
     ("red-haired, 1.5 m", "red-haired, 1.5 m"), ("> quote", r"\> quote"), ("[x](y)", r"\[x\](y)"), ("a\0b\x1bc", "a b c"), ("\u202egpj.exe", "gpj.exe"),
     ("plain words", "plain words"), ("", "")],
    ids=["bold", "code", "newline", "heading", "list", "numbers", "subtext", "dashes",
         "quote", "link", "control", "bidi", "plain", "empty"],
)  # fmt: skip
def test_inert_markup_is_shown_as_typed(typed: str, shown: str) -> None:
    assert inert(typed, 200) == shown


@pytest.mark.parametrize(
    ("typed", "active"),
    [("@everyone", "@everyone"), ("@here now", "@here"), ("<@123>", "<@123>"), ("<#5>", "<#"), ("<@&7>", "<@&7>"),
     ("see https://x.y/z", "https://"), ("HTTP://X", "HTTP://"), ("www.x.com", "www."), ("<t:1:R>", "<t:"),
     ("discord.gg/abc", "discord.gg")],
    ids=["everyone", "here", "user", "channel", "role", "https", "http", "www", "time", "invite"],
)  # fmt: skip
def test_inert_mention_or_link_does_nothing(typed: str, active: str) -> None:
    assert active not in inert(typed, 200)


def test_inert_any_text_stays_within_its_limit() -> None:
    rng = random.Random(5)
    pieces = ["*", "_", "word ", "\\", "@everyone ", "🌅", "\u202e", "https://a ", "é", "\n", "<@1>"]
    for _ in range(300):
        text = "".join(rng.choices(pieces, k=rng.randrange(60)))
        limit = rng.randrange(1, 50)
        shown = inert(text, limit)
        assert len(shown) <= limit
        assert not shown.endswith("\\") or shown.endswith("\\\\")


def test_plain_long_text_is_shortened_with_an_ellipsis() -> None:
    assert plain("a sunset over the sea", 9) == "a sunset…"


def test_plain_emoji_with_joiners_survive() -> None:
    assert plain("👩‍🚀 ❤️ 🏴󠁧󠁢󠁷󠁬󠁳󠁿", 50) == "👩‍🚀 ❤️ 🏴󠁧󠁢󠁷󠁬󠁳󠁿"


def test_plain_pile_of_accents_is_cut() -> None:
    assert len(plain("z" + "\u0336" * 500, 1000)) <= 4
