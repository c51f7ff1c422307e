"""`/info` and the message command *Image info*: read back what made a picture, ours or another program's."""

from __future__ import annotations

from typing import Any

import discord
from discord import app_commands
from discord.ext import commands

from bot.errors import AttachmentRefused
from bot.ui.answers import guarded
from bot.ui.house import House
from bot.ui.info import picture_info
from bot.ui.inputs import MAX_BYTES, check_file
from bot.ui.like import LikeButton, kept_job, way_back
from bot.ui.media import PICTURE_SUFFIXES, Media, media_of


class Info(commands.Cog):
    """Read pictures' parameters."""

    def __init__(self, house: House) -> None:
        self.house = house

    @app_commands.command(description="Read the prompt and parameters a picture file carries")
    @app_commands.describe(image="A PNG, JPEG or WebP file, as it was downloaded")
    async def info(self, interaction: discord.Interaction[Any], image: discord.Attachment) -> None:
        """Fetch the file, read it in a separate process, answer privately."""
        await self.answer(interaction, Media(image.filename, image.url, image.size))

    async def answer(self, interaction: discord.Interaction[Any], image: Media) -> None:
        """Refuse what cannot be a picture at once; read the rest."""
        check_file(image)
        await interaction.response.defer(ephemeral=True, thinking=True)
        data = await self.house.fetch(image.url, MAX_BYTES)
        found = await self.house.service.read_info(data)
        button = None if found is None else way_back(found, await kept_job(interaction, self.house, found))
        await interaction.followup.send(view=picture_info(image.name, found, button), ephemeral=True)

    async def image_info(self, interaction: discord.Interaction[Any], message: discord.Message) -> None:
        """Read the first picture of a message."""
        pictures = [file for file in media_of(message) if file.name.lower().endswith(PICTURE_SUFFIXES)]
        if not pictures:
            raise AttachmentRefused("This message has no PNG, JPEG or WebP picture attached.")
        await self.answer(interaction, pictures[0])


async def setup(bot: commands.Bot) -> None:
    """Load the cog and its message command, which discord.py does not take from a cog by itself."""
    bot.add_dynamic_items(LikeButton)
    cog = Info(bot.house)  # type: ignore[attr-defined]  # EaselClient carries it
    await bot.add_cog(cog)

    async def image_info(interaction: discord.Interaction[Any], message: discord.Message) -> None:
        await guarded(interaction, cog.image_info(interaction, message))

    bot.tree.add_command(app_commands.ContextMenu(name="Image info", callback=image_info))
