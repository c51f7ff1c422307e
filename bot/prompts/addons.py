"""LoRAs as people ask for them: `<lora:name:0.8>` in the prompt, "name:0.8, another" in the option. Pure."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence

from bot.catalogue.addons import DRAWN, FAMILIES, MAX_LORAS, MAX_WEIGHT, AddOn, fits
from bot.catalogue.models import Catalogue, ModelSpec
from bot.errors import RequestError
from bot.prompts.text import quoted

_BRACKETS = re.compile(r"<([^<>:,\n]{1,64})>")
_TAG = "<lora:"
_TAG_CHARS = 120
"""What is longer is no tag."""

Loras = tuple[tuple[str, float], ...]


def take_tags(prompt: str) -> tuple[str, Loras]:
    """Take the `<lora:…>` tags out of a prompt: the prompt without them, and what they name. Raises RequestError."""
    lower, kept, found, at = prompt.lower(), list[str](), list[tuple[str, float]](), 0
    while (start := lower.find(_TAG, at)) >= 0:
        end = prompt.find(">", start, start + _TAG_CHARS)
        if end < 0:
            kept.append(prompt[at : start + len(_TAG)])
            at = start + len(_TAG)
            continue
        kept.append(prompt[at:start])
        found.append(_named(prompt[start + len(_TAG) : end], prompt[start : end + 1]))
        at = end + 1
        if prompt[at : at + 1] == " " and (not kept[-1] or kept[-1][-1].isspace()):
            at += 1  # no two spaces where it stood
    kept.append(prompt[at:])
    return "".join(kept), tuple(found)


def read_option(text: str) -> Loras:
    """Read "name", "name:0.8" or several with commas. Raises RequestError."""
    parts = [part.strip() for part in text.split(",", MAX_LORAS + 1)]
    return tuple(_named(part, part) for part in parts if part)


def resolve_words(text: str, spec: ModelSpec, catalogue: Catalogue) -> str:
    """Check the embeddings that a text names as `<name>`, and give it with their proper names. Raises RequestError.

    What is in such brackets and is near to none is left as it is: people write all sorts of things.
    """
    able = fitting(catalogue.embeddings, spec)
    mine = {addon.name.lower(): addon.name for addon in reversed(able)}
    for name in set(_BRACKETS.findall(text)):
        if name.lower() in mine:
            text = text.replace(f"<{name}>", f"<{mine[name.lower()]}>")
            continue
        others = [addon for addon in catalogue.embeddings if addon.name.lower() == name.lower()]
        if others:
            raise RequestError(
                f"The embedding <{others[0].name}> was made for {_whose(others[0], catalogue)}, not for {spec.name}; "
                "take it out of the prompt, or choose another model."
            )
        if near := nearest(name, mine.values(), cutoff=0.8):
            raise RequestError(f"There is no embedding <{quoted(name, 60)}>; did you mean <{'> or <'.join(near)}>?")
    return text


def named_in(texts: Iterable[str], spec: ModelSpec, catalogue: Catalogue) -> list[AddOn]:
    """Choose the embeddings for a model that texts name as `resolve_words` gives them."""
    named = {name for text in texts for name in _BRACKETS.findall(text)} if catalogue.embeddings else set[str]()
    able = {addon.name: addon for addon in reversed(fitting(catalogue.embeddings, spec) if named else [])}
    return [addon for name, addon in able.items() if name in named]


def spelled(loras: Iterable[tuple[str, float]]) -> str:
    """Write LoRAs as `read_option` reads them."""
    return ", ".join(f"{name}:{weight:.10g}" for name, weight in loras)


def tags(loras: Iterable[tuple[str, float]]) -> str:
    """Write LoRAs as `take_tags` reads them."""
    return " ".join(f"<lora:{name}:{weight:.10g}>" for name, weight in loras)


def resolve_loras(asked: Sequence[tuple[str, float]], spec: ModelSpec, catalogue: Catalogue) -> Loras:
    """Check the LoRAs of a request against its model, and give them by their proper names. Raises RequestError."""
    if not asked:
        return ()
    if len(asked) > MAX_LORAS:
        raise RequestError(f"At most {MAX_LORAS} LoRAs go on one picture; leave {len(asked) - MAX_LORAS} out.")
    if spec.family not in FAMILIES:
        raise RequestError(f"{spec.name} takes no LoRAs; leave them out, or choose another model.")
    found: dict[str, float] = {}
    for name, weight in asked:
        addon = _find(name, spec, catalogue)
        if addon.name in found:
            raise RequestError(f"The LoRA {addon.name} is named twice; name it once, with one weight.")
        found[addon.name] = weight
    return tuple(found.items())


def fitting(addons: Iterable[AddOn], spec: ModelSpec) -> list[AddOn]:
    """Choose those that were made for a model."""
    return [addon for addon in addons if fits(addon, spec.id, spec.family, spec.words_width)]


def offered(loras: Iterable[AddOn], spec: ModelSpec) -> list[AddOn]:
    """Choose the LoRAs that a request for a model may name, each name once: the model's own come first."""
    able = [addon for addon in fitting(loras, spec) if addon.kind in DRAWN]
    return list({addon.name.lower(): addon for addon in reversed(able)}.values())[::-1]


