"""Faults 36, 37 and 39: what people type is bounded, legible and inert, and no text keeps the event loop busy."""

from __future__ import annotations

import contextlib
import json
import re
import time
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot import moderation
from bot.catalogue.models_file import parse_catalogue
from bot.errors import EaselError, RequestError
from bot.generation import GenerationOptions, GenerationRequest, Job, JobStatus, Origin
from bot.limits import MAX_NEGATIVE_CHARS, MAX_PROMPT_CHARS, resolve
from bot.moderation import Moderator
from bot.prompts.text import fold, inert, is_blank, legible, plain, quoted
from bot.provenance import parse_parameters
from bot.ui import cards, history, info
from bot.ui.view import fenced
from tests.support import texts

LIMIT_CHARS = 4000
"""Of all components of a message together."""
NOW = datetime(2026, 11, 25, tzinfo=UTC)
CATALOGUE = parse_catalogue(
    '[models.pocket]\nname = "Pocket"\nsource = "models/pocket"\nfamily = "sd15"\nlicence = "MIT"\n', origin="a test"
)
BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"


def options(prompt: str, **changes: Any) -> GenerationOptions:
    return GenerationOptions(prompt, **changes)


def taken(prompt: str, **changes: Any) -> GenerationRequest:
    return resolve(options(prompt, **changes), CATALOGUE, new_seed=lambda: 7)


def job(prompt: str, negative_prompt: str = "") -> Job:
    request = GenerationRequest(prompt, negative_prompt, "pocket", 512, 512, 1, 30, 5.0, 7, "Default")
    origin = Origin(1, 2, None, NOW, 3, "ada", 4, 5, False, 10 << 20)
    return Job("abcd1234", request, origin, JobStatus.QUEUED, NOW)


def words_of(view: Any) -> str:
    return "\n".join(texts(view.to_components()))


SHOWN: dict[str, Callable[[str], str]] = {
    "waiting": lambda prompt: words_of(cards.waiting(job(prompt), None)),
    "cancelled": lambda prompt: words_of(cards.cancelled(job(prompt))),
    "result": lambda prompt: words_of(cards.withheld(job(prompt))),
    "info": lambda prompt: words_of(info.job_info(job(prompt, prompt[:1000]), CATALOGUE)),
    "history": lambda prompt: history._entry(job(prompt)),
    "file": lambda prompt: words_of(info.picture_info(prompt, parse_parameters(f"{prompt}\nSteps: 1, Seed: 2, Size: 8x8"))),
}  # fmt: skip


# --- 36: bounded and legible ---


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    "prompt",
    ["", " ", "\n\t ", "\u200b\u200d\u2060", "\ufe0f\ufe0f", "\u3164\u115f", "\u2800" * 4, "\u0301\u0301", BIDI, "\U000e0041"],
    ids=["empty", "space", "newline", "zero width", "selectors", "fillers", "braille", "accents", "bidi", "tags"],
)  # fmt: skip
def test_fault_36_prompt_that_cannot_be_seen_refused(prompt: str) -> None:
    with pytest.raises(RequestError, match="The prompt is empty"):
        taken(prompt)


@pytest.mark.fault(36)
@pytest.mark.parametrize("char", ["a", "👩‍🚀", "ש", "字"], ids=["latin", "emoji", "hebrew", "cjk"])
def test_fault_36_six_thousand_characters_refused_with_both_numbers(char: str) -> None:
    long = (char * 6000)[:6000]
    with pytest.raises(RequestError, match=r"6,000 characters; at most 1,500 fit. Shorten it by 4,500"):
        taken(long)
    with pytest.raises(RequestError, match=r"negative prompt has 6,000 characters; at most 1,000"):
        taken("x", negative_prompt=long)


@pytest.mark.fault(36)
@pytest.mark.parametrize("char", ["\0", "\x1b", "\x7f", "\x85", "\ud800"], ids=["NUL", "ESC", "DEL", "NEL", "half"])
def test_fault_36_control_character_refused_with_its_place(char: str) -> None:
    with pytest.raises(RequestError, match=f"U\\+{ord(char):04X}.* at position 4"):
        taken(f"a c{char}t")
    with pytest.raises(RequestError, match="negative prompt has a control character"):
        taken("a cat", negative_prompt=char)


