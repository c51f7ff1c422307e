"""Choices `{red|green}`, `{2$$a|b|c}` and wildcards `__animals__`: read in one linear scan, then chosen among by a seed. Pure.

Nothing that a stranger typed reaches a parser before its length, depth, alternatives and possible growth are known to be
small; dynamicprompts does the choosing, on what the scan has built.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from bot.errors import RequestError
from bot.prompts.addons import nearest
from bot.prompts.text import quoted

MAX_DEPTH = 6
MAX_ALTERNATIVES = 300
MAX_PICKS = 20
MAX_WILDCARDS = 40
MAX_GROWN_CHARS = 60_000
"""The longest text that a prompt with choices could become before the result itself is measured."""

_BOUND = re.compile(r"\s*(\d{1,4})?(-)?(\d{1,4})?\$\$(?:([^${}|]{1,20})\$\$)?")
_WEIGHT = re.compile(r"\s*(\d{1,6}(?:\.\d{1,6})?)::")
_WILDCARD = re.compile(r"__([A-Za-z0-9](?:[\w/-]{0,80}?[A-Za-z0-9])?)__(?!_)")
_SPECIAL = re.compile(r"[\\{}|]|_+")
_MISPLACED = re.compile(r"\s*[\d-]{1,9}\$\$")


@dataclass(frozen=True, slots=True)
class Wildcard:
    """A line of the file of this name, in lower case."""

    name: str


@dataclass(frozen=True, slots=True)
class Choice:
    """From `low` to `high` of the options, each a (weight, template), put together with `separator`."""

    low: int
    high: int
    separator: str
    options: tuple[tuple[float, Template], ...]


Template = tuple["str | Wildcard | Choice", ...]


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a scan found: the template, and how many characters it could become at most."""

    template: Template
    longest: int

    @property
    def plain(self) -> bool:
        """Whether there is nothing to choose."""
        return all(isinstance(part, str) for part in self.template)


@dataclass(slots=True)
class _Frame:
    """A `{` that is open: its bound, the options that have ended, and the one that has not, with its weight as typed."""

    opening: str = ""
    bound: re.Match[str] | None = None
    options: list[tuple[float, Template]] = field(default_factory=list[tuple[float, Template]])
    weight: str = ""
    parts: list[str | Wildcard | Choice] = field(default_factory=list["str | Wildcard | Choice"])
    length: int = 0
    longest: int = 0

    def add(self, part: str | Wildcard | Choice, length: int) -> None:
        self.parts.append(part)
        self.length += length

    def end_option(self) -> None:
        if self.parts and isinstance(first := self.parts[0], str) and _MISPLACED.match(first):
            raise RequestError(
                f"“{quoted(first, 30)}” says how many are taken, which a choice begins with, as {{2$$red|green|blue}}; where it is meant "
                "for some of the alternatives, give them braces of their own, as {red|green|{2$$a|b|c}}."
            )
        self.options.append((float(self.weight.rstrip(":") or 1), _trimmed(self.parts)))
        self.longest = max(self.longest, self.length)
        self.weight, self.parts, self.length = "", [], 0

    def undo(self, outer: _Frame) -> None:
        """Leave what was taken for a choice as it was typed."""
        typed = self.opening + self.weight
        outer.add(typed, len(typed) + self.length)
        outer.parts += self.parts


