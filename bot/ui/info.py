"""What *Info* and `/info` answer: everything that made a picture."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import discord
from discord import ui

from bot import provenance
from bot.catalogue.models import Catalogue
from bot.generation import STANDARD, GenerationRequest, Job
from bot.prompts.grids import compared
from bot.prompts.text import inert
from bot.prompts.upscaling import is_plain
from bot.ui import words
from bot.ui.view import fenced, sealed

SHOWN_CHARS = 1500
NEGATIVE_CHARS = 700


def _when(moment: datetime | None) -> str:
    return "–" if moment is None else discord.utils.format_dt(moment, "f")


def job_info(job: Job, catalogue: Catalogue) -> ui.LayoutView:
    """Lay out a job's parameters, seeds, times and licence."""
    request = job.request
    drawn = [
        ("Steps", str(request.num_inference_steps)),
        ("Guidance", words.number(request.guidance_scale)),
        ("Sampler", request.sampler),
    ]
    facts = [
        ("Model", catalogue.name_of(request.model)),
        ("Size", f"{request.width}×{request.height}"),
        *([] if is_plain(request) else drawn),
        *([("Quality", request.quality)] if request.quality != STANDARD else []),
        *[(label, inert(value, 400)) for label, value in provenance.addon_facts(request)],
        *provenance.picture_facts(request),
        *([] if is_plain(request) else [("Seed", words.seeds(request))]),
        ("Asked for", f"by <@{job.origin.user_id}>, {_when(job.created_at)}"),
    ]
    varied = compared(request)
    facts = [(label, value) for label, value in facts if label.lower() not in varied]
    if job.draw_s is not None:
        facts.append(("Drawn in", words.took(job.draw_s)))
    specs = [spec for model in request.models if (spec := catalogue.get(model)) is not None]
    licences = [f"[{spec.licence}]({spec.licence_url})" if spec.licence_url else spec.licence for spec in specs]
    if licences:
        facts.append(("Licence", ", ".join(dict.fromkeys(licences))))
    items: list[ui.Item[Any]] = [_prompts(request)]
    if request.prompts:
        chosen = list(dict.fromkeys(request.prompts))
        items.append(ui.TextDisplay(f"**Drawn as**\n{fenced(chr(10).join(chosen), NEGATIVE_CHARS)}"))
    if request.negative_prompt:
        items.append(ui.TextDisplay(f"**Negative prompt**\n{fenced(request.negative_prompt, NEGATIVE_CHARS)}"))
    items.append(ui.TextDisplay("\n".join(f"**{label}** {value}" for label, value in facts)))
    lines = [*words.note(job), f"request `{job.id}` · made by AI; every file carries these parameters"]
    items.append(ui.TextDisplay("\n".join(f"-# {line}" for line in lines)))
    return sealed(ui.Container(*items))


def _prompts(request: GenerationRequest) -> ui.TextDisplay[Any]:
    if not request.listed:
        return ui.TextDisplay(f"**Prompt**\n{fenced(request.prompt, SHOWN_CHARS)}")
    listed = "\n".join(f"{n + 1}. {request.alone(n).prompt}" for n in range(request.count))
    return ui.TextDisplay(f"**Prompts**\n{fenced(listed, SHOWN_CHARS)}")


def picture_info(
    file_name: str, info: provenance.PictureInfo | None, button: ui.Item[Any] | None = None
) -> ui.LayoutView:
    """Lay out what a picture file says of itself, and the button that draws from it; None means it says nothing."""
    name = inert(file_name, 100)
    if info is None:
        text = (
            f"**{name}** carries no parameters. Screenshots and re-saved copies lose them; "
            "use the original file, as it was downloaded."
        )
        return sealed(ui.Container(ui.TextDisplay(text)))
    items: list[ui.Item[Any]] = []
    if info.prompt:
        items.append(ui.TextDisplay(f"**Prompt**\n{fenced(info.prompt, SHOWN_CHARS)}"))
    if info.negative_prompt:
        items.append(ui.TextDisplay(f"**Negative prompt**\n{fenced(info.negative_prompt, NEGATIVE_CHARS)}"))
    skip = {"Prompt", "Negative prompt"}
    facts = [(label, value) for label, value in provenance.facts(info) if label not in skip]
    if facts:
        items.append(
            ui.TextDisplay("\n".join(f"**{inert(label, 60)}** {inert(value, 200)}" for label, value in facts)[:1200])
        )
    items.append(ui.TextDisplay(f"-# read from {name}"))
    if button is not None:
        items.append(ui.ActionRow(button))
    return sealed(ui.Container(*items))
