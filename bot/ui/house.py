"""What every cog and button needs from the rest of the house, in one object the client carries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import discord

from bot.generation import Actor, Origin
from bot.moderation import ADULT_BY_DEFAULT, AdultPolicy
from bot.scheduling.service import GenerationService

if TYPE_CHECKING:
    from bot.delivery import Delivery

TOKEN_LIFETIME_S = 15 * 60


@dataclass(frozen=True, slots=True)
class House:
    """The service below, the delivery beside, the two things that reach outside, and where adult pictures may be.

    `fetch(url, max_bytes)` reads an attachment; `clock()` is aware UTC time.
    """

    service: GenerationService
    delivery: Delivery
    fetch: Callable[[str, int], Awaitable[bytes]]
    clock: Callable[[], datetime]
    adult: AdultPolicy = ADULT_BY_DEFAULT


def house_of(interaction: discord.Interaction[Any]) -> House:
    """Find the house of the client that received this interaction."""
    return cast(House, cast(Any, interaction.client).house)


def actor_of(interaction: discord.Interaction[Any]) -> Actor:
    """Say who pressed and whether they manage messages here."""
    moderates = interaction.guild_id is not None and interaction.permissions.manage_messages
    return Actor(interaction.user.id, interaction.guild_id if moderates else None)


def origin_of(interaction: discord.Interaction[Any], now: datetime) -> Origin:
    """Take from an interaction all that answering it later needs.

    `now` rather than Discord's clock starts the token's 15 minutes; a minute is kept in hand.
    """
    return Origin(
        interaction_id=interaction.id,
        application_id=interaction.application_id,
        interaction_token=interaction.token,
        expires_at=now + timedelta(seconds=TOKEN_LIFETIME_S - 60),
        user_id=interaction.user.id,
        user_name=interaction.user.display_name,
        channel_id=interaction.channel_id or 0,
        guild_id=interaction.guild_id,
        age_restricted=age_restricted(interaction.channel),
        attachment_size_limit=interaction.filesize_limit,
        bot_in_channel=_bot_in_channel(interaction),
    )


def _bot_in_channel(interaction: discord.Interaction[Any]) -> bool:
    """Whether the bot itself is there, and not only with the member who installed it for themselves."""
    if interaction.guild_id is None:
        # A conversation of two members is a DMChannel, too.
        return isinstance(interaction.channel, discord.DMChannel) and not interaction.context.private_channel
    guest = interaction.is_user_integration() and not interaction.is_guild_integration()
    return not guest and interaction.client.get_guild(interaction.guild_id) is not None


def age_restricted(channel: Any) -> bool:
    """Whether a channel is marked as age-restricted."""
    # A thread or forum post has the mark of its parent; a direct message has none and counts as not restricted.
    probe = getattr(channel, "is_nsfw", None)
    return bool(probe()) if callable(probe) else False


def may_draw(interaction: discord.Interaction[Any]) -> bool:
    """Whether this member could type `/imagine` here: the right that *Again* and *Edit* ask for at each press."""
    return interaction.guild_id is None or interaction.permissions.use_application_commands
