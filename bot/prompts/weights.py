"""Weights in prompts, as people write them in other programs, read in one pass. Pure.

`(word)` counts 1.1 times, `((word))` 1.21 times, `[word]` a 1.1th, `(word:1.3)` 1.3 times; `word++` and `(some words)--` as Compel has
them, 1.1 times and 0.9 times a sign; `("a cat", "a dog").blend(0.7, 0.3)` mixes prompts, each with what stands around. A backslash takes a bracket's meaning away. What does not
close, or closes nothing, is itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bot.catalogue.models import WEIGHED, ModelSpec
from bot.errors import RequestError

STRONGER, WEAKER = 1.1, 0.9
MIN_WEIGHT, MAX_WEIGHT = 0.0, 2.0
MAX_DEPTH = 10
MAX_PARTS = 75
MAX_BLENDED = 5
_ROUND = STRONGER
_WEIGHT = re.compile(r":\s*([+-]?(?:\d{1,6}(?:\.\d{0,6})?|\.\d{1,6}))\s*\)")
_SIGNS = re.compile(r"(\++|-+)(?=[\s,.;)\]]|$)")
_BLEND = re.compile(r"\)\s*\.\s*blend\s*\(([^()]{0,200})\)")
_QUOTED = re.compile(r'\s*"((?:[^"\\]|\\.)*)"\s*(,|$)')
_NUMBER = re.compile(r"[+-]?(?:\d{1,6}(?:\.\d{0,6})?|\.\d{1,6})")


@dataclass(frozen=True, slots=True)
class Part:
    """Some words, and how much they count; 1 is as written."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Weighted:
    """A prompt, read: the mixed prompts, each in parts, and each one's share."""

    prompts: tuple[tuple[Part, ...], ...]
    shares: tuple[float, ...] = (1.0,)

    @property
    def plain(self) -> bool:
        """Whether nothing is weighted or mixed."""
        return len(self.prompts) == 1 and all(part.weight == 1.0 for part in self.prompts[0])

    @property
    def words(self) -> str:
        """The words alone, as they follow each other."""
        return " ".join("".join(part.text for part in parts) for parts in self.prompts)


@dataclass(slots=True)
class _Piece:
    """A stretch of words whose brackets may be still open."""

    text: str = ""
    weight: float = 1.0


def read_weights(prompt: str) -> Weighted:
    """Read a prompt of up to some thousand characters. Raises RequestError for what is too deep, too much or too heavy."""
    blended = _read_blend(prompt)
    return blended if blended is not None else Weighted((_read_parts(prompt),))


def asks_for_weights(prompt: str) -> bool:
    """Whether a prompt says numbers or signs that mean nothing to a model without weights; brackets alone may be just brackets.

    Raises RequestError as `read_weights` does.
    """
    read = read_weights(prompt)
    if len(read.prompts) > 1:
        return True
    numbered = _WEIGHT.search(prompt) is not None and not read.plain
    return numbered or (_SIGNS.search(prompt) is not None and not read.plain)


def check_weights(prompt: str, spec: ModelSpec, what: str) -> None:
    """Refuse weights and blends that are too much, or that a model does not know. Raises RequestError naming the model."""
    if spec.family in WEIGHED:
        read_weights(prompt)
    elif asks_for_weights(prompt):
        raise RequestError(
            f"{spec.name} knows no weights or blends, as the {what} has them; write it plainly, or choose another model."
        )


def words_of(prompt: str) -> str:
    """Give a prompt's words without weights, as whoever judges them has to see them; what cannot be read is given as it is."""
    try:
        return read_weights(prompt).words
    except RequestError:
        return prompt


def _read_blend(prompt: str) -> Weighted | None:
    found = _BLEND.search(prompt)
    if found is None:
        return None
    opened = _quoted_before(prompt, found.start())
    if opened is None or _BLEND.search(prompt, found.end()):
        raise RequestError('A blend is written ("one prompt", "another one").blend(0.7, 0.3), once in a prompt.')
    start, prompts = opened
    shares = [part.strip() for part in found[1].split(",")]
    if not 2 <= len(prompts) <= MAX_BLENDED or len(prompts) != len(shares):
        raise RequestError(f"A blend takes 2 to {MAX_BLENDED} prompts, and a share for each of them.")
    if not all(_NUMBER.fullmatch(share) for share in shares):
        raise RequestError("The shares of a blend are numbers, like 0.7.")
    numbers = tuple(float(share) for share in shares)
    if abs(sum(numbers)) < 0.01:
        raise RequestError("The shares of a blend are 0 together; give one of its prompts more.")
    if any(abs(number) > MAX_WEIGHT for number in numbers):
        raise RequestError(f"A share of a blend goes from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}.")
    before, after = prompt[:start], prompt[found.end() :]  # as a style's words: they are said of each
    return Weighted(tuple(_read_parts(before + one + after) for one in prompts), numbers)


