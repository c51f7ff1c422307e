"""What a message shows: Discord lists no attachments for files that components name, so the components are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import discord

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_TOLD = re.compile(r"\*\*(?P<head>[^*]+)\*\*\n```\n(?P<text>.*)\n```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Media:
    """A file of a message; `size_bytes` is None where only a component names it."""

    name: str
    url: str
    size_bytes: int | None = None


def walk(components: Iterable[Any]) -> Iterator[Any]:
    """Go through components and all inside them."""
    for component in components:
        yield component
        yield from walk(getattr(component, "children", ()))
        accessory = getattr(component, "accessory", None)
        if accessory is not None:
            yield from walk([accessory])


def media_of(message: discord.Message) -> list[Media]:
    """List a message's files, attached or named by a component, each once."""
    found = {file.url: Media(file.filename, file.url, file.size) for file in message.attachments}
    for component in walk(message.components):
        items = getattr(component, "items", None) or [component]
        for media in (getattr(item, "media", None) for item in items):
            if media is not None and media.url not in found:
                name = unquote(PurePosixPath(urlsplit(media.url).path).name)
                found[media.url] = Media(name, media.url)
    return list(found.values())


def told_in(message: discord.Message) -> dict[str, str]:
    """Read what a message of ours tells in code blocks, by the heading above each."""
    texts = (str(getattr(component, "content", "")) for component in walk(message.components))
    return {match["head"]: match["text"].replace("\u200b", "") for text in texts if (match := _TOLD.fullmatch(text))}


def shows_button(message: discord.Message, custom_id: str) -> bool:
    """Whether a message has a button or select of this custom id."""
    return any(getattr(component, "custom_id", None) == custom_id for component in walk(message.components))


def shows_job(message: discord.Message, job_id: str) -> bool:
    """Whether a message shows a request's result: its pictures, or a button of it."""
    if any(f"-{job_id}-" in media.name for media in media_of(message)):
        return True
    return shows_button(message, f"easel:v1:delete:{job_id}")


def shows_file(message: discord.Message, job_id: str, n: int) -> bool:
    """Whether a message shows picture `n` (from 0) of a request, in whatever format."""
    return any(f"easel-{job_id}-{n + 1}." in media.name for media in media_of(message))
