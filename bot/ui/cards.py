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
from bot.prompts.grids import grid_words
from bot.prompts.text import inert, plain
from bot.prompts.upscaling import is_plain
from bot.scheduling.events import Drawing
from bot.ui import words
from bot.ui.buttons import AgainButton, CancelButton, DeleteButton, DescribeButton, EditButton, InfoButton
from bot.ui.forms import editable
from bot.ui.regions import RegionButton
from bot.ui.selects import PictureSelect
from bot.ui.upscaling import upscale_items
from bot.ui.variations import stronger_items, vary_items
from bot.ui.view import sealed

GREY = 0x80848E
AMBER = 0xF0B232
GREEN = 0x23A55A
RED = 0xF23F43

TITLE_CHARS = 600
ALT_TEXT_CHARS = 250
PREVIEW_NAME = "preview.jpg"
BUTTONS_A_ROW = 5


def title(job: Job) -> str:
    """Write the prompt as the card's title, bold and inert."""
    return f"**{inert(words.subject(job.request), TITLE_CHARS)}**"


def _row(*buttons: ui.Item[Any]) -> ui.ActionRow[Any]:
    row: ui.ActionRow[Any] = ui.ActionRow()
    for button in buttons:
        row.add_item(button)
    return row


def _rows(*groups: Sequence[ui.Item[Any]]) -> list[ui.ActionRow[Any]]:
    """Lay out groups in as few rows as keep each together; a select takes a row for itself."""
    rows: list[list[ui.Item[Any]]] = []
    room = 0
    for group in filter(None, groups):
        if isinstance(group[0], PictureSelect):
            rows += [[select] for select in group]
            room = 0
        elif len(group) <= room:
            rows[-1] += group
            room -= len(group)
        else:
            rows.append([*group])
            room = BUTTONS_A_ROW - len(group)
    return [_row(*items) for items in rows]


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
    """Show the steps with a bar and, where there is one, the picture forming (attached as `PREVIEW_NAME`).

    Of a request with many pictures: how many are finished, and those.
    """
    if job.request.variants:
        return _filling(job, state, preview=preview)
    line = f"{words.bar(state.step, state.steps)}  step {state.step} of {state.steps}"
    if state.eta_s is not None:
        line += f" · about {words.duration(state.eta_s)} left"
    text = ui.TextDisplay(f"{title(job)}\n{line}")
    if not preview:
        return _card(AMBER, text, _row(CancelButton(job.id)))
    thumbnail = ui.Thumbnail(f"attachment://{PREVIEW_NAME}", description="the picture forming")
    return _card(AMBER, ui.Section(text, accessory=thumbnail), _row(CancelButton(job.id)))


def _filling(job: Job, state: Drawing, *, preview: bool) -> ui.LayoutView:
    line = f"{words.bar(state.step, state.steps)}  {state.finished} of {job.request.count}"
    if state.eta_s is not None:
        line += f" · about {words.duration(state.eta_s)} left"
    items: list[ui.Item[Any]] = [ui.TextDisplay(f"{title(job)}\n{line}")]
    if preview:
        shown = discord.MediaGalleryItem(
            f"attachment://{PREVIEW_NAME}", description="the pictures finished so far", spoiler=job.request.spoiler
        )
        items.append(ui.MediaGallery(shown))
    return _card(AMBER, *items, _row(CancelButton(job.id)))


