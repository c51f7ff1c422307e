"""The one place where an error becomes words for a member; never "interaction failed"."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable
from typing import Any

import aiohttp
import discord
from discord import app_commands

from bot.errors import EaselError
from bot.prompts.text import inert
from bot.transport import SILENT

log = logging.getLogger(__name__)

LIMIT_CHARS = 1900
UNKNOWN_INTERACTION = 10062
ALREADY_ACKNOWLEDGED = 40060


async def whisper(interaction: discord.Interaction[Any], text: str) -> None:
    """Say something to the one who asked, and to nobody else.

    A deferred public response is deleted first, so that a refusal stays private.
    """
    if not interaction.response.is_done():
        await interaction.response.send_message(text[:LIMIT_CHARS], ephemeral=True)
        return
    await interaction.followup.send(text[:LIMIT_CHARS], ephemeral=True)


async def answer_error(interaction: discord.Interaction[Any], error: BaseException) -> None:
    """Answer with the error's own sentence, or, where it has none, with a reference that the log has too."""
    if isinstance(error, app_commands.CommandInvokeError):
        error = error.original
    if isinstance(error, discord.HTTPException) and error.code in (UNKNOWN_INTERACTION, ALREADY_ACKNOWLEDGED):
        # Nobody can be told any more: Discord gave the interaction up before our answer came, or delivered it twice
        # and has our answer already.
        log.warning("interaction %s was answered too late, or twice", interaction.id)
        return
    if isinstance(error, EaselError):
        text = str(error)
    elif isinstance(error, aiohttp.ClientError | TimeoutError):
        log.warning("interaction %s failed: Discord did not answer (%s)", interaction.id, error or type(error).__name__)
        text = "Discord did not answer us just now. Nothing you queued is lost; try again in a moment."
    elif isinstance(error, app_commands.TransformerError | app_commands.AppCommandError):
        text = f"That did not work: {inert(str(error), 300)}"
    else:
        reference = secrets.token_hex(3)
        log.error("interaction %s failed, reference %s", interaction.id, reference, exc_info=error)
        text = f"Something broke on our side; nothing you queued is lost. The operator finds it as `{reference}` in the log."
    try:
        await whisper(interaction, text)
    except (discord.HTTPException, *SILENT) as failure:
        log.warning("could not answer interaction %s: %s", interaction.id, failure)


async def guarded(interaction: discord.Interaction[Any], work: Awaitable[None]) -> None:
    """Run what a button or form does; whatever it raises is answered, not only logged."""
    try:
        await work
    except Exception as error:
        await answer_error(interaction, error)
