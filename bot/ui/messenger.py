"""How a request's message is reached: with the interaction token while it lives, then as the bot itself, then elsewhere.

Edits can be repeated harmlessly, so they are retried. Only where no edit is possible a new message is made, with an
enforced nonce, after a look back for the job's id in what stands there already.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import aiohttp
import discord
from discord import ui

from bot.generation import Job, PostedTo
from bot.scheduling.patience import Patience
from bot.ui.media import shows_job

log = logging.getLogger(__name__)

CALL_TIMEOUT_S = 30.0
RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
LOOK_BACK_MESSAGES = 50

UNKNOWN_WEBHOOK = 10015
UNKNOWN_INTERACTION = 10062
TOO_LARGE = 40005
INVALID_TOKEN = 50027

T = TypeVar("T")


class _Original:
    """Discord's name for the first answer to an interaction, in the place of an id.

    Not a string, because discord.py quotes the "@" in strings.
    """

    def __str__(self) -> str:
        return "@original"


ORIGINAL: Any = _Original()


class Undeliverable(Exception):
    """No way leads to the member; the text is a sentence for them."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file to be sent."""

    name: str
    data: bytes = field(repr=False)

    def as_file(self) -> discord.File:
        """Make discord.py's file, which can be sent once."""
        return discord.File(io.BytesIO(self.data), filename=self.name)


