"""The buttons of a request. They outlive the process: the custom id carries the action and the job, the database the rest.

Rights are checked at every press. `JobButton.callback` wraps all that can go wrong, because discord.py only logs
what a DynamicItem raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, ClassVar, Self

import discord
from discord import ui

from bot.errors import JobNotFound, NotPermitted, RequestError, StorageError
from bot.generation import Actor, GenerationOptions, GenerationRequest, InputRef, Job
from bot.prompts.again import options_of
from bot.prompts.upscaling import options_of_upscale
from bot.ui.answers import guarded, whisper
from bot.ui.forms import REF, edit_form, editable, input_form, ref_of, spelled
from bot.ui.house import House, actor_of, house_of, may_draw, origin_of
from bot.ui.info import job_info

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 2.0
"""A press must be answered within 3 s, whatever the database does."""

JOB = r"(?P<job>[0-9a-z]{4,32})"


class JobButton(ui.DynamicItem[ui.Button[Any]], template=rf"easel:v1:button:{JOB}"):
    """Base of every button on a request; a subclass names its action and says what a press does."""

    action: ClassVar[str]
    label: ClassVar[str]
    emoji: ClassVar[str | None] = None
    style: ClassVar[discord.ButtonStyle] = discord.ButtonStyle.secondary

    def __init__(self, job_id: str, *, label: str | None = None, more: str = "") -> None:
        """`label` in the place of the class's; `more` is added to the custom id."""
        self.job_id = job_id
        button: ui.Button[Any] = ui.Button(
            label=label or self.label,
            emoji=self.emoji,
            style=self.style,
            custom_id=f"easel:v1:{self.action}:{job_id}{more}",
        )
        super().__init__(button)

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Rebuild the button from its id alone."""
        return cls(match["job"])

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Run the press; every error becomes an answer."""
        await guarded(interaction, self._pressed(interaction))

    async def _pressed(self, interaction: discord.Interaction[Any]) -> None:
        house = house_of(interaction)
        await self.press(interaction, house)

    async def press(self, interaction: discord.Interaction[Any], house: House) -> None:
        """Do what the button says."""
        raise AssertionError(f"{type(self).__name__} does nothing")


