"""Wildcard files: one alternative a line, read once at the start. Pure: texts in, templates out."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bot.errors import ConfigError, RequestError
from bot.prompts.choices import MAX_GROWN_CHARS, Scanned, Template, Wildcards, scan

MAX_FILES = 500
MAX_FILE_BYTES = 1_000_000
MAX_LINES = 20_000
MAX_LINE_CHARS = 600
MAX_NESTING = 8
_NAME = re.compile(r"[a-z0-9](?:[\w/-]{0,80}[a-z0-9])?")


def parse_wildcards(texts: Mapping[str, str], *, origin: str) -> Wildcards:
    """Read the texts of wildcard files, by name ("animals", "places/cities"); empty lines and lines that begin with # are left out.

    A line may hold choices and other wildcards, not in a circle. Raises ConfigError naming `origin`, file and line.
    """
    return _Reading(texts, origin).all()


class _Reading:
    """Files are read as they are named, so that the length a line can grow to is known where it is used."""

    def __init__(self, texts: Mapping[str, str], origin: str) -> None:
        self._origin = origin
        self._texts = {self._name(name): text for name, text in texts.items()}
        self._lines: dict[str, tuple[Template, ...]] = {}
        self._longest: dict[str, int] = {}
        self._open: list[str] = []

    def all(self) -> Wildcards:
        for name in self._texts:
            self._read(name)
        return Wildcards(self._lines, self._longest)

    def _name(self, name: str) -> str:
        lower = name.lower()
        if not _NAME.fullmatch(lower) or "__" in lower:
            raise ConfigError(
                f"{self._origin}: {name[:80]!r} cannot be the name of a wildcard; a file's name has letters, digits, - and _."
            )
        return lower

    def _read(self, name: str) -> int | None:
        if name in self._longest:
            return self._longest[name]
        if name not in self._texts:
            return None
        where = f"{self._origin}, {name}.txt"
        if name in self._open or len(self._open) >= MAX_NESTING:
            circle = " → ".join((*self._open, name))
            raise ConfigError(
                f"{where}: wildcards name each other in a circle, or more than {MAX_NESTING} deep: {circle}."
            )
        self._open.append(name)
        found = [self._line(line, f"{where}, line {n}") for n, line in _kept(self._texts[name])]
        self._open.pop()
        if not found:
            raise ConfigError(f"{where}: the file has no alternatives; write one a line, or take it away.")
        if len(found) > MAX_LINES:
            raise ConfigError(f"{where}: the file has {len(found):,} alternatives; at most {MAX_LINES:,} are taken.")
        self._lines[name] = tuple(dict.fromkeys(line.template for line in found))
        self._longest[name] = max(line.longest for line in found)
        return self._longest[name]

    def _line(self, line: str, where: str) -> Scanned:
        if len(line) > MAX_LINE_CHARS:
            raise ConfigError(f"{where}: {len(line)} characters; at most {MAX_LINE_CHARS} are taken.")
        try:
            return scan(line, self._read)
        except RequestError as error:
            raise ConfigError(f"{where}: {error}") from None


def _kept(text: str) -> list[tuple[int, str]]:
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1)]
    return [(n, line) for n, line in lines if line and not line.startswith("#")]


assert MAX_LINE_CHARS < MAX_GROWN_CHARS
