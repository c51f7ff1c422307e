"""How a request's message is reached: with the interaction token while it lives, then as the bot itself, then elsewhere.

Edits can be repeated harmlessly, so they are retried. Only where no edit is possible a new message is made, with an
enforced nonce, after a look back for the job's id in what stands there already. A refusal of Discord's leads to the
next way; a failure that passes leads nowhere but to another try, since what failed may have been carried out.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import discord
from discord import ui
from discord.utils import DEFAULT_FILE_SIZE_LIMIT_BYTES

from bot.generation import Job, Post, PostedTo
from bot.scheduling.patience import Patience
from bot.transport import SILENT, NotSent, jittered, passes, retry_after
from bot.ui.media import shows_file, shows_job
from bot.ui.parcels import Limits
from bot.ui.view import sealed

log = logging.getLogger(__name__)

RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0)
LOOK_BACK_MESSAGES = 50
USER_INSTALL_FOLLOWUPS = 5
"""Discord's limit for an interaction in a place where only the member installed the bot. One is kept for the mention."""

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


class TooLarge(Undeliverable):
    """Discord refuses the files for their size."""


class Unanswered(Exception):
    """Discord failed, was silent or is not to be called now: whether the call was carried out is not known."""


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

    def __init__(
        self, client: discord.Client, *, patience: Patience, clock: Callable[[], datetime],
        retry_delays_s: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        self._client = client
        self._patience = patience
        self._clock = clock
        self._retry_delays_s = RETRY_DELAYS_S if retry_delays_s is None else retry_delays_s

    def limits(self, job: Job) -> Limits:
        """What one message for this request may hold, and how many there may be."""
        file_bytes = DEFAULT_FILE_SIZE_LIMIT_BYTES
        if self.token_lives(job) and job.origin.attachment_size_limit > 0:
            file_bytes = job.origin.attachment_size_limit
        elif (guild := self._client.get_guild(job.origin.guild_id or 0)) is not None:
            file_bytes = guild.filesize_limit
        # The original response is no follow-up.
        messages = None if job.origin.bot_in_channel else 1 + USER_INSTALL_FOLLOWUPS - 1
        return Limits(file_bytes=file_bytes, messages=messages)

    async def update(
        self, job: Job, view: ui.LayoutView, files: Sequence[Attachment], *, final: bool = False
    ) -> int | None:
        """Edit the request's message; its id where Discord told it.

        Progress (`final=False`) is tried once. Raises discord.HTTPException where Discord refuses, Undeliverable where
        there is no way, Unanswered.
        """
        tries = self._retry_delays_s if final else ()
        if self.token_lives(job):
            try:
                return (await self._retried(lambda: self._edit_by_token(job, view, files), tries)).id
            except discord.HTTPException as error:
                if error.code not in (UNKNOWN_WEBHOOK, UNKNOWN_INTERACTION, INVALID_TOKEN):
                    raise
        if self._editable_by_bot(job):
            return (await self._retried(lambda: self._edit_as_bot(job, job.message_id, view, files), tries)).id
        raise Undeliverable("Its message can no longer be edited.")

    async def deliver(self, job: Job, view: ui.LayoutView, files: Sequence[Attachment]) -> tuple[PostedTo, int | None]:
        """Show a result exactly once: by an edit, else by a new message, else in a direct message.

        Raises Undeliverable with a sentence where nothing works, TooLarge, Unanswered.
        """
        try:
            return PostedTo.CHANNEL, await self.update(job, view, files, final=True)
        except discord.HTTPException as error:
            _raise_if_too_large(error)
            log.info("request %s: its message cannot be edited (%s)", job.id, error)
        except Undeliverable as error:
            log.info("request %s: %s", job.id, error)
        message, where = await self._send_anywhere(job, view, files, nonce=job.id, part=None)
        return where, message.id

    async def deliver_part(
        self, job: Job, post: Post, view: ui.LayoutView, files: Sequence[Attachment],
        noted: Callable[[int, int], Awaitable[None]],
    ) -> tuple[int, int]:  # fmt: skip
        """Show a message beyond the first exactly once; its id and its channel's.

        `noted(message_id, channel_id)` records a message before there are pictures in it. Raises as `deliver`.
        """
        try:
            if post.message_id is not None and post.channel_id is not None:
                await self._edit_part(job, post.message_id, post.channel_id, view, files)
                return post.message_id, post.channel_id
            if not self._bot_posts(job) and self.token_lives(job):
                # A follow-up has no nonce, so it is sent once, empty, and noted; pictures come by an edit, which can be
                # repeated. What a crash leaves behind is a line of text at worst.
                empty = await self._once(lambda: self._follow_up(job))
                channel_id = empty.channel.id if empty.channel is not None else job.origin.channel_id
                await noted(empty.id, channel_id)
                await self._edit_part(job, empty.id, channel_id, view, files)
                return empty.id, channel_id
        except discord.HTTPException as error:
            _raise_if_too_large(error)
            log.info("request %s: no follow-up %d (%s)", job.id, post.part, error)
        except Undeliverable as error:
            log.info("request %s: no follow-up %d (%s)", job.id, post.part, error)
        message, _ = await self._send_anywhere(job, view, files, nonce=f"{job.id}-{post.part}", part=post)
        return message.id, message.channel.id

    async def tell_directly(self, job: Job, view: ui.LayoutView) -> None:
        """Tell a member in a direct message how a private request ended, where its own message is out of reach."""
        await self._send(await self._direct(job), job, view, [], nonce=job.id, part=None)

    async def erase(self, job: Job) -> None:
        """Delete the message that shows a result, wherever it was posted; nothing where that is out of reach."""
        if job.message_id is None or (job.request.private and job.posted_to is not PostedTo.DIRECT_MESSAGE):
            return  # what only one member sees went with the button they pressed
        try:
            channel: Any = await self._direct(job) if job.posted_to is PostedTo.DIRECT_MESSAGE else self._channel(job)
            await channel.get_partial_message(job.message_id).delete()
        except (discord.HTTPException, *SILENT, Unanswered) as error:
            log.info("the message of request %s could not be deleted: %s", job.id, error)

    async def withdraw(self, job: Job) -> bool:
        """Delete the message of a request in any state, by whichever way still leads to it; whether it is gone."""
        try:
            if self.token_lives(job):
                await self._retried(lambda: self._webhook(job).delete_message(ORIGINAL), ())
            elif job.message_id is None:
                return False
            elif job.posted_to is PostedTo.DIRECT_MESSAGE:
                channel = await self._direct(job)
                await self._retried(lambda: channel.get_partial_message(job.message_id or 0).delete(), ())
            elif job.request.private or not job.origin.bot_in_channel:
                return False
            else:
                message = self._channel(job).get_partial_message(job.message_id)
                await self._retried(message.delete, ())
        except discord.NotFound:
            return True
        except (discord.HTTPException, *SILENT, Unanswered, Undeliverable) as error:
            log.info("the message of request %s could not be deleted: %s", job.id, error)
            return False
        return True

    async def erase_part(self, job: Job, post: Post) -> None:
        """Delete a message beyond the first; nothing where that is out of reach."""
        if post.message_id is None or post.channel_id is None:
            return
        try:
            if post.channel_id == job.origin.channel_id and not self._bot_posts(job):
                if self.token_lives(job):
                    await self._webhook(job).delete_message(post.message_id)
                return
            channel = self._client.get_partial_messageable(post.channel_id)
            await channel.get_partial_message(post.message_id).delete()
        except (discord.HTTPException, *SILENT) as error:
            log.info("message %d of request %s could not be deleted: %s", post.part, job.id, error)

    async def notify(self, job: Job, message_id: int | None) -> None:
        """Mention the member after a long wait, since edits do not notify. A courtesy: failures are logged."""
        text = f"<@{job.origin.user_id}> your pictures are ready."
        if message_id is not None and not job.request.private:
            text += f" https://discord.com/channels/{job.origin.guild_id or '@me'}/{job.origin.channel_id}/{message_id}"
        mention = discord.AllowedMentions(users=[discord.Object(job.origin.user_id)])
        try:
            if self.token_lives(job):
                await self._webhook(job).send(text, ephemeral=job.request.private, allowed_mentions=mention)
            elif self._bot_posts(job):
                await self._channel(job).send(text, allowed_mentions=mention, nonce=f"{job.id}-told")
        except (discord.HTTPException, *SILENT) as error:
            log.info("request %s: the member could not be notified (%s)", job.id, error)

    def token_lives(self, job: Job) -> bool:
        """Whether the message can still be edited with its interaction's token."""
        return job.origin.interaction_token is not None and self._clock() < job.origin.expires_at

    @staticmethod
    def _bot_posts(job: Job) -> bool:
        """Whether the bot itself may write where the request came from."""
        return job.origin.bot_in_channel and not job.request.private

    def _editable_by_bot(self, job: Job) -> bool:
        return job.message_id is not None and self._bot_posts(job)

    def _webhook(self, job: Job) -> discord.Webhook:
        token = job.origin.interaction_token or ""
        webhook = discord.Webhook.partial(job.origin.application_id, token, client=self._client)
        webhook.type = discord.WebhookType.application  # what only one member sees can be sent through no other
        return webhook

    def _channel(self, job: Job) -> discord.PartialMessageable:
        return self._client.get_partial_messageable(job.origin.channel_id, guild_id=job.origin.guild_id)

    async def _direct(self, job: Job) -> discord.DMChannel:
        return await self._retried(lambda: self._client.create_dm(discord.Object(job.origin.user_id)))

    async def _edit_by_token(
        self, job: Job, view: ui.LayoutView, files: Sequence[Attachment], message_id: Any = ORIGINAL
    ) -> Any:
        # The original by that name and not by id, which may not have been recorded before a crash.
        attachments = [file.as_file() for file in files]
        return await self._webhook(job).edit_message(message_id, view=view, attachments=attachments)

    async def _edit_as_bot(
        self, job: Job, message_id: int | None, view: ui.LayoutView, files: Sequence[Attachment]
    ) -> Any:
        message = self._channel(job).get_partial_message(message_id or 0)
        return await message.edit(view=view, attachments=[file.as_file() for file in files])

    async def _edit_part(
        self, job: Job, message_id: int, channel_id: int, view: ui.LayoutView, files: Sequence[Attachment]
    ) -> None:
        if channel_id == job.origin.channel_id and not self._bot_posts(job):
            if not self.token_lives(job):
                raise Undeliverable("Its message can no longer be edited.")
            await self._retried(lambda: self._edit_by_token(job, view, files, message_id))
            return
        message = self._client.get_partial_messageable(channel_id).get_partial_message(message_id)
        await self._retried(lambda: message.edit(view=view, attachments=[file.as_file() for file in files]))

    async def _follow_up(self, job: Job) -> discord.WebhookMessage:
        text = "More pictures of this request follow here."
        return await self._webhook(job).send(
            view=sealed(ui.TextDisplay(text)), ephemeral=job.request.private, wait=True
        )

    async def _send_anywhere(
        self, job: Job, view: ui.LayoutView, files: Sequence[Attachment], *, nonce: str, part: Post | None
    ) -> tuple[discord.Message, PostedTo]:
        """Make a new message: in the channel, else a direct one. Raises Undeliverable, TooLarge, Unanswered."""
        if self._bot_posts(job):
            try:
                message = await self._send(self._channel(job), job, view, files, nonce=nonce, part=part)
                return message, PostedTo.CHANNEL
            except discord.HTTPException as error:
                _raise_if_too_large(error)
                log.info("request %s: no new message in the channel (%s)", job.id, error)
        try:
            message = await self._send(await self._direct(job), job, view, files, nonce=nonce, part=part)
            return message, PostedTo.DIRECT_MESSAGE
        except discord.HTTPException as error:
            _raise_if_too_large(error)
            raise Undeliverable("The pictures could be shown neither here nor in a direct message.") from error

    async def _send(
        self, channel: Any, job: Job, view: ui.LayoutView, files: Sequence[Attachment], *, nonce: str, part: Post | None
    ) -> discord.Message:
        async def send() -> discord.Message:
            standing = await self._look_back(channel, job, part)
            if standing is not None:
                return standing
            return await channel.send(view=view, files=[file.as_file() for file in files], nonce=nonce)

        return await self._retried(send)

    async def _look_back(self, channel: Any, job: Job, part: Post | None) -> discord.Message | None:
        """Find a message that shows these pictures already: a crash may have come between sending and noting."""
        try:
            async for message in channel.history(limit=LOOK_BACK_MESSAGES):
                own = self._client.user is not None and message.author.id == self._client.user.id
                found = shows_job(message, job.id) if part is None else shows_file(message, job.id, part.pictures[0])
                if own and found:
                    return message
        except discord.Forbidden:
            return None  # no right to read back; the nonce still holds for some minutes
        return None

    async def _retried(self, call: Callable[[], Awaitable[T]], delays_s: Sequence[float] | None = None) -> T:
        """Call, and call again after what passes. Raises discord.HTTPException where refused, Unanswered."""
        for delay_s in (*(self._retry_delays_s if delays_s is None else delays_s), None):
            try:
                return await call()
            except (discord.HTTPException, *SILENT) as error:
                if isinstance(error, discord.HTTPException) and not passes(error):
                    raise
                if delay_s is None or not passes(error):
                    raise Unanswered(str(error) or type(error).__name__) from error
                log.info("Discord failed (%s), again in about %g s", error or type(error).__name__, delay_s)
                await self._patience.sleep(max(jittered(delay_s), retry_after(error)), "Discord to recover")
        raise AssertionError("unreachable")

    async def _once(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call what must not be repeated; a failure that may have been carried out counts as a refusal."""
        try:
            return await call()
        except NotSent as error:
            raise Unanswered(str(error)) from error
        except discord.HTTPException:
            raise
        except SILENT as error:
            raise Undeliverable("Discord did not say whether a message was made.") from error


def _raise_if_too_large(error: discord.HTTPException) -> None:
    if error.code == TOO_LARGE or error.status == 413:
        raise TooLarge("The pictures are larger than this channel accepts.") from error
