"""One container a request, from the wait to the result.

The title is the prompt, the small line the facts, the colour the state; nothing else shouts.
Views are stopped before they are sent: every button is a `DynamicItem`, so discord.py need not remember any view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import discord
from discord import ui

from bot.generation import FetchProgress, InputRef, Job, PictureFile, Place
from bot.prompts.text import inert, plain
from bot.prompts.upscaling import is_plain
from bot.scheduling.events import Drawing
from bot.ui import words
from bot.ui.buttons import AgainButton, CancelButton, DeleteButton, DescribeButton, EditButton, InfoButton
from bot.ui.upscaling import upscale_rows
from bot.ui.view import sealed

GREY = 0x80848E
AMBER = 0xF0B232
GREEN = 0x23A55A
RED = 0xF23F43

TITLE_CHARS = 600
ALT_TEXT_CHARS = 250
PREVIEW_NAME = "preview.jpg"


def title(job: Job) -> str:
    """Write the prompt as the card's title, bold and inert."""
    return f"**{inert(job.request.prompt, TITLE_CHARS)}**"


def _row(*buttons: ui.Item[Any]) -> ui.ActionRow[Any]:
    row: ui.ActionRow[Any] = ui.ActionRow()
    for button in buttons:
        row.add_item(button)
    return row


def _card(colour: int, *items: ui.Item[Any]) -> ui.LayoutView:
    return sealed(ui.Container(*items, accent_colour=colour))


def waiting_line(job: Job, place: Place | None) -> str:
    """Write a committed request's place in line."""
    if place is None:
        return "**Next** · starting"
    parts = [f"**{words.ordinal(place.position)} in line**"]
    parts.append("time not measured yet" if place.eta_s is None else f"about {words.duration(place.eta_s)}")
    if place.next_user_id is not None and place.next_user_id != job.origin.user_id:
        parts.append(f"<@{place.next_user_id}> goes first")
    return " · ".join(parts)


def waiting(job: Job, place: Place | None) -> ui.LayoutView:
    """Show a committed request's place in line."""
    return _card(GREY, ui.TextDisplay(f"{title(job)}\n{waiting_line(job, place)}"), _row(CancelButton(job.id)))


def fetching(job: Job, model_name: str, progress: FetchProgress, *, loading: bool) -> ui.LayoutView:
    """Show a model on its way: from the network, or into memory."""
    if loading:
        line = f"loading {model_name} into memory"
    else:
        line = f"fetching {words.fetched(progress.done_bytes, progress.total_bytes)}"
        if progress.total_bytes:
            line = f"{words.bar(progress.done_bytes, progress.total_bytes)}  {line}"
    note = "" if loading else f"\n-# the first use of {model_name} downloads it; later ones start at once"
    return _card(AMBER, ui.TextDisplay(f"{title(job)}\n{line}{note}"), _row(CancelButton(job.id)))


def drawing(job: Job, state: Drawing, *, preview: bool) -> ui.LayoutView:
    """Show the steps with a bar and, where there is one, the picture forming (attached as `PREVIEW_NAME`)."""
    line = f"{words.bar(state.step, state.steps)}  step {state.step} of {state.steps}"
    if state.eta_s is not None:
        line += f" · about {words.duration(state.eta_s)} left"
    text = ui.TextDisplay(f"{title(job)}\n{line}")
    if not preview:
        return _card(AMBER, text, _row(CancelButton(job.id)))
    thumbnail = ui.Thumbnail(f"attachment://{PREVIEW_NAME}", description="the picture forming")
    return _card(AMBER, ui.Section(text, accessory=thumbnail), _row(CancelButton(job.id)))