def _quoted_before(text: str, end: int) -> tuple[int, list[str]] | None:
    """Find the bracket of which nothing but quoted prompts lie before `end`, and those; None where there is none."""
    start = text.find("(", 0, end)
    while start >= 0:
        prompts: list[str] = []
        place = start + 1
        while quoted := _QUOTED.match(text, place, end):
            prompts.append(re.sub(r"\\(.)", r"\1", quoted[1]))
            place = quoted.end()
        if prompts and place == end:
            return start, prompts
        start = text.find("(", start + 1, end)
    return None


def _read_parts(text: str) -> tuple[Part, ...]:
    """Read brackets and signs with two stacks of where they opened; each part is a stretch of words with its own weight."""
    pieces: list[_Piece] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    place = 0
    while place < len(text):
        char = text[place]
        weight = _WEIGHT.match(text, place) if char == ":" and opened["("] else None
        signs = _SIGNS.match(text, place) if char in "+-" and place and text[place - 1] not in " +-,.;([" else None
        if char == "\\" and place + 1 < len(text) and text[place + 1] in "()[]\\+-":
            _say(pieces, text[place + 1])
            place += 2
        elif char in "([":
            opened[char].append(len(pieces))
            if len(opened["("]) + len(opened["["]) > MAX_DEPTH:
                raise RequestError(
                    f"The prompt's brackets are nested more than {MAX_DEPTH} deep; write a weight instead."
                )
            pieces.append(_Piece())
            place += 1
        elif weight is not None:
            _weigh(pieces, opened["("].pop(), float(weight[1]))
            place = weight.end()
        elif char in ")]" and opened["(" if char == ")" else "["]:
            start = opened["(" if char == ")" else "["].pop()
            place += 1
            after = _SIGNS.match(text, place)
            if char == ")" and after is not None:
                _weigh(pieces, start, _of_signs(after[1]))
                place = after.end()
            else:
                _weigh(pieces, start, _ROUND if char == ")" else 1 / _ROUND)
        elif signs is not None:
            _weigh_last_word(pieces, _of_signs(signs[1]))
            place = signs.end()
        else:
            _say(pieces, char)
            place += 1
        if len(pieces) > 4 * MAX_PARTS:
            raise RequestError(f"The prompt has more than {MAX_PARTS} weighted parts; use fewer.")
    for char, places in opened.items():
        for start in places:  # what never closed is a bracket
            pieces[start].text = char + pieces[start].text
    return _joined(pieces)


def _say(pieces: list[_Piece], char: str) -> None:
    if not pieces or pieces[-1].weight != 1.0:
        pieces.append(_Piece())
    pieces[-1].text += char


def _weigh(pieces: list[_Piece], start: int, weight: float) -> None:
    for piece in pieces[start:]:
        piece.weight *= weight
    pieces.append(_Piece())


def _weigh_last_word(pieces: list[_Piece], weight: float) -> None:
    before, space, word = (pieces[-1].text if pieces else "").rpartition(" ")
    if pieces:
        pieces[-1].text = before + space
    pieces += [_Piece(word, weight), _Piece()]


def _of_signs(signs: str) -> float:
    return (STRONGER if signs[0] == "+" else WEAKER) ** len(signs)


def _joined(pieces: list[_Piece]) -> tuple[Part, ...]:
    parts: list[Part] = []
    for piece in pieces:
        number = round(piece.weight, 4)
        if not piece.text:
            continue
        if not MIN_WEIGHT <= number <= MAX_WEIGHT:
            raise RequestError(
                f"A weight in the prompt goes from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}; {number:g} is too much."
            )
        if parts and parts[-1].weight == number:
            parts[-1] = Part(parts[-1].text + piece.text, number)
        else:
            parts.append(Part(piece.text, number))
    if len(parts) > MAX_PARTS:
        raise RequestError(f"The prompt has more than {MAX_PARTS} weighted parts; use fewer.")
    return tuple(parts) or (Part(""),)