def result(
    job: Job, model_name: str, shown: Sequence[PictureFile], *, notes: Sequence[str] = (), hidden: int | None = None,
    archive: str | None = None, redrawn: bool = False,
) -> ui.LayoutView:  # fmt: skip
    """Show the pictures (attached under their file names), the facts, `notes` and what can be done with them.

    `archive` is the name of the file that holds all of them, where one is attached; `redrawn`: a part of them can be.
    """
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
    if job.request.listed and (lost := job.request.count - len(job.files)):
        lines.append(
            f"-# {words.pictures(lost)} of {job.request.count} came out broken; try other seeds for what is missing."
        )
    lines += [f"-# {note}" for note in (*words.note(job), *notes)]
    items: list[ui.Item[Any]] = [ui.TextDisplay(title(job)), gallery]
    if archive is not None:
        items.append(ui.File(f"attachment://{archive}", spoiler=job.request.spoiler))
    # Those of further messages, too, whose buttons are here.
    visible = [file for file in job.files if not (hidden and file.flagged)]
    further = [*stronger_items(job), *([RegionButton(job.id)] if redrawn and visible else [])]
    rows = _rows(upscale_items(job, visible), vary_items(job, visible), further)
    rows.append(result_row(job))
    return _card(GREEN, *items, ui.TextDisplay("\n".join(lines)), *rows)


def more(job: Job, shown: Sequence[PictureFile], *, notes: Sequence[str]) -> ui.LayoutView:
    """Show further pictures of a result that takes several messages; the buttons are on the first."""
    gallery = ui.MediaGallery(*(gallery_item(job, file) for file in shown))
    lines = [f"for <@{job.origin.user_id}> · {notes[0]}", *notes[1:]]
    return _card(GREEN, gallery, ui.TextDisplay("\n".join(f"-# {line}" for line in lines)))


def gallery_item(job: Job, file: PictureFile) -> discord.MediaGalleryItem:
    """Name a picture by its attachment, with the prompt as its alternative text."""
    prompt = job.request.alone(file.n).prompt if job.request.variants else job.request.prompt
    alt = plain(prompt, ALT_TEXT_CHARS - 24)
    if job.request.axes:
        alt = f"{plain(job.request.prompt, 150)} (compares {plain(grid_words(job.request.axes), 80)})"
    elif job.request.count > 1:
        alt = f"{alt} (picture {file.n + 1} of {job.request.count})"
    return discord.MediaGalleryItem(f"attachment://{file.file_name}", description=alt, spoiler=job.request.spoiler)


def result_row(job: Job) -> ui.ActionRow[Any]:
    """Give the buttons of a result. A network enlarges the same picture in the same way again, so there is no *Again* then."""
    again = [] if is_plain(job.request) else _again(job)
    return _row(*again, InfoButton(job.id), DeleteButton(job.id))


def _again(job: Job) -> list[ui.Item[Any]]:
    """Give the buttons that draw it anew; *Edit* only where a form has room for it, and not where it enlarges."""
    again: list[ui.Item[Any]] = [AgainButton(job.id)]
    return [*again, EditButton(job.id)] if editable(job.request) and not job.request.upscale else again


def withheld(job: Job) -> ui.LayoutView:
    """Say that nothing is shown, and why."""
    why = (
        "The picture classifier takes this for an adult picture, or could not judge it. Such pictures are shown "
        "only in age-restricted channels, where this bot shows them at all."
    )
    row = _row(*_again(job), DeleteButton(job.id))
    return _card(RED, ui.TextDisplay(f"{title(job)}\n{why}"), row)


def not_shown(job: Job, why: str) -> ui.LayoutView:
    """Say that the pictures exist but could not be posted here."""
    row = _row(*_again(job), InfoButton(job.id), DeleteButton(job.id))
    return _card(RED, ui.TextDisplay(f"{title(job)}\n{why}"), row)


def failed(job: Job) -> ui.LayoutView:
    """Say why nothing was drawn, in the error's own sentence."""
    reason = job.error or "It could not be drawn."
    return _card(RED, ui.TextDisplay(f"{title(job)}\n{reason[:1200]}"), _row(*_again(job)))


def cancelled(job: Job) -> ui.LayoutView:
    """Say that the request was cancelled."""
    return _card(GREY, ui.TextDisplay(f"{title(job)}\ncancelled"), _row(*_again(job)))


def input_card(file_name: str, ref: InputRef) -> ui.LayoutView:
    """Show that a picture was taken in, with the button that says what to draw from it."""
    text = f"**{inert(file_name, 100)}** is ready ({ref.width}×{ref.height})."
    return _card(GREY, ui.TextDisplay(text), _row(DescribeButton(ref)))
