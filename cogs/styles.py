"""`/styles`: what words each style puts around a prompt."""

from __future__ import annotations

from typing import Any

import discord
from discord import app_commands, ui
from discord.ext import commands

from bot.prompts.text import inert
from bot.ui.house import House
from bot.ui.view import sealed

SHOWN_CHARS = 3700


class Styles(commands.Cog):
    """List the styles."""

    def __init__(self, house: House) -> None:
        self.house = house

    @app_commands.command(description="List the styles for `style`, and the words each puts around a prompt")
    async def styles(self, interaction: discord.Interaction[Any]) -> None:
        """Answer with a line a style, the words in the small print."""
        styles = self.house.service.catalogue.styles
        lines: list[str] = []
        for style in styles:
            line = f"**{inert(style.name, 60)}** `{style.id}`\n-# {inert(style.prompt.replace('{prompt}', '…'), 120)}"
            if sum(map(len, lines)) + len(lines) + len(line) > SHOWN_CHARS:
                lines.append(f"-# and {len(styles) - len(lines)} more; type to search in `style`")
                break
            lines.append(line)
        text = "\n".join(lines) or "There are no styles here."
        await interaction.response.send_message(view=sealed(ui.Container(ui.TextDisplay(text))), ephemeral=True)


async def setup(bot: commands.Bot) -> None:
    """Load the cog."""
    await bot.add_cog(Styles(bot.house))  # type: ignore[attr-defined]  # EaselClient carries it
