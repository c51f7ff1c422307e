"""`/grid`: one prompt over the values of one or two options, as one labelled sheet."""

from __future__ import annotations

from typing import Any

import discord
from discord import app_commands
from discord.app_commands import Choice, Range
from discord.ext import commands

from bot import limits
from bot.catalogue.models import ASPECTS
from bot.generation import GenerationOptions
from bot.prompts.addons import offered
from bot.prompts.grids import read_axis
from bot.ui.buttons import check_may_draw, draw
from bot.ui.choices import axes_matching, loras_matching, models_matching, samplers_matching, styles_matching
from bot.ui.house import House, house_of

AXIS_CHARS = 300


class Grid(commands.Cog):
    """Compare."""

    def __init__(self, house: House) -> None:
        self.house = house

    @app_commands.command(description="Compare values of one or two options, as one labelled sheet")
    @app_commands.describe(
        prompt="What to draw",
        x="What to compare along the top, and its values: “steps: 10, 20, 30”, “model: sd15, sdxl”",
        y="What to compare down the side: “guidance: 3, 5, 7”",
        negative_prompt="What to avoid",
        model="Which model draws, where models are not compared; /models lists them",
        aspect="Shape of the pictures: one of the model's sizes",
        steps="Denoising steps, where they are not compared",
        guidance="How closely to follow the prompt, where that is not compared",
        seed="That of all the pictures, where seeds are not compared",
        sampler="The method of denoising, where that is not compared",
        style="Words around the prompt, where styles are not compared",
        lora="LoRAs, as chalk:0.8 or several with commas; the weight of one can be compared",
        private="Show the sheet only to you",
        spoiler="Hide the sheet behind a spoiler",
    )
    @app_commands.choices(aspect=[Choice(name=aspect, value=aspect) for aspect in ASPECTS])
    async def grid(
        self,
        interaction: discord.Interaction[Any],
        prompt: Range[str, 1, limits.MAX_PROMPT_CHARS],
        x: Range[str, 1, AXIS_CHARS],
        y: Range[str, 1, AXIS_CHARS] | None = None,
        negative_prompt: Range[str, 0, limits.MAX_NEGATIVE_CHARS] | None = None,
        model: str | None = None,
        aspect: str | None = None,
        steps: Range[int, limits.MIN_STEPS, limits.MAX_STEPS] | None = None,
        guidance: Range[float, limits.MIN_GUIDANCE, limits.MAX_GUIDANCE] | None = None,
        seed: Range[int, 0, limits.MAX_SEED] | None = None,
        sampler: str | None = None,
        style: str | None = None,
        lora: Range[str, 0, limits.MAX_LORA_CHARS] | None = None,
        private: bool = False,
        spoiler: bool = False,
    ) -> None:
        """Check all of it, acknowledge, queue."""
        house = house_of(interaction)
        check_may_draw(interaction, house)
        axes = tuple(read_axis(side, text) for side, text in (("x", x), ("y", y)) if text is not None)
        options = GenerationOptions(
            prompt, negative_prompt, model, aspect, steps=steps, guidance=guidance, seed=seed, sampler=sampler,
            private=private, spoiler=spoiler, axes=axes, style=style, lora=lora,
        )  # fmt: skip
        await draw(interaction, house, house.service.prepare(options))

    @grid.autocomplete("x")
    @grid.autocomplete("y")
    async def complete_axis(self, interaction: discord.Interaction[Any], typed: str) -> list[Choice[str]]:
        """Offer an example of each; once it is named, what may come next."""
        return axes_matching(self.house.service.catalogue, interaction.namespace.model, typed)

    @grid.autocomplete("model")
    async def complete_model(self, interaction: discord.Interaction[Any], typed: str) -> list[Choice[str]]:
        """Offer models whose id or name contains what is typed."""
        return models_matching(self.house.service.catalogue, typed)

    @grid.autocomplete("sampler")
    async def complete_sampler(self, interaction: discord.Interaction[Any], typed: str) -> list[Choice[str]]:
        """Offer the samplers of the model chosen so far."""
        return samplers_matching(self.house.service.catalogue, interaction.namespace.model, typed)

    @grid.autocomplete("style")
    async def complete_style(self, interaction: discord.Interaction[Any], typed: str) -> list[Choice[str]]:
        """Offer styles whose id or name contains what is typed."""
        return styles_matching(self.house.service.catalogue, typed)

    @grid.autocomplete("lora")
    async def complete_lora(self, interaction: discord.Interaction[Any], typed: str) -> list[Choice[str]]:
        """Offer the LoRAs of the model chosen so far, for the last one of those typed."""
        catalogue = self.house.service.catalogue
        chosen = catalogue.get(interaction.namespace.model or "") or catalogue[catalogue.default]
        return loras_matching(typed, offered(catalogue.loras, chosen))


async def setup(bot: commands.Bot) -> None:
    """Load the cog."""
    await bot.add_cog(Grid(bot.house))  # type: ignore[attr-defined]  # EaselClient carries it