@pytest.mark.fault(36)
@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN.keys())
@pytest.mark.parametrize(
    "prompt",
    ["🦊" * MAX_PROMPT_CHARS, "`" * MAX_PROMPT_CHARS, "@" * MAX_PROMPT_CHARS, "*_" * (MAX_PROMPT_CHARS // 2),
     "שלום " * (MAX_PROMPT_CHARS // 5), "z" + "\u0336" * (MAX_PROMPT_CHARS - 1), "a\n" * (MAX_PROMPT_CHARS // 2)],
    ids=["emoji", "backquotes", "at", "markup", "right-to-left", "accents", "lines"],
)  # fmt: skip
def test_fault_36_longest_prompt_stays_inside_a_message(show: Callable[[str], str], prompt: str) -> None:
    assert taken(prompt).prompt == prompt.strip()
    assert 0 < len(show(prompt)) <= LIMIT_CHARS


@pytest.mark.fault(36)
@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN.keys())
def test_fault_36_bidirectional_controls_never_reach_a_card(show: Callable[[str], str]) -> None:
    shown = show(f"a cat \u202egnp.tac {BIDI} \u2067 on a mat")
    assert not set(shown) & set(BIDI)
    assert "a cat" in shown
    assert "on a mat" in shown


@pytest.mark.fault(36)
def test_fault_36_right_to_left_words_stay_on_a_line_of_their_own() -> None:
    lines = words_of(cards.waiting(job("חתול יושב"), None)).split("\n")
    assert [line for line in lines if "חתול" in line] == ["**חתול יושב**"]


@pytest.mark.parametrize(
    "emoji",
    ["🩷", "🫨", "👩‍🚀", "❤️", "🏴󠁧󠁢󠁷󠁬󠁳󠁿", "𰻝"],
    ids=["pink heart", "shaking", "joined", "selector", "flag", "newer ideograph"],
)
def test_plain_emoji_newer_than_this_python_is_kept(emoji: str) -> None:
    assert plain(emoji, 20) == emoji
    assert not is_blank(emoji)


# --- 37: inert ---

MEANT = {
    "everyone": ("@everyone and @here", ("@everyone", "@here")),
    "user": ("<@123> <@!123> <@&5> <#7>", ("<@", "<#")),
    "command": ("</imagine:1> <t:1:R> <:a:1>", ("</", "<t:", "<:")),
    "link": ("see https://x.y and discord.gg/abc, www.x.com", ("https://", "discord.gg/", "www.x")),
    "masked": ("[free nitro](https://x.y)", ("](https://",)),
}


@pytest.mark.fault(37)
@pytest.mark.parametrize(("prompt", "active"), MEANT.values(), ids=MEANT.keys())
@pytest.mark.parametrize("show", [SHOWN[name] for name in ("waiting", "cancelled", "result", "history")])
def test_fault_37_mention_or_link_in_a_card_inert(
    show: Callable[[str], str], prompt: str, active: tuple[str, ...]
) -> None:
    title = show(prompt).split("\n")[0]
    assert not any(part in title for part in active)
    assert not re.search(r"(?<!\\)[\[\]|~`]", title)


@pytest.mark.fault(37)
@pytest.mark.parametrize("show", [SHOWN["info"], SHOWN["file"]], ids=["info", "file"])
@pytest.mark.parametrize("ticks", [1, 2, 3, 4, 5, 6, 7, 40])
def test_fault_37_backquotes_do_not_open_a_code_block(show: Callable[[str], str], ticks: int) -> None:
    shown = show(f"{'`' * ticks} <@1> {'`' * ticks}\n{'`' * ticks}")
    blocks = re.findall(r"```\n.*?\n```", shown, re.DOTALL)
    outside = re.sub(r"```\n.*?\n```", "", shown, flags=re.DOTALL).replace("\\`", "").replace("by <@3>", "")
    assert blocks
    assert shown.count("```") == 2 * len(blocks)
    assert "```" not in outside
    assert "<@" not in outside


@given(st.text(st.sampled_from("`~*_|<>@#-\\[]()\n \u200bax:/"), max_size=40))
@example("````")
@example("`" * 59)
def test_fault_37_fence_is_only_ever_ours(text: str) -> None:
    shown = fenced(text, 60)
    assert shown.count("```") == 2
    assert shown.startswith("```\n")
    assert shown.endswith("\n```")


@pytest.mark.fault(37)
@pytest.mark.parametrize("name", ["model", "sampler", "aspect"])
def test_fault_37_name_that_a_refusal_repeats_inert(name: str) -> None:
    typed = "@everyone `x` <@1> https://x.y \u202egnp" + "x" * 6000
    with pytest.raises(RequestError) as caught:
        taken("a cat", **{name: typed})
    sentence = str(caught.value)
    assert not any(part in sentence for part in ("@everyone", "`", "<@", "https://", "\u202e"))
    assert len(sentence) < 400


@given(st.text(max_size=200), st.integers(0, 300))
@example("*" * 200, 100)
@example("@" * 200, 100)
def test_quoted_inert_and_plain_never_exceed_their_limit(text: str, limit: int) -> None:
    for made in (plain(text, limit), inert(text, limit), quoted(text, limit)):
        assert len(made) <= limit
        assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in made)
    assert not set(legible(text)) & set(BIDI)


def test_client_mentions_nobody_unless_told() -> None:
    from bot.client import EaselClient

    mentions = EaselClient().allowed_mentions
    assert mentions is not None
    assert (mentions.everyone, mentions.users, mentions.roles) == (False, False, False)


# --- 39: no text keeps the event loop busy ---

BUDGET_S = 0.1
_N = MAX_PROMPT_CHARS
EVIL = {
    "one word": "a" * _N, "digits": "1" * _N, "dots": "a." * (_N // 2), "underlines": "a_" * (_N // 2),
    "spelled": "a b " * (_N // 4), "spelled with dashes": "a - " * (_N // 4), "runs": "aab" * (_N // 3),
    "expands to six": "\u3316" * _N, "expands to eighteen": "\ufdfa" * _N, "accents": "a" + "\u0301" * (_N - 1),
    "young": "young " * (_N // 6), "young words": ("young " + "a" * 60 + " ") * (_N // 67), "ages": "age 12 " * (_N // 7),
    "baby": "baby " * (_N // 5), "naked": "naked " * (_N // 6), "colons": ":- " * (_N // 3), "weights": ":-" + "1" * (_N - 2),
    "word and marks": "a" * (_N // 2) + "?" * (_N // 2), "letters for digits": "4@1!" * (_N // 4),
    "different words": " ".join(chr(0x4E00 + n) for n in range(_N // 2)), "brackets": "(" * _N, "wildcards": "{a|b}" * (_N // 5),
    "nested wildcards": "{" * (_N // 2) + "}" * (_N // 2), "names of wildcards": "__a__" * (_N // 5), "emoji": "👩‍🚀" * (_N // 3),
    "backslashes": "\\" * _N, "links": "https://" * (_N // 8), "flags": "🇩" * _N, "commas": "," * _N, "spaces": "a" + " " * (_N - 2) + "b",
}  # fmt: skip


def cpu_s(work: Callable[[], object]) -> float:
    """The least processor time of three tries: other processes, and the first call's caches, are not the text's fault."""
    times: list[float] = []
    for _ in range(3):
        start = time.thread_time()
        with contextlib.suppress(EaselError):
            work()
        times.append(time.thread_time() - start)
    return min(times)


@pytest.mark.fault(39)
@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL.keys())
def test_fault_39_pathological_prompt_checked_within_100_ms(text: str) -> None:
    moderator = Moderator()

    def check() -> None:
        request = taken(text, negative_prompt=text[:MAX_NEGATIVE_CHARS])
        moderator.check(f"{request.prompt}", request.negative_prompt)

    assert cpu_s(check) < BUDGET_S


@pytest.mark.fault(39)
@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL.keys())
def test_fault_39_pathological_prompt_shown_within_100_ms(text: str) -> None:
    assert cpu_s(lambda: (inert(text, 600), quoted(text, 60), fenced(text, 1500), plain(text, 250))) < BUDGET_S


PIECES = st.lists(
    st.tuples(
        st.one_of(st.sampled_from(["a", "1", ".", "_", " ", "-", "!", "child ", "nude ", "age ", "\u3316", "\ufdfa", "\u0301", ":-", "{", "}", "|"]), st.text(min_size=1, max_size=4)),
        st.integers(1, 1500),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@given(PIECES)
def test_fault_39_any_repetition_checked_within_100_ms(pieces: list[tuple[str, int]]) -> None:
    text = "".join(piece * times for piece, times in pieces)[:MAX_PROMPT_CHARS]
    moderator = Moderator()

    def check() -> None:
        moderator.check(text, text[:MAX_NEGATIVE_CHARS])

    assert cpu_s(check) < BUDGET_S


_OLD_LEET = re.compile(r"[a-z0-9@$!|€¡]*[a-z][a-z0-9@$!|€¡]*")
_OLD_LINKED = re.compile(r"[^\W_]+(?:[^\w\s]+[^\W_]+|_+[^\W_]+)+")


@given(st.text(st.one_of(st.sampled_from("ab1._-!@ é"), st.characters()), max_size=60))
def test_moderation_bounded_patterns_find_what_the_plain_ones_find(text: str) -> None:
    folded = fold(text)
    assert moderation._leet_words(folded) == _OLD_LEET.findall(folded)
    assert [m.group() for m in moderation._LINKED.finditer(folded)] == [m.group() for m in _OLD_LINKED.finditer(folded)]


def _fold_by_characters(text: str) -> str:
    out: list[str] = []
    for char in unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold()):
        code = ord(char)
        if 0x1F1E6 <= code <= 0x1F1FF:
            out.append(chr(code - 0x1F1E6 + 97))
        elif 0x1F150 <= code <= 0x1F189:
            out.append(chr((code - 0x1F150) % 32 + 97))
        elif unicodedata.category(char) not in ("Mn", "Me", "Cf"):
            out.append(char)
    return "".join(out)


@given(st.text(st.one_of(st.characters(), st.sampled_from("🇦🅐🅰é\u0301\u200d")), max_size=60))
def test_fold_gives_what_looking_at_each_character_gives(text: str) -> None:
    assert fold(text) == _fold_by_characters(text)


@pytest.mark.fault(39)
@pytest.mark.parametrize(
    "text",
    [
        *EVIL.values(),
        "Steps: " * 100_000,
        'a: "' + "\\" * 500_000,
        "a: " * 300_000,
        "\n" * 900_000,
        "1" * 900_000,
        " " * 900_000 + "x",
        '"' * 900_000,
    ],
)
def test_fault_39_pathological_parameters_of_a_file_read_within_half_a_second(text: str) -> None:
    for made in (text, f"x\nSteps: 1, {text}", json.dumps({"prompt": text})):
        assert cpu_s(lambda made=made: parse_parameters(made)) < 0.5