class _Scan:
    """One pass over a text, from left to right, with the open braces on a stack."""

    def __init__(self, text: str, longest_of: Callable[[str], int | None]) -> None:
        self._text = text
        self._longest_of = longest_of
        self._stack = [_Frame()]
        self._at = 0
        self._bound_end = 0
        self._alternatives = 0
        self._wildcards = 0

    def run(self) -> Scanned:
        """Read the whole text, once. Raises RequestError."""
        while self._at < len(self._text):
            found = _SPECIAL.search(self._text, self._at)
            end = found.start() if found else len(self._text)
            self._words(self._text[self._at : end])
            self._at = end
            if found:
                self._special(found.group())
        while len(self._stack) > 1:
            self._unclosed()
        whole = self._stack[0]
        if whole.length > MAX_GROWN_CHARS:
            raise RequestError("The choices of this prompt could grow far too long; use fewer of them.")
        return Scanned(_joined(whole.parts), whole.length)

    def _words(self, text: str) -> None:
        if text:
            self._stack[-1].add(text, len(text))

    def _special(self, char: str) -> None:
        frame = self._stack[-1]
        after = self._text[self._at + 1 : self._at + 2]
        if char == "\\" and after and after in "{}|":
            self._words(after)
            self._at += 2
        elif char == "{":
            self._open()
        elif char == "}" and len(self._stack) > 1:
            self._close()
        elif char == "|" and len(self._stack) > 1:
            frame.end_option()
            self._begin_option()
        elif char[0] == "_" and (wildcard := _WILDCARD.match(self._text, self._at)):
            self._wildcard(wildcard)
        else:
            self._words(char)
            self._at += len(char)

    def _open(self) -> None:
        before = "" if self._at == self._bound_end else self._text[max(0, self._at - 1) : self._at]
        if before in ("$", "%"):
            raise RequestError(
                f"“{before}{{” begins a variable or wrapper, which Easel does not know; write \\{{ for a brace alone."
            )
        if len(self._stack) > MAX_DEPTH:
            raise RequestError(f"The choices lie {len(self._stack)} deep in each other; at most {MAX_DEPTH} are taken.")
        bound = _BOUND.match(self._text, self._at + 1)
        if bound and not (bound[1] or bound[3]):
            bound = None
        end = bound.end() if bound else self._at + 1
        self._bound_end = end if bound else 0
        self._stack.append(_Frame(self._text[self._at : end], bound))
        self._at = end - 1
        self._begin_option()

    def _begin_option(self) -> None:
        """Read the weight of an option; the scan stands on the sign before it."""
        self._alternatives += 1
        if self._alternatives > MAX_ALTERNATIVES:
            raise RequestError(f"The choices have more than {MAX_ALTERNATIVES} alternatives; use a wildcard file.")
        self._at += 1
        if weight := _WEIGHT.match(self._text, self._at):
            self._stack[-1].weight = weight.group()
            self._at = weight.end()

    def _close(self) -> None:
        self._at += 1
        frame = self._stack.pop()
        outer = self._stack[-1]
        if not frame.options and frame.bound is None:  # braces around something that is no choice
            frame.undo(outer)
            outer.add("}", 1)
            return
        frame.end_option()
        choice = self._choice(frame)
        outer.add(choice, choice.high * (frame.longest + len(choice.separator)))

    def _choice(self, frame: _Frame) -> Choice:
        alone = len(frame.options) == 1 and len(parts := frame.options[0][1]) == 1 and isinstance(parts[0], Wildcard)
        low, high, separator = 1, 1, ", "
        if frame.bound is not None:
            least, dash, most, given = frame.bound.groups()
            known = MAX_PICKS if alone else len(frame.options)
            low = int(least) if least else 1
            high = int(most) if most else (known if dash else low)
            separator = given if given is not None else separator
            if high > MAX_PICKS or low > high:
                raise RequestError(
                    f"“{quoted(frame.opening, 30)}” takes {low} to {high}; a choice takes up to {MAX_PICKS}, the smaller number first."
                )
            if low > known:
                raise RequestError(f"“{quoted(frame.opening, 30)}” takes {low} of {known} alternatives; name more.")
            high = min(high, known)
        if not any(weight for weight, _ in frame.options):
            raise RequestError("All alternatives of a choice have the weight 0; give one of them more.")
        return Choice(low, high, separator, tuple(frame.options))

    def _wildcard(self, found: re.Match[str]) -> None:
        name = found[1].lower()
        longest = self._longest_of(name)
        if longest is None:
            raise RequestError(f"There is no wildcard “__{quoted(found[1], 60)}__”.")
        self._wildcards += 1
        if self._wildcards > MAX_WILDCARDS:
            raise RequestError(f"The prompt names more than {MAX_WILDCARDS} wildcards; use fewer.")
        self._stack[-1].add(Wildcard(name), longest)
        self._at = found.end()

    def _unclosed(self) -> None:
        frame = self._stack.pop()
        if frame.options or frame.bound is not None:
            raise RequestError("A choice that begins with { has no }; close it, or write \\{ for a brace alone.")
        frame.undo(self._stack[-1])


def _joined(parts: Sequence[str | Wildcard | Choice]) -> Template:
    """Put neighbouring words together."""
    joined: list[str | Wildcard | Choice] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(last := joined[-1], str):
            joined[-1] = last + part
        else:
            joined.append(part)
    return tuple(joined)


def _trimmed(parts: Sequence[str | Wildcard | Choice]) -> Template:
    """An option without the spaces around it."""
    trimmed = list(_joined(parts))
    if trimmed and isinstance(first := trimmed[0], str):
        trimmed[0] = first.lstrip()
    if trimmed and isinstance(last := trimmed[-1], str):
        trimmed[-1] = last.rstrip()
    return tuple(part for part in trimmed if part != "")


@dataclass(frozen=True, slots=True)
class Wildcards:
    """The wildcard files: each name's lines, and how many characters a line of it could become at most."""

    lines: Mapping[str, tuple[Template, ...]] = field(default_factory=dict[str, "tuple[Template, ...]"])
    longest: Mapping[str, int] = field(default_factory=dict[str, int])


NO_WILDCARDS = Wildcards()


def scan(text: str, longest_of: Callable[[str], int | None]) -> Scanned:
    """Read choices and wildcards, in one pass; `longest_of` gives how long a wildcard can become, None for an unknown one.

    Braces around something without alternatives, and a brace that is never closed, stay as they are. Raises RequestError.
    """
    return _Scan(text, longest_of).run()


def read(text: str, wildcards: Wildcards) -> Scanned:
    """Scan a prompt. Raises RequestError, which names the nearest wildcards where one is unknown."""

    def longest_of(name: str) -> int:
        if (longest := wildcards.longest.get(name)) is None:
            known = nearest(name, wildcards.lines)
            instead = f"did you mean {' or '.join(f'__{near}__' for near in known)}?" if known else ""
            there = f"There are {len(wildcards.lines)}" if wildcards.lines else "There are none yet"
            raise RequestError(
                f"There is no wildcard “__{quoted(name, 60)}__”{'; ' + instead if instead else '.'} "
                f"{there}; they are the .txt files in the folder wildcards of the bot's data."
            )
        return longest

    return scan(text, longest_of)


def literal(text: str) -> str:
    """Write a text so that it is read as it is, without choices."""
    return text.replace("{", "\\{").replace("}", "\\}")


def expand(scanned: Scanned, wildcards: Wildcards, seed: int) -> str:
    """Choose among the alternatives; the same seed chooses the same. Any thread."""
    if scanned.plain:
        return "".join(part for part in scanned.template if isinstance(part, str))
    from bot.prompts.sampling import sample

    return sample(scanned.template, wildcards.lines, Random(seed))