def nearest(typed: str, names: Iterable[str], *, most: int = 2, cutoff: float = 0.6) -> list[str]:
    """Choose the names that are nearest to what was typed, best first."""
    by_lower = {name.lower(): name for name in names}
    return [by_lower[near] for near in difflib.get_close_matches(typed.lower(), list(by_lower), n=most, cutoff=cutoff)]


def _find(name: str, spec: ModelSpec, catalogue: Catalogue) -> AddOn:
    able = fitting(catalogue.loras, spec)
    mine = {addon.name.lower(): addon for addon in reversed(able)}  # the model's own come first, and count
    found = mine.get(name.lower())
    if found is not None and found.kind not in DRAWN:
        raise RequestError(f"{found.name} is a {found.kind}, which is not drawn with here; choose a LoRA or LoCon.")
    if found is not None:
        return found
    others = [addon for addon in catalogue.loras if addon.name.lower() == name.lower()]
    if others:
        other = others[0]
        raise RequestError(
            f"The LoRA {other.name} was made for {_whose(other, catalogue)}, not for {spec.name}; "
            "choose another LoRA, or another model."
        )
    able = offered(catalogue.loras, spec)
    near = nearest(name, [addon.name for addon in able])
    if near:
        raise RequestError(f"There is no LoRA '{quoted(name, 60)}'; did you mean {' or '.join(near)}?")
    if not able:
        raise RequestError(f"There is no LoRA '{quoted(name, 60)}', nor any other for {spec.name}; leave it out.")
    some = ", ".join(addon.name for addon in able[:6])
    raise RequestError(f"There is no LoRA '{quoted(name, 60)}'; {spec.name} has {some}{' …' if len(able) > 6 else ''}.")


def _whose(addon: AddOn, catalogue: Catalogue) -> str:
    return addon.made_for if addon.only is None else catalogue.name_of(addon.only)


def _named(text: str, whole: str) -> tuple[str, float]:
    """Read "name" or "name:0.8"."""
    name, colon, number = (part.strip() for part in text.partition(":"))
    if not name:
        raise RequestError(f"“{quoted(whole, 60)}” names no LoRA; write it as name:0.8.")
    if not colon:
        return name, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise RequestError(
            f"The weight of the LoRA {quoted(name, 60)} is “{quoted(number, 40)}”; it takes one number, as 0.8."
        )
    if not -MAX_WEIGHT <= weight <= MAX_WEIGHT:
        raise RequestError(
            f"The weight of a LoRA goes from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}; {number[:20]} of {quoted(name, 60)} does not fit."
        )
    return name, weight or 0.0  # never -0
