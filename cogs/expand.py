"""`/expand`: draw what lies beyond the edges of a picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import discord
from discord import app_commands
from discord.app_commands import Choice, Range
from discord.ext import commands

from bot import limits
from bot.generation import GenerationOptions, GenerationRequest, InputRef
from bot.prompts.pictures import MAX_EXPAND, MIN_EXPAND, SIDES, USUAL_EXPAND, expanded_size
from bot.ui.buttons import check_may_draw, draw
from bot.ui.choices import models_matching
from bot.ui.house import House, age_restricted, house_of
from bot.ui.inputs import NOT_YET, check_file, take
from bot.ui.media import Media


class Expand(commands.Cog):
    """Outpaint."""

    def __init__(self, house: House) -> None:
        self.house = house

    @app_commands.command(description="Draw what lies beyond the edges of a picture")
    @app_commands.describe(
        image="The picture, a PNG, JPEG or WebP file",
        prompt="What the whole picture shows, with what is new",
        side="Where to go on",
        amount="How much is added, in percent of the picture's width or height",
        negative_prompt="What to avoid",
        model="Which model draws; /models lists them",
        seed="The same seed and options give the same picture",
        private="Show the pictures only to you",
    )
    @app_commands.choices(side=[Choice(name=name, value=name) for name in SIDES])
    async def expand(
        self,
        interaction: discord.Interaction[Any],
        image: discord.Attachment,
        prompt: Range[str, 1, limits.MAX_PROMPT_CHARS],
        side: str = "all",
        amount: Range[int, MIN_EXPAND, MAX_EXPAND] = USUAL_EXPAND,
        negative_prompt: Range[str, 0, limits.MAX_NEGATIVE_CHARS] | None = None,
        model: str | None = None,
        seed: Range[int, 0, limits.MAX_SEED] | None = None,
        private: bool = False,
    ) -> None:
        """Check what needs no waiting, acknowledge, widen the picture, queue what is white around it as a mask."""
        house = house_of(interaction)
        check_may_draw(interaction, house)
        check_file(Media(image.filename, image.url, image.size))
        width, height = expanded_size(image.width or 512, image.height or 512, side, amount)
        guess = InputRef(NOT_YET, width, height)
        options = GenerationOptions(prompt, negative_prompt, model, seed=seed, private=private, image=guess, mask=guess)
        known = house.service.prepare(options)

        async def complete() -> GenerationRequest:
            restricted = age_restricted(interaction.channel)
            picture = await take(house, image.url, restricted=restricted)
            wide, mask = await house.service.widen_input(picture, side, amount)
            return house.service.prepare(replace(options, image=wide, mask=mask, seed=known.seed))

        await draw(interaction, house, known, complete)

    @expand.autocomplete("model")
    async def complete_model(self, interaction: discord.Interaction[Any], typed: str) -> list[Choice[str]]:
        """Offer models whose id or name contains what is typed."""
        return models_matching(self.house.service.catalogue, typed)


async def setup(bot: commands.Bot) -> None:
    """Load the cog."""
    await bot.add_cog(Expand(bot.house))  # type: ignore[attr-defined]  # EaselClient carries it
