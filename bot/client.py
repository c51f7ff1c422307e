"""The discord.py client: loads the cogs, registers commands where they differ, answers what discord.py would only log."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import discord
import discord.gateway
from discord import app_commands
from discord.ext import commands
from discord.http import Route

from bot.errors import ConfigError, EaselError
from bot.gateway import IdentifyGap, IdentifyLater, StartLimit, read_start_limit
from bot.ui.answers import answer_error, guarded, whisper
from bot.ui.buttons import BUTTONS
from bot.ui.forms import ref_of
from bot.ui.house import House
from bot.ui.media import shows_button
from bot.ui.regions import PART_FORM_ID, part_submitted
from bot.ui.submit import (
    DRAW_FORM_ID,
    FORM_ID,
    INPUT_FORM_ID,
    LIST_FORM_ID,
    draw_form_submitted,
    form_submitted,
    input_form_submitted,
    list_form_submitted,
)

log = logging.getLogger(__name__)

EXTENSIONS = (
    "cogs.imagine", "cogs.expand", "cogs.upscale", "cogs.batch", "cogs.grid", "cogs.queue", "cogs.models", "cogs.styles", "cogs.history", "cogs.info", "cogs.describe",
    "cogs.privacy", "cogs.help",
)  # fmt: skip

OUTDATED = "This button was made by another version of the bot, and nothing answers to it now. Ask for it anew."

MOVED_ON = "That button has just gone: the request has moved on. Look at its message again."

REGISTER_AGAIN_S = (1.0, 5.0, 15.0)
ASK_LIMIT_S = 10.0

SCOPES = ("bot", "applications.commands")
PERMISSIONS = discord.Permissions(
    view_channel=True,
    send_messages=True,
    send_messages_in_threads=True,
    attach_files=True,
    read_message_history=True,
)
"""Exactly what is used: results and late messages with files, in channels and threads, and the look back before a late one."""


def invite_link(application_id: int) -> str:
    """Give the address where an administrator adds the bot to a server."""
    return discord.utils.oauth_url(application_id, permissions=PERMISSIONS, scopes=SCOPES)


class EaselTree(app_commands.CommandTree[Any]):
    """The command tree, with the one error handler of all commands."""

    async def on_error(self, interaction: discord.Interaction[Any], error: app_commands.AppCommandError, /) -> None:
        """Answer instead of only logging."""
        await answer_error(interaction, error)


class EaselClient(commands.Bot):
    """The bot. No privileged intents; commands come from the cogs, buttons from `bot/ui/buttons.py`."""

    house: House

    def __init__(self, *, sync_guild: int | None = None, http_trace: aiohttp.TraceConfig | None = None) -> None:
        """`http_trace` watches every exchange with Discord's REST API."""
        super().__init__(
            command_prefix=(),
            help_command=None,
            intents=discord.Intents(guilds=True),
            tree_cls=EaselTree,
            allowed_mentions=discord.AllowedMentions.none(),
            allowed_contexts=app_commands.AppCommandContext(guild=True, dm_channel=True, private_channel=True),
            allowed_installs=app_commands.AppInstallationType(guild=True, user=True),
            max_messages=None,
            http_trace=http_trace,  # pyright: ignore[reportArgumentType]  # discord.py's default is None
        )
        self._sync_guild = sync_guild
        self._templates: list[re.Pattern[str]] = []
        self.before_commands: Any = None
        """An awaitable function that runs before the commands are registered; the builder sets it."""
        self.identify_gap = IdentifyGap()
        self._socket: Any = None

    async def setup_hook(self) -> None:
        """Start what stands below, load the cogs, register commands where Discord's differ. Raises EaselError."""
        if self.before_commands is not None:
            await self.before_commands()
        self.add_dynamic_items(*BUTTONS)
        for extension in EXTENSIONS:
            await self.load_extension(extension)
        for delay_s in (*REGISTER_AGAIN_S, None):
            try:
                await self.register_commands()
                return
            except (discord.HTTPException, aiohttp.ClientError, OSError) as error:
                if delay_s is None:
                    raise EaselError(f"The commands could not be registered: {error}. Try again later.") from error
                log.warning("the commands could not be registered (%s), again in %g s", error, delay_s)
                await asyncio.sleep(delay_s)

    async def register_commands(self) -> bool:
        """Overwrite the commands Discord has where they differ from ours; whether that was needed.

        Raises ConfigError where `EASEL_SYNC_GUILD` names a server the bot is not in.
        """
        guild = None if self._sync_guild is None else discord.Object(self._sync_guild)
        application = self.application_id or 0
        there: Any
        if guild is None:
            there = await self.http.get_global_commands(application)
        else:
            self.tree.copy_global_to(guild=guild)
            try:
                there = await self.http.get_guild_commands(application, guild.id)
            except (discord.Forbidden, discord.NotFound):
                raise ConfigError(
                    f"EASEL_SYNC_GUILD is {guild.id}, a server the bot is not in; it takes the id of one it is in, or nothing."
                ) from None
        ours = [command.to_dict(self.tree) for command in self.tree.get_commands(guild=guild)]
        if same_commands(ours, there, everywhere=guild is None):
            log.info("commands are up to date (%d)", len(ours))
            return False
        await self.tree.sync(guild=guild)
        log.info("commands registered (%d)", len(ours))
        return True

    async def connect(self, *, reconnect: bool = True) -> None:
        """Hold the gateway as discord.py does, but never spend the last IDENTIFYs of the day in a storm of restarts."""
        StrictKeepAlive.install()
        open_socket = self.http.ws_connect

        async def remembered(*args: Any, **kwargs: Any) -> Any:
            self._socket = await open_socket(*args, **kwargs)
            return self._socket

        self.http.ws_connect = remembered
        while True:
            limit = await self._start_limit()
            if limit is not None and limit.wait_s > 0:
                log.warning(
                    "only %d of today's %d connections to Discord are left, the next one is made in %.0f s; drawing goes on",
                    limit.remaining, limit.total, limit.wait_s,
                )  # fmt: skip
                await asyncio.sleep(limit.wait_s)
            try:
                await super().connect(reconnect=reconnect)
                return
            except IdentifyLater:
                # discord.py knows nothing of giving up here: its socket would stay open, and its thread would keep it so.
                await self._socket.close()

    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
        """Wait before identifying anew, the longer the more often it was in vain. Raises IdentifyLater."""
        wait_s = self.identify_gap.next_s()
        if initial:
            return
        limit = await self._start_limit()
        if limit is not None and limit.wait_s > 0:
            raise IdentifyLater
        log.info("Discord ended the session; a new one in %.0f s", wait_s)
        await asyncio.sleep(wait_s)

    async def _start_limit(self) -> StartLimit | None:
        """Ask how many IDENTIFYs are left; None where Discord does not say, which must not keep the bot away."""
        try:
            async with asyncio.timeout(ASK_LIMIT_S):
                return read_start_limit(await self.http.request(Route("GET", "/gateway/bot")))
        except (discord.HTTPException, aiohttp.ClientError, OSError, KeyError, TypeError, ValueError) as error:
            log.info("Discord did not say how many connections are left: %r", error)
            return None

    async def on_ready(self) -> None:
        """Say who we are."""
        self.identify_gap.taken()
        log.info("ready as %s in %d servers", self.user, len(self.guilds))

    async def on_interaction(self, interaction: discord.Interaction[Any]) -> None:
        """Take submitted forms, which discord.py forgets at a restart, and presses on what is no longer known."""
        data: Any = interaction.data or {}
        custom_id = str(data.get("custom_id", ""))
        if interaction.type is discord.InteractionType.modal_submit:
            if (match := FORM_ID.fullmatch(custom_id)) is not None:
                await guarded(interaction, form_submitted(interaction, match["job"]))
            elif (match := INPUT_FORM_ID.fullmatch(custom_id)) is not None:
                await guarded(interaction, input_form_submitted(interaction, ref_of(match)))
            elif (match := PART_FORM_ID.fullmatch(custom_id)) is not None:
                await guarded(interaction, part_submitted(interaction, match))
            elif custom_id == LIST_FORM_ID:
                await guarded(interaction, list_form_submitted(interaction))
            elif custom_id == DRAW_FORM_ID:
                await guarded(interaction, draw_form_submitted(interaction))
        elif interaction.type is discord.InteractionType.component:
            if not self._answers(custom_id):
                await guarded(interaction, whisper(interaction, OUTDATED))
            elif interaction.message is not None and not shows_button(interaction.message, custom_id):
                # Pressed in the moment it went: discord.py drops such a press without a word.
                await guarded(interaction, whisper(interaction, MOVED_ON))

    def _answers(self, custom_id: str) -> bool:
        return any(template.fullmatch(custom_id) for template in self._templates)

    def add_dynamic_items(self, *items: type[discord.ui.DynamicItem[Any]]) -> None:
        """Add buttons and selects, and remember what they answer to, so that a press on anything else is answered too."""
        super().add_dynamic_items(*items)
        self._templates += [item.__discord_ui_compiled_template__ for item in items]

    async def on_message(self, message: discord.Message, /) -> None:
        """Ignore messages: the bot reads interactions only."""


