"""Refuse prompts for sexual content with minors, on every server, whatever its settings; say where adult pictures may be.

Pure; any thread.

A fixed list: a prompt is refused where it names minors and something sexual together, or a term that means
both. Spellings meant to slip through (accents, look-alike letters, digits for letters, dots between them)
are read as what they stand for. The lists lie in `bot/prompts/terms.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

from bot.errors import ModerationRefused
from bot.generation import GenerationRequest
from bot.prompts import terms
from bot.prompts.lists import numbered
from bot.prompts.text import fold
from bot.prompts.weights import words_of

REFUSAL = (
    "Easel does not draw minors in a sexual context, and this prompt reads like one. "
    "If you meant something else, say it in other words."
)

_LOOK_ALIKES = str.maketrans(
    "аеорсхуіјѕԁһкмтвґёңαβεικνορτυχη" + "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ" + "ıłøđħ×",
    "aeopcxyijsdhkmtbrenabeiknoptuxn" + "abcdefghijklmnoprstuvwyz" + "ilodhx",
)
_LEET = tuple(
    str.maketrans({**dict(zip("034578@$|€", "oeastbasie", strict=True)), "1": one, "!": one, "¡": one, "|": one})
    for one in "il"
)
# A stranger's text may not make a pattern walk back and forth: this runs on the event loop. So the repeats are
# possessive, a match begins where a word begins, and what may or may not hold a letter is sorted out afterwards.
_LEET_RUN = re.compile(r"[a-z0-9@$!|€¡]++")
_LETTER = re.compile(r"[a-z]")
_WORD = re.compile(r"[^\W_]++")
_LINKED = re.compile(r"(?<![^\W_])[^\W_]++(?:[^\w\s]++[^\W_]++|_++[^\W_]++)+")
_SPELLED = re.compile(r"(?<![^\W_])(?:[^\W\d_][\W_]{1,3}){2,}[^\W\d_](?![^\W_])")
_RUNS = re.compile(r"(.)\1{2,}")
_NEGATED_WEIGHT = re.compile(r":\s*-\s*\d*\.?\d")


@dataclass(frozen=True, slots=True)
class AdultPolicy:
    """Where pictures that count as adult may be shown and taken as input: in age-restricted channels, or nowhere."""

    in_age_restricted: bool = True

    def allows(self, *, age_restricted: bool) -> bool:
        """Whether they may be in a channel; `age_restricted` says what kind of channel it is."""
        return self.in_age_restricted and age_restricted


ADULT_BY_DEFAULT = AdultPolicy()


class Moderator:
    """The fixed check of every prompt. Without one the service is not built."""

    def check(self, prompt: str, negative_prompt: str = "") -> None:
        """Refuse a prompt for sexual content with minors; anything else passes.

        Words of the negative prompt are things to avoid, so naming either there is fine; what is refused
        is turning it around: a sexual prompt that avoids adults, minors that avoid clothes, or a weight
        below zero, which asks for what it names. Raises ModerationRefused.
        """
        if _NEGATED_WEIGHT.search(negative_prompt):
            prompt = f"{prompt}\n{negative_prompt}"
        if (words := words_of(prompt)) != prompt:  # brackets in the middle of a word hide it from nobody
            prompt = f"{prompt}\n{words}"
        asked = _Reading(prompt)
        if asked.names(terms.ALWAYS) or asked.runs_both_together():
            raise ModerationRefused(REFUSAL)
        minors, sexual = asked.names_minors(), asked.names(terms.SEXUAL)
        if minors and sexual:
            raise ModerationRefused(REFUSAL)
        if negative_prompt and (minors or sexual):
            avoided = _Reading(negative_prompt)
            if (sexual and avoided.names(terms.ADULTS)) or (minors and avoided.names(terms.CLOTHES)):
                raise ModerationRefused(REFUSAL)

    def check_request(self, request: GenerationRequest, lines: Sequence[str] = ()) -> None:
        """Refuse a request for any of its prompts, as typed and as a model is told them; `lines` is the list it was made of.

        Raises ModerationRefused, naming the line.
        """
        told = request.told
        if not request.listed:
            said = [
                (prompt, told.negative_prompt)
                for prompt in (request.prompt, *request.prompts, told.prompt, *told.prompts)
            ]
            cells = map(told.alone, range(len(told.variants)))
            for prompt, avoided in dict.fromkeys([*said, *((cell.prompt, cell.negative_prompt) for cell in cells)]):
                self.check(prompt, avoided)
            return
        typed = numbered(lines or [variant.prompt or "" for variant in request.variants])
        for (number, line), variant in zip(typed, told.variants, strict=True):
            try:
                for prompt in dict.fromkeys((line, variant.prompt or "")):
                    self.check(prompt, told.negative_prompt)
            except ModerationRefused as error:
                raise ModerationRefused(f"Line {number}: {error}") from None


class _Reading:
    """The ways a text can be read, each as its words in order with one space around every word."""

    def __init__(self, text: str) -> None:
        folded = fold(text)
        mapped = folded.translate(_LOOK_ALIKES)
        readings = [_WORD.findall(folded), _WORD.findall(mapped)]
        readings += [[w.translate(table) for w in _leet_words(mapped)] for table in _LEET]
        extra: list[str] = []
        for match in _SPELLED.finditer(mapped):
            extra.append("".join(_WORD.findall(match.group())))
        for match in _LINKED.finditer(mapped):
            extra.append("".join(_WORD.findall(match.group())))
            extra += ["".join(_leet_words(match.group())).translate(table) for table in _LEET]
        words = {word for reading in readings for word in reading} | set(extra)
        for word in tuple(words):
            if _RUNS.search(word):
                words |= {_RUNS.sub(r"\1", word), _RUNS.sub(r"\1\1", word)}
        lines = dict.fromkeys(f" {' '.join(reading)} " for reading in readings)  # most texts read the same in all ways
        self.lines = [_harmless(line) for line in lines]
        # A word counts only where some line still has it after harmless phrases went, or no line ever had it whole.
        said = {word for line in self.lines for word in line.split()}
        gone = {word for reading in readings for word in reading} - said
        self.words: Set[str] = words - gone

    def names(self, group: terms.Group) -> bool:
        """Whether any reading holds a word, a beginning of a word or a phrase of `group`."""
        if not self.words.isdisjoint(group.words):
            return True
        if any(word.startswith(group.stems) for word in self.words):
            return True
        if any(phrase in line for line in self.lines for phrase in group.phrases):
            return True
        return any(sign in line for line in self.lines for sign in group.signs)

    def names_minors(self) -> bool:
        """Whether any reading names minors: by a word or by an age."""
        if self.names(terms.MINORS):
            return True
        return any(pattern.search(line) for line in self.lines for pattern in terms.AGES)

    def runs_both_together(self) -> bool:
        """Whether a word is one of each written as one."""
        return any(_run_together(word) for word in self.words)


def _leet_words(text: str) -> list[str]:
    """List the runs of letters and of what may stand for letters that hold a letter at least."""
    return [run for run in _LEET_RUN.findall(text) if _LETTER.search(run)]


def _harmless(line: str) -> str:
    for pattern in terms.HARMLESS:
        line = pattern.sub(" ", line)
    return line


def _run_together(word: str) -> bool:
    """Whether a word is one of each run together ("nakedchild")."""
    if not 6 <= len(word) <= 40:
        return False
    minors, sexual = terms.MINORS.words, terms.SEXUAL.words
    halves = ((word[:cut], word[cut:]) for cut in range(3, len(word) - 2))
    return any((a in minors and b in sexual) or (a in sexual and b in minors) for a, b in halves)
