"""Autocomplete."""

from __future__ import annotations

from collections.abc import Iterable

from discord.app_commands import Choice

from bot.catalogue import Catalogue

MOST = 25


def matching(typed: str, offered: Iterable[tuple[str, str]]) -> list[Choice[str]]:
    """Choose from (label, value) pairs those that contain every typed word, best first; at most 25."""
    wanted = typed.lower().split()
    found = [(label, value) for label, value in offered if all(word in label.lower() for word in wanted)]
    found.sort(key=lambda pair: not pair[0].lower().startswith(typed.lower()))
    return [Choice(name=label[:100], value=value) for label, value in found[:MOST]]


def models_matching(catalogue: Catalogue, typed: str) -> list[Choice[str]]:
    """Offer models whose id or name contains what is typed."""
    return matching(typed, [(f"{m.name} · {m.id}", m.id) for m in catalogue.models])


def samplers_matching(catalogue: Catalogue, model: str | None, typed: str) -> list[Choice[str]]:
    """Offer the samplers of the model chosen so far."""
    chosen = catalogue.get(model or "") or catalogue[catalogue.default]
    return matching(typed, [(name, name) for name in chosen.samplers])
