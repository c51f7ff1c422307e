"""`/models`: what can draw here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import discord
from discord import app_commands, ui
from discord.ext import commands

from bot.catalogue.addons import AddOn
from bot.catalogue.models import ModelSpec
from bot.prompts.addons import offered
from bot.prompts.text import inert
from bot.ui.house import House
from bot.ui.view import sealed
from bot.ui.words import number, size

SHOWN_CHARS = 3700
LORAS_SHOWN = 6


class Models(commands.Cog):
    """List the catalogue."""

    def __init__(self, house: House) -> None:
        self.house = house

    @app_commands.command(description="List the models that can draw here")
    async def models(self, interaction: discord.Interaction[Any]) -> None:
        """Answer with one paragraph a model."""
        catalogue = self.house.service.catalogue
        paragraphs: list[str] = []
        for spec in catalogue.models:
            paragraph = _paragraph(spec, offered(catalogue.loras, spec), default=spec.id == catalogue.default)
            if sum(map(len, paragraphs)) + len(paragraph) > SHOWN_CHARS:
                paragraphs.append(f"-# and {len(catalogue.models) - len(paragraphs)} more; type to search in `model`")
                break
            paragraphs.append(paragraph)
        view = sealed(ui.Container(ui.TextDisplay("\n\n".join(paragraphs))))
        await interaction.response.send_message(view=view, ephemeral=True)


def _paragraph(spec: ModelSpec, loras: Sequence[AddOn], *, default: bool) -> str:
    width, height = spec.default_size
    licence = f"[{spec.licence}](<{spec.licence_url}>)" if spec.licence_url else spec.licence
    facts = [f"{width}×{height}", f"{spec.steps} steps", f"guidance {number(spec.guidance)}", licence]
    if spec.download_bytes:
        facts.append(f"{size(spec.download_bytes)} download")
    if spec.draft is not None:
        facts.append("drafts")
    if spec.ip_adapter is not None:
        facts.append("reference pictures")
    if spec.gated:
        facts.append("licence to accept first")
    mark = " · the default here" if default else ""
    lines = [f"**{spec.name}** `{spec.id}`{mark}", spec.description, f"-# {' · '.join(facts)}"]
    if loras:
        named = [
            f"{inert(one.name, 64)}{f' (“{inert(one.triggers[0], 60)}”)' if one.triggers else ''}" for one in loras
        ]
        rest = f" and {len(named) - LORAS_SHOWN} more" if len(named) > LORAS_SHOWN else ""
        lines.append(f"-# LoRAs: {', '.join(named[:LORAS_SHOWN])}{rest}")
    return "\n".join(lines)


async def setup(bot: commands.Bot) -> None:
    """Load the cog."""
    await bot.add_cog(Models(bot.house))  # type: ignore[attr-defined]  # EaselClient carries it
