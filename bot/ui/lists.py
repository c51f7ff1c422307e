"""Lists of prompts that people send along as a file: looked at before the answer, fetched and read after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import discord

from bot.errors import AttachmentRefused
from bot.generation import GenerationOptions, GenerationRequest
from bot.prompts.lists import read_list
from bot.prompts.text import quoted
from bot.ui.buttons import draw, prepared
from bot.ui.house import House

MAX_LIST_BYTES = 512 * 1024
_ANY_PROMPT = "a list"


def check_options(house: House, options: GenerationOptions) -> GenerationRequest:
    """Check all but the prompts; the request they make with any one. Raises RequestError."""
    return house.service.prepare(replace(options, prompt=_ANY_PROMPT))


async def draw_list(
    interaction: discord.Interaction[Any], house: House, options: GenerationOptions, file: discord.Attachment
) -> None:
    """Check all that can be checked at once, acknowledge, read the file, queue.

    What is refused before the acknowledgement is refused privately; what only the lines show deletes the public placeholder first.
    """
    if not file.filename.lower().endswith(".txt"):
        raise AttachmentRefused(f"Attach a .txt file with one prompt a line; this is '{quoted(file.filename, 60)}'.")
    if file.size > MAX_LIST_BYTES:
        raise AttachmentRefused(f"The file is larger than {MAX_LIST_BYTES // 1024} KiB; split the list.")
    known = check_options(house, options)
    house.service.check_room(interaction.user.id)

    async def complete() -> GenerationRequest:
        lines = read_list(await house.fetch(file.url, MAX_LIST_BYTES))
        return await prepared(house, replace(options, lines=lines, seed=known.seed))

    await draw(interaction, house, known, complete)
