"""Whether a member may still draw where they asked, looked up without them: for work that starts long after the request.

At a press and at a command Discord says so itself (`bot/ui/house.py`); here it is worked out from the roles, the channel
and the member, as the gateway told them, and over REST what it did not. Members are always asked for, since without
the privileged intent the gateway tells of none.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
import discord

from bot.generation import Origin

log = logging.getLogger(__name__)

LOOK_TIMEOUT_S = 10.0

LEFT = "You are no longer a member of this server, so your request was not drawn."
LOST = "You may no longer draw in this channel: your rights changed while the request waited, so it was not drawn."
GONE = "The channel or server is no longer there for the bot, so your request was not drawn."


class Rights:
    """Answers for requests in servers the bot is in. Event loop only."""

    def __init__(self, client: discord.Client) -> None:
        self._client = client

    async def why_not(self, origin: Origin) -> str | None:
        """Say in a sentence why this member may not draw there now; None where they may.

        None also where that cannot be known: in direct messages and where the bot is no member nobody's rights are
        ours to look up, and while Discord is out of reach the right they had when they asked stands.
        """
        if origin.guild_id is None or not origin.bot_in_channel:
            return None
        try:
            return await asyncio.wait_for(self._look(origin.guild_id, origin), LOOK_TIMEOUT_S)
        except (discord.DiscordException, aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning(
                "the rights of user %s could not be looked up (%s); what they had stands", origin.user_id, error
            )
            return None

    async def _look(self, guild_id: int, origin: Origin) -> str | None:
        # After a restart work may start before the gateway has told anything; a guild from REST has its roles, too.
        guild = self._client.get_guild(guild_id)
        if guild is None or guild.unavailable:
            try:
                guild = await self._client.fetch_guild(guild_id, with_counts=False)
            except (discord.NotFound, discord.Forbidden):
                return GONE
        try:
            channel = await _channel(guild, origin.channel_id)
        except discord.NotFound:
            return GONE
        try:
            member = await guild.fetch_member(origin.user_id)
        except discord.NotFound:
            return LEFT
        held = channel.permissions_for(member)
        return None if held.view_channel and held.use_application_commands else LOST


async def _channel(guild: discord.Guild, channel_id: int) -> Any:
    """Find a channel; for a thread the one it belongs to, whose rights are the thread's."""
    channel: Any = guild.get_channel_or_thread(channel_id) or await guild.fetch_channel(channel_id)
    if isinstance(channel, discord.Thread):
        return guild.get_channel(channel.parent_id) or await guild.fetch_channel(channel.parent_id)
    return channel
