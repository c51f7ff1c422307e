"""`/imagine`: options in, one call to the service, the card does the rest."""

from __future__ import annotations

from typing import Any

import discord
from discord import app_commands
from discord.app_commands import Choice, Range
from discord.ext import commands

from bot import limits
from bot.catalogue.controls import CONTROL_TYPES
from bot.catalogue.models import ASPECTS
from bot.errors import AttachmentRefused
from bot.generation import QUALITIES, GenerationOptions
from bot.prompts.addons import offered
from bot.prompts.pictures import MAX_CONTROL_SCALE
from bot.ui.answers import guarded
from bot.ui.buttons import check_may_draw
from bot.ui.cards import input_card
from bot.ui.choices import loras_matching, models_matching, samplers_matching, styles_matching
from bot.ui.house import House, age_restricted, house_of
from bot.ui.inputs import check_file, draw_with, take
from bot.ui.media import PICTURE_SUFFIXES, media_of
from bot.ui.regions import REGION_ITEMS
from bot.ui.variations import VARY_ITEMS


class Imagine(commands.Cog):
    """Draw a picture from words."""

    def __init__(self, house: House) -> None:
        self.house = house

    @app_commands.command(description="Draw a picture from words")
    @app_commands.describe(
        prompt="What to draw",
        negative_prompt="What to avoid",
        model="Which model draws; /models lists them",
        aspect="Shape of the picture: one of the model's sizes",
        width="Width in pixels, a multiple of 8 (some models: 16); overrides aspect",
        height="Height in pixels, a multiple of 8 (some models: 16); overrides aspect",
        count="How many variants, each with the next seed",
        steps="Denoising steps: more is finer and slower",
        guidance="How closely to follow the prompt",
        seed="The same seed and options give the same picture",
        sampler="The method of denoising",
        style="Words around the prompt; /styles lists them",
        lora="LoRAs, as chalk:0.8 or several with commas; <lora:chalk:0.8> in the prompt does the same",
        image="A picture to draw from",
        strength="How far to leave the picture: 0.3 keeps the layout, 0.9 follows the prompt",
        mask="What of the picture to redraw: white, or left transparent; the size of the picture",
        control="A picture whose lines, depth or poses to follow",
        control_type="How to read the control picture; raw: it is such a map already",
        control_scale="How strictly to follow the control picture",
        reference="A picture whose subject and style to take up, where the model reads some",
        tiling="Let opposite edges fit together, for patterns",
        quality="draft is quick and rough, where the model has drafts",
        private="Show the pictures only to you",
        spoiler="Hide the pictures behind a spoiler",
    )
    @app_commands.choices(
        aspect=[Choice(name=aspect, value=aspect) for aspect in ASPECTS],
        control_type=[Choice(name=kind, value=kind) for kind in CONTROL_TYPES],
        quality=[Choice(name=quality, value=quality) for quality in QUALITIES],
    )
    async def imagine(
        self,
        interaction: discord.Interaction[Any],
        prompt: Range[str, 1, limits.MAX_PROMPT_CHARS],
        negative_prompt: Range[str, 0, limits.MAX_NEGATIVE_CHARS] | None = None,
        model: str | None = None,
        aspect: str | None = None,
        width: Range[int, limits.MIN_SIDE, limits.MAX_SIDE] | None = None,
        height: Range[int, limits.MIN_SIDE, limits.MAX_SIDE] | None = None,
        count: Range[int, 1, limits.MAX_COUNT] | None = None,
        steps: Range[int, limits.MIN_STEPS, limits.MAX_STEPS] | None = None,
        guidance: Range[float, limits.MIN_GUIDANCE, limits.MAX_GUIDANCE] | None = None,
        seed: Range[int, 0, limits.MAX_SEED] | None = None,
        sampler: str | None = None,
        style: str | None = None,
        lora: Range[str, 0, limits.MAX_LORA_CHARS] | None = None,
        image: discord.Attachment | None = None,
        strength: Range[float, 0.0, 1.0] | None = None,
        mask: discord.Attachment | None = None,
        control: discord.Attachment | None = None,
        control_type: str | None = None,
        control_scale: Range[float, 0.0, MAX_CONTROL_SCALE] | None = None,
        reference: discord.Attachment | None = None,
        tiling: bool = False,
        quality: str | None = None,
        private: bool = False,
        spoiler: bool = False,
    ) -> None:
        """Check what needs no waiting, acknowledge, queue."""
        check_may_draw(interaction, self.house)
        options = GenerationOptions(
            prompt, negative_prompt, model, aspect, width, height, count, steps, guidance, seed, sampler,
            private, spoiler, quality, strength=strength, control_type=control_type, control_scale=control_scale, tiling=tiling,
            lora=lora, style=style,
        )  # fmt: skip
        attached = {"image": image, "mask": mask, "control": control, "reference": reference}
        await draw_with(interaction, house_of(interaction), options, attached)

    @imagine.autocomplete("model")
    async def complete_model(self, interaction: discord.Interaction[Any], typed: str) -> list[Choice[str]]:
        """Offer models whose id or name contains what is typed."""
        return models_matching(self.house.service.catalogue, typed)

    @imagine.autocomplete("sampler")
    async def complete_sampler(self, interaction: discord.Interaction[Any], typed: str) -> list[Choice[str]]:
        """Offer the samplers of the model chosen so far."""
        return samplers_matching(self.house.service.catalogue, interaction.namespace.model, typed)

    @imagine.autocomplete("style")
    async def complete_style(self, interaction: discord.Interaction[Any], typed: str) -> list[Choice[str]]:
        """Offer styles whose id or name contains what is typed."""
        return styles_matching(self.house.service.catalogue, typed)

    @imagine.autocomplete("lora")
    async def complete_lora(self, interaction: discord.Interaction[Any], typed: str) -> list[Choice[str]]:
        """Offer the LoRAs of the model chosen so far, for the last one of those typed."""
        catalogue = self.house.service.catalogue
        chosen = catalogue.get(interaction.namespace.model or "") or catalogue[catalogue.default]
        return loras_matching(typed, offered(catalogue.loras, chosen))

    async def use_as_input(self, interaction: discord.Interaction[Any], message: discord.Message) -> None:
        """Take in the first picture of a message; the answer has the button that says what to draw from it."""
        check_may_draw(interaction, self.house)
        pictures = [file for file in media_of(message) if file.name.lower().endswith(PICTURE_SUFFIXES)]
        if not pictures:
            raise AttachmentRefused("This message has no PNG, JPEG or WebP picture to draw from.")
        check_file(pictures[0])
        await interaction.response.defer(ephemeral=True, thinking=True)
        ref = await take(self.house, pictures[0].url, restricted=age_restricted(interaction.channel))
        await interaction.followup.send(view=input_card(pictures[0].name, ref), ephemeral=True)


async def setup(bot: commands.Bot) -> None:
    """Load the cog and its message command, which discord.py does not take from a cog by itself."""
    cog = Imagine(bot.house)  # type: ignore[attr-defined]  # EaselClient carries it
    await bot.add_cog(cog)
    bot.add_dynamic_items(*VARY_ITEMS, *REGION_ITEMS)

    async def use_as_input(interaction: discord.Interaction[Any], message: discord.Message) -> None:
        await guarded(interaction, cog.use_as_input(interaction, message))

    bot.tree.add_command(app_commands.ContextMenu(name="Use as input", callback=use_as_input))
