"""What happens when a form is sent: *Edit*, that of a picture to draw from, of words for one, or of a list of prompts."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from typing import Any

import discord

from bot.errors import RequestError
from bot.generation import GenerationOptions, GenerationRequest, InputRef
from bot.ui.answers import whisper
from bot.ui.buttons import check_may_draw, draw, drawable_job, prepared
from bot.ui.forms import (
    DRAW_FORM_ID,
    FORM_ID,
    INPUT_FORM_ID,
    LIST_FORM_ID,
    read_draw_form,
    read_form,
    read_input_form,
    read_list_form,
)
from bot.ui.house import House, house_of
from bot.ui.view import fenced

__all__ = [
    "DRAW_FORM_ID", "FORM_ID", "INPUT_FORM_ID", "LIST_FORM_ID", "draw_form_submitted", "drawn_as", "form_submitted",
    "input_form_submitted", "list_form_submitted",
]  # fmt: skip

LIST_FILE = "prompts.txt"

TYPED_CHARS = 1400


async def form_submitted(interaction: discord.Interaction[Any], job_id: str) -> None:
    """Queue what the form says, as a new message on the account of whoever sent it.

    A refusal hands the typed prompt back, because a form cannot be opened twice from one press.
    """
    house = house_of(interaction)
    job = await drawable_job(interaction, house, job_id)
    await drawn_as(interaction, house, lambda data: read_form(data, job))


async def input_form_submitted(interaction: discord.Interaction[Any], ref: InputRef) -> None:
    """Queue what the form says of a picture that was taken in; refusals as for `form_submitted`."""
    house = house_of(interaction)
    check_may_draw(interaction, house)
    await drawn_as(interaction, house, lambda data: read_input_form(data, ref))


async def draw_form_submitted(interaction: discord.Interaction[Any]) -> None:
    """Queue what the form says; refusals as for `form_submitted`."""
    house = house_of(interaction)
    check_may_draw(interaction, house)
    await drawn_as(interaction, house, read_draw_form)


async def list_form_submitted(interaction: discord.Interaction[Any]) -> None:
    """Queue a list of prompts; a refusal hands it back as a file, which `/batch` takes."""
    house = house_of(interaction)
    check_may_draw(interaction, house)
    await drawn_as(interaction, house, read_list_form)


async def drawn_as(
    interaction: discord.Interaction[Any], house: House, read: Callable[[Any], GenerationOptions],
    complete: Callable[[GenerationRequest], Awaitable[GenerationRequest]] | None = None,
) -> None:  # fmt: skip
    """Queue what a form says, as `read` understands it; a refusal hands back what was typed.

    `complete` makes the request that is committed of the one that was checked, where that takes a while.
    """
    data: Any = interaction.data or {}
    try:
        request = await prepared(house, read(data))
    except RequestError as error:
        typed = _typed(data, "prompt")
        if listed := _typed(data, "prompts"):
            file = discord.File(io.BytesIO(listed.encode("utf-8", "replace")), LIST_FILE)
            said = f"{error}\n\nYour prompts, to try again with `/batch file:`"
            await interaction.response.send_message(said, file=file, ephemeral=True)
            return
        await whisper(
            interaction, f"{error}\n\nYour prompt, to try again:\n{fenced(typed, TYPED_CHARS)}" if typed else str(error)
        )
        return
    await draw(interaction, house, request, None if complete is None else lambda: complete(request))


def _typed(data: Any, name: str) -> str:
    for row in data.get("components") or []:
        field = row.get("component") or {}
        if field.get("custom_id") == name:
            return str(field.get("value") or "")
    return ""