class PictureButton(JobButton, template=rf"easel:v1:picture:{JOB}:(?P<n>[1-9]\d?)"):
    """Base of the buttons on one picture of a result; its number counts from 1 in labels and ids, `n` from 0."""

    def __init__(self, job_id: str, n: int, *, alone: bool = False) -> None:
        """`alone`: the result has this picture only, so the label needs no number."""
        self.n = n
        super().__init__(job_id, label=None if alone else f"{self.label} {n + 1}", more=f":{n + 1}")

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Rebuild the button from its id alone."""
        return cls(match["job"], int(match["n"]) - 1)


class CancelButton(JobButton, template=rf"easel:v1:cancel:{JOB}"):
    """*Cancel*, on a waiting or running request: the requester and moderators."""

    action = "cancel"
    label = "Cancel"

    async def press(self, interaction: discord.Interaction[Any], house: House) -> None:
        """Cancel; the card itself then says so, and where this is not the card, an answer does."""
        await interaction.response.defer()
        job = await house.service.cancel(self.job_id, actor_of(interaction))
        if interaction.message is not None and interaction.message.id != job.message_id:
            await whisper(interaction, "Cancelled.")


class AgainButton(JobButton, template=rf"easel:v1:again:{JOB}"):
    """*Again*: the same request with a new seed, on the account of whoever pressed."""

    action = "again"
    label = "Again"
    emoji = "🔁"
    style = discord.ButtonStyle.primary

    async def press(self, interaction: discord.Interaction[Any], house: House) -> None:
        """Queue the request again; the answer is a new message."""
        job = await drawable_job(interaction, house, self.job_id)
        if job.request.upscale:
            request = house.service.prepare_upscale(options_of_upscale(job.request))
        else:
            request = await prepared(house, replace(options_of(job.request), seed=None))
        await draw(interaction, house, request)


class EditButton(JobButton, template=rf"easel:v1:edit:{JOB}"):
    """*Edit*: a form with the parameters, filled in."""

    action = "edit"
    label = "Edit"
    emoji = "✏️"

    async def press(self, interaction: discord.Interaction[Any], house: House) -> None:
        """Open the form. It cannot follow a deferral, so the one database read comes first."""
        job = await drawable_job(interaction, house, self.job_id)
        if job.request.upscale:
            raise RequestError("Nothing of an upscaled picture is to be edited; edit the one that it was made of.")
        if not editable(job.request):
            raise RequestError("No form has room for this; ask for it anew with its command.")
        await interaction.response.send_modal(edit_form(job, house.service.catalogue))


class InfoButton(JobButton, template=rf"easel:v1:info:{JOB}"):
    """*Info*: everything that made the pictures, to the one who asked."""

    action = "info"
    label = "Info"
    emoji = "ℹ️"

    async def press(self, interaction: discord.Interaction[Any], house: House) -> None:
        """Answer with the parameters."""
        job = await visible_job(interaction, house, self.job_id)
        await interaction.response.send_message(view=job_info(job, house.service.catalogue), ephemeral=True)


class DeleteButton(JobButton, template=rf"easel:v1:delete:{JOB}"):
    """*Delete*: message, files and rows go; the requester and moderators."""

    action = "delete"
    label = "Delete"
    style = discord.ButtonStyle.danger

    async def press(self, interaction: discord.Interaction[Any], house: House) -> None:
        """Check the rights, then erase: first what others see, then what we keep."""
        actor = actor_of(interaction)
        await interaction.response.defer()
        job = await self._check(house, actor)
        house.delivery.forget(self.job_id)
        try:
            await interaction.delete_original_response()
        except discord.NotFound:
            log.debug("the message of request %s was deleted already", self.job_id)
        except discord.HTTPException as error:
            log.warning("the message of request %s stays: %s", self.job_id, error)
            await whisper(
                interaction, "Discord would not delete the message; delete it by hand. The pictures are gone."
            )
        if job is None:
            return
        if interaction.message is None or interaction.message.id != job.message_id:
            await house.delivery.erase(job)  # pressed on a copy, as `/history` shows them
        await house.delivery.erase_more(job)
        with contextlib.suppress(JobNotFound):
            await house.service.delete(self.job_id, actor)

    async def _check(self, house: House, actor: Actor) -> Job | None:
        try:
            job = await house.service.get(self.job_id)
        except JobNotFound:
            # Kept no longer, so nobody knows whose it was: then only moderators may take the message away.
            if actor.moderates_guild_id is not None:
                return None
            raise
        if not actor.may_end(job):
            raise NotPermitted("Only the member who asked for this, or a moderator, can delete it.")
        return job


class DescribeButton(ui.DynamicItem[ui.Button[Any]], template=rf"easel:v1:input:{REF}"):
    """Under a picture that *Use as input* took in: opens the form that says what to draw from it."""

    def __init__(self, ref: InputRef) -> None:
        self.ref = ref
        button: ui.Button[Any] = ui.Button(
            label="Say what to draw", style=discord.ButtonStyle.primary, custom_id=f"easel:v1:input:{spelled(ref)}"
        )
        super().__init__(button)

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Rebuild the button from its id alone."""
        return cls(ref_of(match))

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Open the form; every error becomes an answer."""
        await guarded(interaction, self._open(interaction))

    async def _open(self, interaction: discord.Interaction[Any]) -> None:
        house = house_of(interaction)
        check_may_draw(interaction, house)
        await interaction.response.send_modal(input_form(self.ref, house.service.catalogue))


BUTTONS: tuple[type[ui.DynamicItem[Any]], ...] = (
    DescribeButton,
    CancelButton,
    AgainButton,
    EditButton,
    InfoButton,
    DeleteButton,
)


async def visible_job(interaction: discord.Interaction[Any], house: House, job_id: str) -> Job:
    """Read a job that this person may see: a private one is its requester's alone.

    Raises JobNotFound in words that fit an old button.
    """
    try:
        job = await asyncio.wait_for(house.service.get(job_id), READ_TIMEOUT_S)
    except TimeoutError:
        raise StorageError("The bot's database is slow just now; press again in a moment.") from None
    if job.request.private and job.origin.user_id != interaction.user.id:
        raise NotPermitted("This request is private to the member who made it.")
    return job


def check_may_draw(interaction: discord.Interaction[Any], house: House) -> None:
    """Refuse where this person may not draw here, or nothing more can be taken. Raises NotPermitted, or as `check_room`."""
    if not may_draw(interaction):
        raise NotPermitted("You may not use commands in this channel, so you cannot draw here.")
    house.service.check_room(interaction.user.id)


async def drawable_job(interaction: discord.Interaction[Any], house: House, job_id: str) -> Job:
    """Read a job for somebody who wants to draw from it; checks that they may, here and now."""
    check_may_draw(interaction, house)
    return await visible_job(interaction, house, job_id)


async def prepared(house: House, options: GenerationOptions) -> GenerationRequest:
    """Check and complete what was asked for; a list, which may take a while to read, beside the loop. Raises as `prepare`."""
    if not options.lines:
        return house.service.prepare(options)
    return await asyncio.to_thread(house.service.prepare, options)


async def draw(
    interaction: discord.Interaction[Any], house: House, request: GenerationRequest,
    complete: Callable[[], Awaitable[GenerationRequest]] | None = None,
) -> None:  # fmt: skip
    """Acknowledge with a new message, then commit the request; delivery fills the message.

    All checks that need no waiting came before, so that their refusals were private; what is refused from here
    on deletes the public placeholder first. `complete` gives the request to commit where that takes a while.
    """
    origin = origin_of(interaction, house.clock())
    await interaction.response.defer(ephemeral=request.private, thinking=True)
    try:
        await house.service.submit(request if complete is None else await complete(), origin)
    except Exception:
        if not request.private:
            with contextlib.suppress(discord.HTTPException):  # the refusal matters more than the placeholder
                await interaction.delete_original_response()
        raise


__all__ = ["BUTTONS", "JobButton", "draw", "visible_job", "whisper"]