_SERVER_KEYS = {
    "id",
    "application_id",
    "version",
    "guild_id",
    "dm_permission",
    "name_localized",
    "description_localized",
}
_UNORDERED = {"contexts", "integration_types", "channel_types"}


def same_commands(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], *, everywhere: bool = True
) -> bool:
    """Compare command payloads, leaving out what only Discord adds and what says the same as its absence.

    One server's commands (`everywhere=False`) have no contexts and integration types at Discord.
    """
    left_out = frozenset[str]() if everywhere else frozenset({"contexts", "integration_types"})

    def keyed(payloads: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], Any]:
        plain = [_plain({k: v for k, v in payload.items() if k not in left_out}) for payload in payloads]
        return {(int(p.get("type") or 1), str(p["name"])): p for p in plain}

    return keyed(ours) == keyed(theirs)


def _plain(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        cleaned = {k: _plain(v, k) for k, v in value.items() if k not in _SERVER_KEYS}
        return {k: v for k, v in cleaned.items() if v not in (None, False, [], {}, "")}
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return sorted(items) if key in _UNORDERED else items
    if isinstance(value, float) and value.is_integer():
        return int(value)  # JSON does not keep 1.0 apart from 1
    return value


class StrictKeepAlive(discord.gateway.KeepAliveHandler):
    """discord.py's heartbeats, of which only an acknowledgement proves that Discord hears us.

    discord.py takes any event for that; but a connection may still bring events while nothing reaches Discord any more.
    """

    def tick(self) -> None:
        """Take an event for nothing more than an event."""

    def ack(self) -> None:
        """Take an acknowledgement for the sign of life that it is."""
        super().ack()
        self._last_recv = self._last_ack

    @classmethod
    def install(cls) -> None:
        """Let connections that are made from now on use it."""
        discord.gateway.KeepAliveHandler = cls  # type: ignore[misc]
