"""`/batch`: many prompts in one request, from a form or a file."""

from __future__ import annotations

from typing import Any

import discord
from discord import app_commands
from discord.app_commands import Choice, Range
from discord.ext import commands

from bot import limits
from bot.catalogue.models import ASPECTS
from bot.generation import QUALITIES, GenerationOptions
from bot.ui.buttons import check_may_draw
from bot.ui.choices import models_matching, samplers_matching
from bot.ui.forms import list_form
from bot.ui.house import House, house_of
from bot.ui.lists import check_options, draw_list


class Batch(commands.Cog):
    """Draw many prompts."""

    def __init__(self, house: House) -> None:
        self.house = house

    @app_commands.command(description="Draw a list of prompts, one picture each")
    @app_commands.describe(
        file="A .txt file with one prompt a line; left out, a form opens",
        negative_prompt="What to avoid in all of them",
        model="Which model draws; /models lists them",
        aspect="Shape of the pictures: one of the model's sizes",
        steps="Denoising steps: more is finer and slower",
        guidance="How closely to follow the prompts",
        seed="That of the first picture; each has the next one",
        sampler="The method of denoising",
        quality="draft is quick and rough, where the model has drafts",
        private="Show the pictures only to you",
        spoiler="Hide the pictures behind a spoiler",
    )
    @app_commands.choices(
        aspect=[Choice(name=aspect, value=aspect) for aspect in ASPECTS],
        quality=[Choice(name=quality, value=quality) for quality in QUALITIES],
    )
    async def batch(
        self,
        interaction: discord.Interaction[Any],
        file: discord.Attachment | None = None,
        negative_prompt: Range[str, 0, limits.MAX_NEGATIVE_CHARS] | None = None,
        model: str | None = None,
        aspect: str | None = None,
        steps: Range[int, limits.MIN_STEPS, limits.MAX_STEPS] | None = None,
        guidance: Range[float, limits.MIN_GUIDANCE, limits.MAX_GUIDANCE] | None = None,
        seed: Range[int, 0, limits.MAX_SEED] | None = None,
        sampler: str | None = None,
        quality: str | None = None,
        private: bool = False,
        spoiler: bool = False,
    ) -> None:
        """Open the form, or read the file and queue what it lists."""
        house = house_of(interaction)
        check_may_draw(interaction, house)
        options = GenerationOptions(
            "", negative_prompt, model, aspect, steps=steps, guidance=guidance, seed=seed, sampler=sampler,
            quality=quality, private=private, spoiler=spoiler,
        )  # fmt: skip
        if file is not None:
            await draw_list(interaction, house, options, file)
            return
        check_options(house, options)
        await interaction.response.send_modal(list_form(options, house.service.catalogue))

    @batch.autocomplete("model")
    async def complete_model(self, interaction: discord.Interaction[Any], typed: str) -> list[Choice[str]]:
        """Offer models whose id or name contains what is typed."""
        return models_matching(self.house.service.catalogue, typed)

    @batch.autocomplete("sampler")
    async def complete_sampler(self, interaction: discord.Interaction[Any], typed: str) -> list[Choice[str]]:
        """Offer the samplers of the model chosen so far."""
        return samplers_matching(self.house.service.catalogue, interaction.namespace.model, typed)


async def setup(bot: commands.Bot) -> None:
    """Load the cog."""
    await bot.add_cog(Batch(bot.house))  # type: ignore[attr-defined]  # EaselClient carries it
