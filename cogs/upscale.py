"""`/upscale` and the message command *Upscale*: a picture of anybody's, larger."""

from __future__ import annotations

from typing import Any, Literal

import discord
from discord import app_commands
from discord.app_commands import Choice
from discord.ext import commands

from bot.errors import AttachmentRefused
from bot.generation import PLAIN, UPSCALE_MODES, InputRef, UpscaleOptions
from bot.ui.answers import guarded
from bot.ui.buttons import check_may_draw
from bot.ui.house import House
from bot.ui.inputs import NOT_YET
from bot.ui.media import PICTURE_SUFFIXES, Media, media_of
from bot.ui.upscaling import UPSCALE_ITEMS, upscale_file

_UNMEASURED_PX = 64


class Upscale(commands.Cog):
    """Enlarge pictures."""

    def __init__(self, house: House) -> None:
        self.house = house

    @app_commands.command(description="Enlarge a picture with a super-resolution model")
    @app_commands.describe(
        image="A PNG, JPEG or WebP picture of at most 2048 px a side",
        factor="How many times wider and higher",
        mode="detail redraws the details after that",
        private="Show the picture only to you",
    )
    @app_commands.choices(mode=[Choice(name=mode, value=mode) for mode in UPSCALE_MODES])
    async def upscale(
        self,
        interaction: discord.Interaction[Any],
        image: discord.Attachment,
        factor: Literal[2, 4] = 2,
        mode: str = PLAIN,
        private: bool = False,
    ) -> None:
        """Check what needs no waiting, acknowledge, queue."""
        check_may_draw(interaction, self.house)
        size = InputRef(NOT_YET, image.width or _UNMEASURED_PX, image.height or _UNMEASURED_PX)
        options = UpscaleOptions(size, factor, mode, private=private)
        await upscale_file(interaction, self.house, Media(image.filename, image.url, image.size), options)

    async def upscale_message(self, interaction: discord.Interaction[Any], message: discord.Message) -> None:
        """Enlarge the first picture of a message, 2×."""
        check_may_draw(interaction, self.house)
        pictures = [file for file in media_of(message) if file.name.lower().endswith(PICTURE_SUFFIXES)]
        if not pictures:
            raise AttachmentRefused("This message has no PNG, JPEG or WebP picture to upscale.")
        options = UpscaleOptions(InputRef(NOT_YET, _UNMEASURED_PX, _UNMEASURED_PX))
        await upscale_file(interaction, self.house, pictures[0], options)


async def setup(bot: commands.Bot) -> None:
    """Load the cog, its buttons, and its message command, which discord.py does not take from a cog by itself."""
    cog = Upscale(bot.house)  # type: ignore[attr-defined]  # EaselClient carries it
    await bot.add_cog(cog)
    bot.add_dynamic_items(*UPSCALE_ITEMS)

    async def upscale(interaction: discord.Interaction[Any], message: discord.Message) -> None:
        await guarded(interaction, cog.upscale_message(interaction, message))

    bot.tree.add_command(app_commands.ContextMenu(name="Upscale", callback=upscale))
