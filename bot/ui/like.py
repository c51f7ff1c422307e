"""Under what `/info` answers: *Draw this*, a form filled with what the answer says; the button itself carries nothing."""

from __future__ import annotations

import re
from typing import Any, Self

import discord
from discord import ui

from bot.catalogue.models import Catalogue
from bot.errors import JobNotFound, NotPermitted, RequestError
from bot.generation import GenerationOptions, Job
from bot.prompts.readers import PictureInfo
from bot.ui.answers import guarded
from bot.ui.buttons import EditButton, check_may_draw, visible_job
from bot.ui.forms import draw_form, editable
from bot.ui.house import House, house_of
from bot.ui.media import told_in, walk

PROMPT, NEGATIVE = "Prompt", "Negative prompt"
_FACT = re.compile(r"\*\*(?P<label>[^*]+)\*\* (?P<value>.+)")
_ESCAPE = re.compile(r"\\(?=[^\w\s])")
_KEYS = {
    "Steps": "steps", "Guidance": "guidance", "Seed": "seed", "Sampler": "sampler", "Quality": "quality", "LoRA": "lora",
    "Tiling": "tiling", "Style": "style",
}  # fmt: skip
"""The lines of the form by what `/info` calls them."""
BEYOND_WORDS = frozenset({"From a picture", "Control", "Reference", "Variation", "Upscaled", "Compares"})
"""Facts of pictures that no form of words draws again."""


class LikeButton(ui.DynamicItem[ui.Button[Any]], template="easel:v1:like"):
    """*Draw this*: a form filled with the parameters that the message tells."""

    def __init__(self) -> None:
        super().__init__(ui.Button(label="Draw this", style=discord.ButtonStyle.primary, custom_id="easel:v1:like"))

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Rebuild the button from its id alone."""
        return cls()

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Open the form; every error becomes an answer."""
        await guarded(interaction, self._open(interaction, house_of(interaction)))

    async def _open(self, interaction: discord.Interaction[Any], house: House) -> None:
        check_may_draw(interaction, house)
        assert interaction.message is not None
        options, more = told(interaction.message, house.service.catalogue)
        await interaction.response.send_modal(draw_form(options, house.service.catalogue, more))


def told(message: discord.Message, catalogue: Catalogue) -> tuple[GenerationOptions, str]:
    """Read an answer of `/info`: prompts and model, and the rest as lines of a form. Raises RequestError where it has no prompt."""
    texts = [str(getattr(component, "content", "")) for component in walk(message.components)]
    words = told_in(message)
    facts = {
        match["label"]: _ESCAPE.sub("", match["value"]) for text in texts for match in map(_FACT.fullmatch, text.splitlines()) if match
    }  # fmt: skip
    if not words.get(PROMPT):
        raise RequestError("This message does not say it any more; ask for the picture's parameters again.")
    name = facts.get("Model", "").lower()
    spec = next((model for model in catalogue.models if name in (model.id.lower(), model.name.lower())), None)
    lines = {key: facts[label] for label, key in _KEYS.items() if label in facts}
    if "style" in lines:
        lines["style"] = lines["style"].split(":")[0]
    width, times, height = facts.get("Size", "").partition("×")
    lines |= {"width": width, "height": height} if times else {}
    options = GenerationOptions(words[PROMPT], words.get(NEGATIVE), None if spec is None else spec.id)
    return options, "\n".join(f"{key}: {value}" for key, value in lines.items())


def way_back(info: PictureInfo, kept: Job | None) -> ui.Item[Any] | None:
    """Give the button that draws a picture again: of a request that is `kept` here *Edit*, else *Draw this* where words are enough."""
    if kept is not None:
        return EditButton(kept.id)
    if not info.prompt or BEYOND_WORDS.intersection(label for label, _ in info.extra):
        return None
    return LikeButton()


async def kept_job(interaction: discord.Interaction[Any], house: House, info: PictureInfo) -> Job | None:
    """Find the request that one of our own files came from, where it is kept, this person may see it, and a form has room for it."""
    job_id = dict(info.extra).get("Request", "") if info.source == "easel" else ""
    if not re.fullmatch("[0-9a-z]{4,32}", job_id):
        return None
    try:
        job = await visible_job(interaction, house, job_id)
    except (JobNotFound, NotPermitted):
        return None
    return job if editable(job.request) and not job.request.upscale else None
