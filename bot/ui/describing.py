"""What `/describe` answers: the words for a picture, what its file says, and the buttons that open a form filled with either.

The buttons carry no state: what they draw stands in the message that they are on.
"""

from __future__ import annotations

import re
from typing import Any, Self

import discord
from discord import ui

from bot.catalogue.models import Catalogue
from bot.errors import RequestError
from bot.generation import GenerationOptions
from bot.limits import told_by
from bot.prompts.describing import Description
from bot.prompts.text import inert
from bot.ui.answers import guarded
from bot.ui.buttons import check_may_draw
from bot.ui.forms import draw_form
from bot.ui.house import house_of
from bot.ui.media import told_in
from bot.ui.view import fenced, sealed

PROMPT, NEGATIVE = "Prompt of its file", "Negative prompt of its file"
CAPTION = "What it shows"
NEGATIVE_CHARS = 1000
PROMPT_CHARS = 1500


def description_view(file_name: str, said: Description, catalogue: Catalogue) -> ui.LayoutView:
    """Lay out a description; a prompt of the file's own stands below the words, with its own button."""
    spec = catalogue.annotator(said.annotator)
    by = said.annotator if spec is None else spec.name
    prompt, negative, _ = told_by(said.info, catalogue)
    items: list[ui.Item[Any]] = [ui.TextDisplay(f"**{CAPTION}**\n{fenced(said.prompt, PROMPT_CHARS)}")]
    row: ui.ActionRow[Any] = ui.ActionRow()
    row.add_item(DrawWordsButton("caption"))
    if prompt:
        items.append(ui.TextDisplay(f"**{PROMPT}**\n{fenced(prompt, PROMPT_CHARS)}"))
        row.add_item(DrawWordsButton("file"))
    if prompt and negative:
        items.append(ui.TextDisplay(f"**{NEGATIVE}**\n{fenced(negative, NEGATIVE_CHARS)}"))
    items.append(ui.TextDisplay(f"-# {inert(file_name, 100)}, in the words of {inert(by, 60)}"))
    return sealed(ui.Container(*items, row))


def words_of(message: discord.Message, which: str) -> tuple[str, str]:
    """Read the prompt and negative prompt out of an answer of ours: the caption's, or the file's. Raises RequestError."""
    told = told_in(message)
    prompt = told.get(CAPTION if which == "caption" else PROMPT)
    if not prompt:
        raise RequestError("This message does not say it any more; describe the picture again.")
    return prompt, told.get(NEGATIVE, "") if which == "file" else ""


class DrawWordsButton(ui.DynamicItem[ui.Button[Any]], template=r"easel:v1:words:(?P<which>caption|file)"):
    """*Draw this* and *Draw its prompt*: a form filled with words of the message."""

    def __init__(self, which: str) -> None:
        self.which = which
        label, style = ("Draw this", discord.ButtonStyle.primary)
        if which == "file":
            label, style = "Draw its prompt", discord.ButtonStyle.secondary
        super().__init__(ui.Button(label=label, style=style, custom_id=f"easel:v1:words:{which}"))

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Rebuild the button from its id alone."""
        return cls(match["which"])

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Open the form; every error becomes an answer."""
        await guarded(interaction, self._open(interaction))

    async def _open(self, interaction: discord.Interaction[Any]) -> None:
        house = house_of(interaction)
        check_may_draw(interaction, house)
        assert interaction.message is not None
        prompt, negative = words_of(interaction.message, self.which)
        options = GenerationOptions(prompt, negative)
        await interaction.response.send_modal(draw_form(options, house.service.catalogue))