class Messenger:
    """Edits and sends messages for requests. Event loop only."""

    def __init__(self, client: discord.Client, *, patience: Patience, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._patience = patience
        self._clock = clock

    async def update(
        self, job: Job, view: ui.LayoutView, files: Sequence[Attachment], *, final: bool = False
    ) -> int | None:
        """Edit the request's message; its id where Discord told it.

        Progress (`final=False`) is tried once. Raises discord.HTTPException or Undeliverable where it cannot be.
        """
        tries = RETRY_DELAYS_S if final else ()
        if self.token_lives(job):
            try:
                return (await self._retried(lambda: self._edit_by_token(job, view, files), tries)).id
            except discord.HTTPException as error:
                if error.code not in (UNKNOWN_WEBHOOK, UNKNOWN_INTERACTION, INVALID_TOKEN):
                    raise
        if self._editable_by_bot(job):
            return (await self._retried(lambda: self._edit_as_bot(job, view, files), tries)).id
        raise Undeliverable("Its message can no longer be edited.")

    async def deliver(self, job: Job, view: ui.LayoutView, files: Sequence[Attachment]) -> tuple[PostedTo, int | None]:
        """Show a result exactly once: by an edit, else by a new message, else in a direct message.

        Raises Undeliverable with a sentence where nothing works.
        """
        try:
            return PostedTo.CHANNEL, await self.update(job, view, files, final=True)
        except discord.HTTPException as error:
            if error.code == TOO_LARGE or error.status == 413:
                raise Undeliverable("The pictures are larger than this channel accepts.") from error
            log.info("request %s: its message cannot be edited (%s)", job.id, error)
        except Undeliverable as error:
            log.info("request %s: %s", job.id, error)
        if job.origin.bot_in_channel and not job.request.private:
            try:
                return PostedTo.CHANNEL, await self._send_new(job, view, files)
            except discord.HTTPException as error:
                log.info("request %s: no new message in the channel (%s)", job.id, error)
        try:
            return PostedTo.DIRECT_MESSAGE, await self._send_direct(job, view, files)
        except discord.HTTPException as error:
            raise Undeliverable("The pictures could be shown neither here nor in a direct message.") from error

    async def tell_directly(self, job: Job, view: ui.LayoutView) -> None:
        """Tell a member in a direct message how a private request ended, where its own message is out of reach."""
        await self._send_direct(job, view, [])

    async def erase(self, job: Job) -> None:
        """Delete the message that shows a result, wherever it was posted; nothing where that is out of reach."""
        if job.message_id is None or (job.request.private and job.posted_to is not PostedTo.DIRECT_MESSAGE):
            return  # what only one member sees went with the button they pressed
        channel: Any = self._channel(job)
        try:
            if job.posted_to is PostedTo.DIRECT_MESSAGE:
                channel = await self._client.create_dm(discord.Object(job.origin.user_id))
            await channel.get_partial_message(job.message_id).delete()
        except discord.HTTPException as error:
            log.info("the message of request %s could not be deleted: %s", job.id, error)

    async def notify(self, job: Job, message_id: int | None) -> None:
        """Mention the member after a long wait, since edits do not notify. A courtesy: failures are logged."""
        text = f"<@{job.origin.user_id}> your pictures are ready."
        if message_id is not None and not job.request.private:
            text += f" https://discord.com/channels/{job.origin.guild_id or '@me'}/{job.origin.channel_id}/{message_id}"
        mention = discord.AllowedMentions(users=[discord.Object(job.origin.user_id)])
        try:
            if self.token_lives(job):
                await self._webhook(job).send(text, ephemeral=job.request.private, allowed_mentions=mention)
            elif not job.request.private:
                await self._channel(job).send(text, allowed_mentions=mention)
        except (discord.HTTPException, aiohttp.ClientError, TimeoutError) as error:
            log.info("request %s: the member could not be notified (%s)", job.id, error)

    def token_lives(self, job: Job) -> bool:
        """Whether the message can still be edited with its interaction's token."""
        return job.origin.interaction_token is not None and self._clock() < job.origin.expires_at

    @staticmethod
    def _editable_by_bot(job: Job) -> bool:
        return job.message_id is not None and job.origin.bot_in_channel and not job.request.private

    def _webhook(self, job: Job) -> discord.Webhook:
        return discord.Webhook.partial(
            job.origin.application_id, job.origin.interaction_token or "", client=self._client
        )

    def _channel(self, job: Job) -> discord.PartialMessageable:
        return self._client.get_partial_messageable(job.origin.channel_id, guild_id=job.origin.guild_id)

    async def _edit_by_token(self, job: Job, view: ui.LayoutView, files: Sequence[Attachment]) -> Any:
        # By that name and not by id, which may not have been recorded before a crash.
        attachments = [file.as_file() for file in files]
        return await self._webhook(job).edit_message(ORIGINAL, view=view, attachments=attachments)

    async def _edit_as_bot(self, job: Job, view: ui.LayoutView, files: Sequence[Attachment]) -> Any:
        message = self._channel(job).get_partial_message(job.message_id or 0)
        return await message.edit(view=view, attachments=[file.as_file() for file in files])

    async def _send_new(self, job: Job, view: ui.LayoutView, files: Sequence[Attachment]) -> int:
        channel = self._channel(job)

        async def send() -> int:
            standing = await self._look_back(channel, job)
            if standing is not None:
                return standing
            message = await channel.send(view=view, files=[file.as_file() for file in files], nonce=job.id)
            return message.id

        return await self._retried(send, RETRY_DELAYS_S)

    async def _send_direct(self, job: Job, view: ui.LayoutView, files: Sequence[Attachment]) -> int:
        async def send() -> int:
            channel = await self._client.create_dm(discord.Object(job.origin.user_id))
            standing = await self._look_back(channel, job)
            if standing is not None:
                return standing
            message = await channel.send(view=view, files=[file.as_file() for file in files], nonce=job.id)
            return message.id

        return await self._retried(send, RETRY_DELAYS_S)

    async def _look_back(self, channel: discord.abc.Messageable, job: Job) -> int | None:
        """Find a message that shows this job's pictures already: a crash may have come between sending and noting."""
        try:
            async for message in channel.history(limit=LOOK_BACK_MESSAGES):
                own = self._client.user is not None and message.author.id == self._client.user.id
                if own and shows_job(message, job.id):
                    return message.id
        except discord.Forbidden:
            return None  # no right to read back; the nonce still holds for some minutes
        return None

    async def _retried(self, call: Callable[[], Any], delays_s: Sequence[float]) -> Any:
        """Call, and call again after what passes: server errors, dropped connections, silence, edge rate limits."""
        for delay_s in (*delays_s, None):
            try:
                return await asyncio.wait_for(call(), CALL_TIMEOUT_S)
            except (discord.HTTPException, aiohttp.ClientError, TimeoutError, OSError) as error:
                if isinstance(error, discord.HTTPException):
                    if delay_s is None or not (error.status >= 500 or error.status == 429):
                        raise
                elif delay_s is None:
                    raise Undeliverable("Discord did not answer.") from error
                log.info("Discord failed (%s), again in %s s", error, delay_s)
                await self._patience.sleep(delay_s, "Discord to recover")
        raise AssertionError("unreachable")
