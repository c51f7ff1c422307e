"""`/privacy`: what is kept of a member, given to them or removed."""

from __future__ import annotations

from typing import Any

import discord
from discord import app_commands
from discord.ext import commands

from bot.ui.house import House
from bot.ui.privacy import EraseButton, answer_export, ask_before_erasing


class Privacy(commands.GroupCog, name="privacy", description="What the bot keeps about you"):
    """Let members have and remove their data."""

    def __init__(self, house: House) -> None:
        self.house = house

    @app_commands.command(description="Get everything the bot keeps about you, as a file")
    async def export(self, interaction: discord.Interaction[Any]) -> None:
        """Answer with the file."""
        await answer_export(interaction, self.house)

    @app_commands.command(description="Delete everything the bot keeps about you; asks first")
    async def delete(self, interaction: discord.Interaction[Any]) -> None:
        """Answer with the question."""
        await ask_before_erasing(interaction, self.house)


async def setup(bot: commands.Bot) -> None:
    """Load the cog and its button."""
    bot.add_dynamic_items(EraseButton)
    await bot.add_cog(Privacy(bot.house))  # type: ignore[attr-defined]  # EaselClient carries it
