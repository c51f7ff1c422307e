"""Autocomplete."""

from __future__ import annotations

from collections.abc import Iterable

from discord.app_commands import Choice

MOST = 25


def matching(typed: str, offered: Iterable[tuple[str, str]]) -> list[Choice[str]]:
    """Choose from (label, value) pairs those that contain every typed word, best first; at most 25."""
    wanted = typed.lower().split()
    found = [(label, value) for label, value in offered if all(word in label.lower() for word in wanted)]
    found.sort(key=lambda pair: not pair[0].lower().startswith(typed.lower()))
    return [Choice(name=label[:100], value=value) for label, value in found[:MOST]]
