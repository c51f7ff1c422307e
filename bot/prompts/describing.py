"""A picture put into words: who may do it, and what comes of it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bot.catalogue.annotators import CAPTION, AnnotatorSpec
from bot.catalogue.models import Catalogue
from bot.errors import ModelError, RequestError
from bot.prompts.readers import PictureInfo
from bot.prompts.text import quoted

MAX_CAPTION_CHARS = 400
SIDE_PX = 768
"""Captioners look at 224 to 480 pixels; more of a picture is not opened for them."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a picture shows, as a prompt: the words of `annotator`, an id; `info` is what its file says of its making, where it does."""

    prompt: str
    annotator: str
    info: PictureInfo | None = None


def captioners(catalogue: Catalogue) -> tuple[AnnotatorSpec, ...]:
    """List who puts pictures into words, in the catalogue's order."""
    return tuple(spec for spec in catalogue.annotators if spec.kind == CAPTION)


def choose_captioner(catalogue: Catalogue, asked: str | None, is_local: Callable[[str], bool]) -> AnnotatorSpec:
    """Give the captioner that was asked for, else the first that is here. Touches the disk where `is_local` does.

    Raises RequestError where the one asked for is none, ModelError where none is here.
    """
    known = captioners(catalogue)
    if asked is not None:
        found = next((spec for spec in known if spec.id == asked), None)
        if found is None:
            there = ", ".join(spec.id for spec in known) or "none"
            raise RequestError(f"There is no captioner “{quoted(asked, 60)}”; the catalogue has {there}.")
        return found
    found = next((spec for spec in known if is_local(spec.id)), None)
    if found is None:
        how = f"run `python -m bot models fetch {known[0].id}`" if known else "name one in models.toml"
        raise ModelError(f"No model that describes pictures is here yet; whoever runs the bot can {how}.")
    return found
