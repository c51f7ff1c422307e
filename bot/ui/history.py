"""The pages of `/history`: a member's own finished requests, newest first, also those that could not be posted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self

import discord
from discord import ui

from bot.errors import EaselError, RequestError
from bot.generation import Job, PictureFile, PostedTo
from bot.posting import archived_bytes, chosen, no_archive, pack, pack_archive
from bot.prompts.text import inert, plain
from bot.ui import cards, words
from bot.ui.answers import guarded
from bot.ui.buttons import JOB, visible_job
from bot.ui.house import House, house_of, origin_of
from bot.ui.messenger import Attachment, Undeliverable
from bot.ui.parcels import Limits, parcels
from bot.ui.regions import may_redraw
from bot.ui.view import sealed

PAGE = 5


def shown_files(job: Job, *, adult_allowed: bool) -> list[PictureFile]:
    """Choose the pictures that may be shown where the member is looking now."""
    return [file for file in job.files if adult_allowed or not file.flagged]


def _adult_allowed(interaction: discord.Interaction[Any], house: House) -> bool:
    return house.adult.allows(age_restricted=origin_of(interaction, house.clock()).age_restricted)


async def answer_page(interaction: discord.Interaction[Any], house: House, *, before: str | None = None) -> None:
    """Answer with one page, to the member alone."""
    await interaction.response.defer(ephemeral=True, thinking=True)
    jobs = await house.service.history(interaction.user.id, limit=PAGE + 1, before=before)
    if not jobs:
        end = "Nothing older." if before else "Nothing yet. `/imagine` draws your first picture."
        await interaction.followup.send(end, ephemeral=True)
        return
    allowed = _adult_allowed(interaction, house)
    page, more = jobs[:PAGE], len(jobs) > PAGE
    pictures = {job.id: await _first_picture(house, job, allowed) for job in page}
    view = _page(page, pictures, older=page[-1].id if more else None)
    files = [picture.as_file() for picture in pictures.values() if picture is not None]
    await interaction.followup.send(view=view, files=files, ephemeral=True)


async def _first_picture(house: House, job: Job, adult_allowed: bool) -> Attachment | None:
    for file in shown_files(job, adult_allowed=adult_allowed)[:1]:
        try:
            return Attachment(file.file_name, await house.service.read_picture(file))
        except (OSError, EaselError):
            return None  # its files are gone; the entry still tells what it was
    return None


def _page(jobs: Sequence[Job], pictures: dict[str, Attachment | None], *, older: str | None) -> ui.LayoutView:
    items: list[ui.Item[Any]] = []
    for job in jobs:
        text = ui.TextDisplay(_entry(job))
        picture = pictures[job.id]
        if picture is None:
            items.append(text)
        else:
            alt = plain(job.request.prompt, cards.ALT_TEXT_CHARS)
            thumbnail = ui.Thumbnail(f"attachment://{picture.name}", description=alt, spoiler=job.request.spoiler)
            items.append(ui.Section(text, accessory=thumbnail))
    rows: list[ui.Item[Any]] = []
    if any(pictures.values()):
        row: ui.ActionRow[Any] = ui.ActionRow()
        row.add_item(ShowSelect([job for job in jobs if pictures[job.id] is not None]))
        rows.append(row)
    if older is not None:
        row = ui.ActionRow()
        row.add_item(OlderButton(older))
        rows.append(row)
    return sealed(ui.Container(*items, *rows))


def _entry(job: Job) -> str:
    facts = [discord.utils.format_dt(job.created_at, "R"), ", ".join(job.request.models), f"seed {job.request.seed}"]
    if job.request.upscale:
        facts[1:] = [f"upscaled {job.request.upscale}×"]
    if job.request.count > 1:
        facts.append(f"{job.request.count} pictures")
    match job.posted_to:
        case PostedTo.CHANNEL if job.message_id is not None and not job.request.private:
            place = job.origin.guild_id or "@me"
            facts.append(f"[message](https://discord.com/channels/{place}/{job.origin.channel_id}/{job.message_id})")
        case PostedTo.DIRECT_MESSAGE:
            facts.append("sent to you directly")
        case PostedTo.KEPT:
            facts.append("**could not be posted, kept for you**")
        case PostedTo.WITHHELD:
            facts.append("withheld")
        case _:
            facts.append("private" if job.request.private else job.status)
    return f"**{inert(words.subject(job.request), 160)}**\n-# {' · '.join(facts)}"


class OlderButton(ui.DynamicItem[ui.Button[Any]], template=rf"easel:v1:older:{JOB}"):
    """*Older*: the next page, as another answer."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(ui.Button(label="Older", custom_id=f"easel:v1:older:{job_id}"))

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Rebuild the button from its id alone."""
        return cls(match["job"])

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Answer with the next page of whoever pressed."""
        await guarded(interaction, answer_page(interaction, house_of(interaction), before=self.job_id))


class ShowSelect(ui.DynamicItem[ui.Select[Any]], template=r"easel:v1:show"):
    """*Show again*: all pictures of one entry, with their buttons, to the member alone."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        options = [
            discord.SelectOption(label=plain(words.subject(job.request), 100) or job.id, value=job.id) for job in jobs
        ]
        super().__init__(ui.Select(custom_id="easel:v1:show", placeholder="Show one in full", options=options))

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Rebuild the select; the choice comes with the press."""
        return cls([])

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Answer with the chosen entry."""
        await guarded(interaction, self._show(interaction, house_of(interaction)))

    async def _show(self, interaction: discord.Interaction[Any], house: House) -> None:
        data: Any = interaction.data or {}
        job = await visible_job(interaction, house, str((data.get("values") or [""])[0]))
        if job.origin.user_id != interaction.user.id:
            raise RequestError("This is not in your history.")
        await interaction.response.defer(ephemeral=True, thinking=True)
        shown = shown_files(job, adult_allowed=_adult_allowed(interaction, house))
        if not shown:
            raise RequestError(
                "Its pictures are withheld here; look in an age-restricted channel, unless the bot shows such nowhere."
            )
        name = house.service.catalogue.name_of(job.request.model)
        # The first takes the place of the deferred answer, and where the bot is a guest there may be five more.
        limits = Limits(interaction.filesize_limit, messages=6)
        archive_bytes = archived_bytes(house.service, job, shown, limits)
        plan = parcels(shown, limits, archive_bytes)
        for part, parcel in enumerate(plan, 1):
            try:
                packed = await pack(house.service, chosen(shown, parcel.pictures), parcel.file_bytes)
            except Undeliverable as error:
                raise RequestError(str(error)) from error
            notes = [f"message {part} of {len(plan)}"] if len(plan) > 1 else []
            notes += packed.notes
            files = packed.files
            if part == 1:
                archive = await pack_archive(house.service, job, shown if archive_bytes else [])
                files = [*files, *([archive] if archive else [])]
                notes += [] if archive else no_archive(job, len(shown))
                hidden, beside = len(job.files) - len(shown), archive.name if archive else None
                redrawn = may_redraw(job, house.service.catalogue)
                view = cards.result(
                    job, name, packed.shown, notes=notes, hidden=hidden, archive=beside, redrawn=redrawn
                )
            else:
                view = cards.more(job, packed.shown, notes=notes)
            await interaction.followup.send(view=view, files=[file.as_file() for file in files], ephemeral=True)
