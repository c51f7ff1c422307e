"""What `/privacy` answers: the file with everything, and the question before everything goes."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence
from typing import Any, Self

import discord
from discord import ui

from bot.errors import NotPermitted
from bot.generation import Job
from bot.scheduling.privacy import Erased, Holdings
from bot.ui.answers import guarded
from bot.ui.house import House, house_of
from bot.ui.view import sealed
from bot.ui.words import count_of

log = logging.getLogger(__name__)

MESSAGES_WITHIN_S = 600.0
"""Discord takes about one deletion a second, and the answer must come while its token lives."""


async def answer_export(interaction: discord.Interaction[Any], house: House) -> None:
    """Answer with the member's data as a file, to them alone."""
    await interaction.response.defer(ephemeral=True, thinking=True)
    export = await house.service.export_member(interaction.user.id, interaction.filesize_limit)
    said = "Everything kept about you: requests, their pictures by name (`/history` shows them), and what they cost."
    if export.pictures:
        said += f" In `inputs`: {count_of(export.pictures, 'picture')} you drew from."
    if export.left_out:
        said += (
            f" {count_of(export.left_out, 'picture')} more had no room in a message; ask whoever runs the bot for them."
        )
    file = discord.File(io.BytesIO(export.data), filename=export.name)
    await interaction.followup.send(said, file=file, ephemeral=True)


async def ask_before_erasing(interaction: discord.Interaction[Any], house: House) -> None:
    """Say what would go, with the button that does it."""
    await interaction.response.defer(ephemeral=True, thinking=True)
    held = await house.service.holdings(interaction.user.id)
    row: ui.ActionRow[Any] = ui.ActionRow()
    row.add_item(EraseButton(interaction.user.id))
    await interaction.followup.send(view=sealed(ui.Container(ui.TextDisplay(question(held)), row)), ephemeral=True)


def question(held: Holdings) -> str:
    """Ask whether to go on."""
    unfinished = f", {held.unfinished} of them unfinished, which end now" if held.unfinished else ""
    return (
        f"**Delete everything kept about you?**\n{count_of(held.requests, 'request')}{unfinished}, and "
        f"{count_of(held.pictures, 'picture')}: files, records and the bot's messages that show them. This cannot be undone; "
        "`/privacy export` first gives you the records and the pictures you drew from."
    )


def report(erased: Erased, gone: int, stays: Sequence[Job], *, budgeted: bool) -> str:
    """Say what went and what stays."""
    lines = [
        f"Deleted: {count_of(len(erased.jobs), 'request')} with all files and records, and {count_of(gone, 'message')}."
    ]
    if stays:
        private = sum(job.request.private for job in stays)
        if private:
            lines.append(
                f"{count_of(private, 'private answer')} only you can see will vanish from your screen by itself."
            )
        if len(stays) > private:
            lines.append(
                f"{count_of(len(stays) - private, 'message')} the bot cannot reach any more; delete by hand what you see."
            )
    if erased.files_left:
        lines.append(
            f"The files of {count_of(erased.files_left, 'request')} could not be removed yet; the next start does so."
        )
    if erased.copies_left:
        lines.append("An older copy of the database could not be cleaned just now; please press again in a minute.")
    if budgeted:
        lines.append("How much of today's budget you have used is kept until midnight UTC.")
    return "\n".join(lines)


class EraseButton(ui.DynamicItem[ui.Button[Any]], template=r"easel:v1:erase:(?P<user>[0-9]{1,20})"):
    """*Delete everything*: only for the member it names."""

    def __init__(self, user_id: int) -> None:
        self.user_id = user_id
        style = discord.ButtonStyle.danger
        super().__init__(ui.Button(label="Delete everything", style=style, custom_id=f"easel:v1:erase:{user_id}"))

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Rebuild the button from its id alone."""
        return cls(int(match["user"]))

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Erase; every error becomes an answer."""
        await guarded(interaction, self._erase(interaction, house_of(interaction)))

    async def _erase(self, interaction: discord.Interaction[Any], house: House) -> None:
        if interaction.user.id != self.user_id:
            raise NotPermitted("This deletes somebody else's data; `/privacy delete` is for your own.")
        await interaction.response.defer(ephemeral=True, thinking=True)
        erased = await house.service.erase_member(self.user_id)
        # All at once, so that nothing of them is on its way to Discord while the first messages are deleted.
        for job in erased.jobs:
            house.delivery.forget(job.id)
        until = house.clock().timestamp() + MESSAGES_WITHIN_S
        stays: list[Job] = []
        for job in reversed(erased.jobs):
            more = erased.posts.get(job.id, ())[1:]
            if house.clock().timestamp() > until or not await house.delivery.withdraw(job, more):
                stays.append(job)
        shown = [job for job in stays if job.message_id is not None]
        gone = len(erased.jobs) - len(stays)
        text = report(erased, gone, shown, budgeted=house.service.budgeted)
        await interaction.followup.send(text, ephemeral=True)
