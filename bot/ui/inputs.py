"""Pictures that people send along: looked at before the answer, fetched and taken in after it, named in the request then."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import discord

from bot.errors import AttachmentRefused
from bot.generation import GenerationOptions, GenerationRequest, InputRef
from bot.prompts.text import quoted
from bot.ui.buttons import draw
from bot.ui.house import House, age_restricted
from bot.ui.media import PICTURE_SUFFIXES, Media

MAX_BYTES = 25 * 1024 * 1024
NOT_YET = "0" * 64
"""Stands for a picture that is not taken in yet, while the rest is checked."""

Attached = Mapping[str, discord.Attachment | None]
"""Attachments by the option they came with: `image`, `mask`, `control`, `reference`."""


def check_file(file: Media) -> None:
    """Refuse what cannot be a picture, before anything is fetched. Raises AttachmentRefused."""
    if not file.name.lower().endswith(PICTURE_SUFFIXES):
        raise AttachmentRefused(f"Attach a PNG, JPEG or WebP picture; this is '{quoted(file.name, 60)}'.")
    if (file.size_bytes or 0) > MAX_BYTES:
        raise AttachmentRefused(f"The file is larger than {MAX_BYTES // 1024 // 1024} MiB.")


async def draw_with(
    interaction: discord.Interaction[Any], house: House, options: GenerationOptions, attached: Attached
) -> None:
    """Check all that can be checked at once, acknowledge, take the pictures in, queue.

    What is refused before the acknowledgement is refused privately; what a picture shows only when it is opened deletes the public
    placeholder first.
    """
    files = {name: file for name, file in attached.items() if file is not None}
    for file in files.values():
        check_file(Media(file.filename, file.url, file.size))
    # Discord measures pictures; one that it could not measure is taken for a square until it is opened.
    guessed = {name: InputRef(NOT_YET, file.width or 512, file.height or 512) for name, file in files.items()}
    known = house.service.prepare(replace(options, **_comparable(guessed)))

    async def complete() -> GenerationRequest:
        refs = await _take_all(house, files, age_restricted(interaction.channel))
        return house.service.prepare(replace(options, **refs, seed=known.seed))  # by which its choices are made

    await draw(interaction, house, known, complete if files else None)


async def take(house: House, url: str, *, restricted: bool, mask: bool = False) -> InputRef:
    """Fetch a picture and take it in. Raises AttachmentRefused, ModerationRefused, StorageError."""
    data = await house.fetch(url, MAX_BYTES)
    return await house.service.take_input(data, age_restricted=restricted, mask=mask)


async def _take_all(house: House, files: Mapping[str, discord.Attachment], restricted: bool) -> dict[str, Any]:
    taken = await asyncio.gather(
        *(take(house, file.url, restricted=restricted, mask=name == "mask") for name, file in files.items())
    )
    return dict(zip(files, taken, strict=True))


def _comparable(guessed: dict[str, InputRef]) -> dict[str, Any]:
    """Leave a mask's size to be compared when both are open: a turned photo is measured as it lies in its file."""
    image, mask = guessed.get("image"), guessed.get("mask")
    return {**guessed, "mask": image} if image is not None and mask is not None else dict(guessed)
