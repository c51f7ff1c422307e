"""`/history`: a member's own pictures."""

from __future__ import annotations

from typing import Any

import discord
from discord import app_commands
from discord.ext import commands

from bot.ui.history import OlderButton, ShowSelect, answer_page
from bot.ui.house import House


class History(commands.Cog):
    """Look back."""

    def __init__(self, house: House) -> None:
        self.house = house

    @app_commands.command(description="Your pictures, newest first, also those that could not be posted")
    async def history(self, interaction: discord.Interaction[Any]) -> None:
        """Answer with the first page."""
        await answer_page(interaction, self.house)


async def setup(bot: commands.Bot) -> None:
    """Load the cog and the controls of its pages."""
    bot.add_dynamic_items(OlderButton, ShowSelect)
    await bot.add_cog(History(bot.house))  # type: ignore[attr-defined]  # EaselClient carries it