def result(
    job: Job, model_name: str, shown: Sequence[PictureFile], *, notes: Sequence[str] = (), hidden: int | None = None
) -> ui.LayoutView:
    """Show the pictures (attached under their file names), the facts, `notes` and what can be done with them."""
    gallery = ui.MediaGallery(*(gallery_item(job, file) for file in shown))
    facts = [f"for <@{job.origin.user_id}>", *words.request_facts(job.request, model_name)]
    if job.draw_s is not None:
        facts.append(words.took(job.draw_s))
    lines = [f"-# {' · '.join(facts)}"]
    if hidden is None:
        hidden = len(job.files) - len(shown)
    if hidden:
        kept = "1 picture was" if hidden == 1 else f"{hidden} pictures were"
        lines.append(f"-# {kept} withheld: they look adult, and such pictures are not shown in this channel.")
    lines += [f"-# {note}" for note in notes]
    # Those of further messages, too, whose buttons are here.
    visible = [file for file in job.files if not (hidden and file.flagged)]
    rows = [*upscale_rows(job, visible), result_row(job)]
    return _card(GREEN, ui.TextDisplay(title(job)), gallery, ui.TextDisplay("\n".join(lines)), *rows)


def more(job: Job, shown: Sequence[PictureFile], *, notes: Sequence[str]) -> ui.LayoutView:
    """Show further pictures of a result that takes several messages; the buttons are on the first."""
    gallery = ui.MediaGallery(*(gallery_item(job, file) for file in shown))
    lines = [f"for <@{job.origin.user_id}> · {notes[0]}", *notes[1:]]
    return _card(GREEN, gallery, ui.TextDisplay("\n".join(f"-# {line}" for line in lines)))


def gallery_item(job: Job, file: PictureFile) -> discord.MediaGalleryItem:
    """Name a picture by its attachment, with the prompt as its alternative text."""
    alt = plain(job.request.prompt, ALT_TEXT_CHARS - 24)
    if job.request.count > 1:
        alt = f"{alt} (picture {file.n + 1} of {job.request.count})"
    return discord.MediaGalleryItem(f"attachment://{file.file_name}", description=alt, spoiler=job.request.spoiler)


def result_row(job: Job) -> ui.ActionRow[Any]:
    """Give the buttons of a result. A network enlarges the same picture in the same way again, so there is no *Again* then."""
    again = [] if is_plain(job.request) else again_buttons(job)
    return _row(*again, InfoButton(job.id), DeleteButton(job.id))


def again_buttons(job: Job) -> list[ui.Item[Any]]:
    """Give what draws a request anew; of one that enlarges, nothing is to be edited."""
    return [AgainButton(job.id), *([] if job.request.upscale else [EditButton(job.id)])]


def withheld(job: Job) -> ui.LayoutView:
    """Say that nothing is shown, and why."""
    why = (
        "The picture classifier takes this for an adult picture, or could not judge it. Such pictures are shown "
        "only in age-restricted channels, where this bot shows them at all."
    )
    row = _row(*again_buttons(job), DeleteButton(job.id))
    return _card(RED, ui.TextDisplay(f"{title(job)}\n{why}"), row)


def not_shown(job: Job, why: str) -> ui.LayoutView:
    """Say that the pictures exist but could not be posted here."""
    row = _row(*again_buttons(job), InfoButton(job.id), DeleteButton(job.id))
    return _card(RED, ui.TextDisplay(f"{title(job)}\n{why}"), row)


def failed(job: Job) -> ui.LayoutView:
    """Say why nothing was drawn, in the error's own sentence."""
    reason = job.error or "It could not be drawn."
    return _card(RED, ui.TextDisplay(f"{title(job)}\n{reason[:1200]}"), _row(*again_buttons(job)))


def cancelled(job: Job) -> ui.LayoutView:
    """Say that the request was cancelled."""
    return _card(GREY, ui.TextDisplay(f"{title(job)}\ncancelled"), _row(*again_buttons(job)))


def input_card(file_name: str, ref: InputRef) -> ui.LayoutView:
    """Show that a picture was taken in, with the button that says what to draw from it."""
    text = f"**{inert(file_name, 100)}** is ready ({ref.width}×{ref.height})."
    return _card(GREY, ui.TextDisplay(text), _row(DescribeButton(ref)))
