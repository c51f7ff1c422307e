"""Autocomplete."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from discord.app_commands import Choice

from bot.catalogue.addons import AddOn
from bot.catalogue.models import Catalogue
from bot.prompts.addons import nearest
from bot.prompts.grids import AXES, MODEL, NO_STYLE

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


def axes_matching(catalogue: Catalogue, model: str | None, typed: str) -> list[Choice[str]]:
    """Offer an example of what each sheet can compare; once that is named, what is typed and the names that may come next."""
    chosen = catalogue.get(model or "") or catalogue[catalogue.default]
    named = {
        MODEL: [spec.id for spec in catalogue.models],
        "style": [NO_STYLE, *(style.id for style in catalogue.styles)],
        "sampler": list(chosen.samplers),
    }
    name, colon, values = typed.partition(":")
    if not colon:
        # Names that are not here are no example.
        examples = {axis: ", ".join(named.get(axis, [])[:3]) or kind.example for axis, kind in AXES.items()}
        return matching(typed, [(text, text) for text in (f"{axis}: {example}" for axis, example in examples.items())])
    before, comma, last = (part.strip() for part in values.rpartition(","))
    taken = {value.strip() for value in before.split(",")}
    start = f"{name.strip()}: {before}, " if comma else f"{name.strip()}: "
    nexts = [one for one in named.get(name.strip().lower(), []) if last.lower() in one.lower() and one not in taken]
    whole = dict.fromkeys([typed, *(start + one for one in nexts)])
    return [Choice(name=text, value=text) for text in whole if len(text) <= 100][:MOST]


def styles_matching(catalogue: Catalogue, typed: str) -> list[Choice[str]]:
    """Offer styles whose id or name contains what is typed."""
    return matching(typed, [(f"{style.name} · {style.id}", style.id) for style in catalogue.styles])


def loras_matching(typed: str, offered: Sequence[AddOn]) -> list[Choice[str]]:
    """Choose the LoRAs that what is typed after the last comma may mean: by name or trigger words, else the nearest names.

    What stands before it stays, and so does a weight; each choice is the whole text.
    """
    before, comma, last = typed.rpartition(",")
    name, colon, weight = (part.strip() for part in last.partition(":"))
    pairs = [(f"{one.name} · {', '.join(one.triggers)}" if one.triggers else one.name, one.name) for one in offered]
    found = matching(name, pairs)
    if not found:
        near = nearest(name, [one.name for one in offered], most=MOST)
        found = [Choice(name=label[:100], value=value) for label, value in pairs if value in near]
    kept, given = f"{before.strip()}, " if comma else "", f":{weight}" if colon else ""
    whole = [Choice(name=f"{kept}{one.name}"[:100], value=f"{kept}{one.value}{given}") for one in found]
    return [one for one in whole if len(one.value) <= 100]
