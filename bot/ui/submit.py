"""What happens when the *Edit* form is sent."""

from __future__ import annotations

from typing import Any

import discord

from bot.errors import RequestError
from bot.ui.answers import whisper
from bot.ui.buttons import draw, drawable_job
from bot.ui.forms import FORM_ID, read_form
from bot.ui.house import house_of
from bot.ui.view import fenced

__all__ = ["FORM_ID", "form_submitted"]

TYPED_CHARS = 1400


async def form_submitted(interaction: discord.Interaction[Any], job_id: str) -> None:
    """Queue what the form says, as a new message on the account of whoever sent it.

    A refusal hands the typed prompt back, because a form cannot be opened twice from one press.
    """
    house = house_of(interaction)
    job = await drawable_job(interaction, house, job_id)
    data: Any = interaction.data or {}
    try:
        options = read_form(data, job)
        request = house.service.prepare(options)
    except RequestError as error:
        typed = _typed_prompt(data)
        await whisper(
            interaction, f"{error}\n\nYour prompt, to try again:\n{fenced(typed, TYPED_CHARS)}" if typed else str(error)
        )
        return
    await draw(interaction, house, request)


def _typed_prompt(data: Any) -> str:
    for row in data.get("components") or []:
        field = row.get("component") or {}
        if field.get("custom_id") == "prompt":
            return str(field.get("value") or "")
    return ""
