"""`/describe`: a picture put into words that can be drawn."""

from __future__ import annotations

from typing import Any

import discord
from discord import app_commands
from discord.app_commands import Choice
from discord.ext import commands

from bot.prompts.describing import captioners
from bot.ui.buttons import check_may_draw
from bot.ui.choices import matching
from bot.ui.describing import DrawWordsButton, description_view
from bot.ui.house import House, age_restricted
from bot.ui.inputs import MAX_BYTES, check_file
from bot.ui.media import Media


class Describe(commands.Cog):
    """Put pictures into words."""

    def __init__(self, house: House) -> None:
        self.house = house

    @app_commands.command(description="Put a picture into words, as a prompt that can be drawn")
    @app_commands.describe(
        image="A PNG, JPEG or WebP picture", model="Which model looks at it; left out, the first that is here"
    )
    async def describe(
        self, interaction: discord.Interaction[Any], image: discord.Attachment, model: str | None = None
    ) -> None:
        """Check what needs no waiting, acknowledge, have it looked at, answer privately."""
        check_may_draw(interaction, self.house)
        check_file(Media(image.filename, image.url, image.size))
        await interaction.response.defer(ephemeral=True, thinking=True)
        data = await self.house.fetch(image.url, MAX_BYTES)
        service = self.house.service
        said = await service.describer.describe(
            data, interaction.user.id, age_restricted=age_restricted(interaction.channel), annotator=model
        )
        view = description_view(image.filename, said, service.catalogue)
        await interaction.followup.send(view=view, ephemeral=True)

    @describe.autocomplete("model")
    async def complete_model(self, interaction: discord.Interaction[Any], typed: str) -> list[Choice[str]]:
        """Offer the captioners of the catalogue."""
        known = captioners(self.house.service.catalogue)
        return matching(typed, [(f"{spec.name} · {spec.id}", spec.id) for spec in known])


async def setup(bot: commands.Bot) -> None:
    """Load the cog and its buttons."""
    bot.add_dynamic_items(DrawWordsButton)
    await bot.add_cog(Describe(bot.house))  # type: ignore[attr-defined]  # EaselClient carries it
