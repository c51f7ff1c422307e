"""A Discord on 127.0.0.1 that the real discord.py connects to: REST, gateway and CDN in one aiohttp server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from discord import Permissions

from tests.loopback import interactions, rest
from tests.loopback.bell import ApiError, Bell, Snowflakes, unknown_message
from tests.loopback.faults import Injection, Recorded
from tests.loopback.gateway import Gateway, Heartbeat
from tests.loopback.messages import Message, Upload
from tests.loopback.people import Person
from tests.loopback.schema import violation
from tests.loopback.wire import RECORD, cut_short, read_body, reply, reset
from tests.loopback.world import (
    BOT_PERMISSIONS,
    DM,
    FORUM,
    MEMBER_PERMISSIONS,
    MODERATOR_PERMISSIONS,
    TEXT,
    THREAD,
    Attachment,
    Channel,
    Interaction,
    User,
)  # fmt: skip

API = "/api/v10"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LoopbackDiscord:
    """One simulated Discord; an async context manager. Everything runs on the loop that enters it.

    `token_lifetime_s` is how long an interaction's token works (15 minutes there), `ack_window_s` how long the first
    answer may take (3 s there). Times in records are `now()`: monotonic seconds.
    """

    def __init__(
        self, *, heartbeat_interval_s: float = 5.0, token_lifetime_s: float = 900.0, ack_window_s: float = 3.0,
        attachment_size_limit: int = 10 * 1024 * 1024, install_commands: list[dict[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        self.token_lifetime_s, self.ack_window_s = token_lifetime_s, ack_window_s
        self.attachment_size_limit = attachment_size_limit
        self.now: Callable[[], float] = time.monotonic
        self.wall: Callable[[], float] = time.time
        self.bell = Bell()
        self.snowflakes = Snowflakes(self.wall)
        self.application_id = 1_100_000_000_000_000_100
        self.guild_id = 1_100_000_000_000_000_001
        self.bot = User(self.application_id, "easel", bot=True, permissions=BOT_PERMISSIONS)
        self.token = "MTEwMDAwMDAwMDAwMDAwMDEwMA.loopbk.not-a-real-token"
        self.revoked = False
        """Whether every call gets 401 from now on."""
        self.users: dict[str, User] = {"easel": self.bot}
        self.channels: dict[str, Channel] = {}
        self.messages: dict[int, Message] = {}
        self.interactions: dict[int, Interaction] = {}
        self.files: dict[int, Attachment] = {}
        self.roles: dict[int, Permissions] = {}
        """Roles beside @everyone, by id."""
        self.command_sets: dict[int | None, list[dict[str, Any]]] = {None: install_commands or []}
        """Registered commands by guild id; None is the global set."""
        self.requests: list[Recorded] = []
        self.violations: list[str] = []
        self.injections: list[Injection] = []
        self.gateway = Gateway(self, heartbeat_interval_s=heartbeat_interval_s)
        self._dms: dict[int, Channel] = {}
        self._stopping = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._populate()

    def _populate(self) -> None:
        for number, name in enumerate(("ada", "bob", "eve")):
            rights = MODERATOR_PERMISSIONS if name == "eve" else MEMBER_PERMISSIONS
            self.users[name] = User(1_100_000_000_000_000_201 + number, name, permissions=Permissions(rights.value))
        base = 1_100_000_000_000_000_300
        imagine = Channel(base + 1, TEXT, "imagine", self.guild_id)
        forum = Channel(base + 3, FORUM, "gallery", self.guild_id)
        self.channels = {
            "imagine": imagine,
            "after-dark": Channel(base + 2, TEXT, "after-dark", self.guild_id, nsfw=True),
            "gallery": forum,
            "thread": Channel(base + 4, THREAD, "a thread", self.guild_id, parent=imagine),
            "post": Channel(base + 5, THREAD, "a forum post", self.guild_id, parent=forum),
        }

    # life

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._middleware], client_max_size=64 * 1024 * 1024)
        app.router.add_get("/gateway", self.gateway.handle)
        app.router.add_get("/gateway/", self.gateway.handle)
        app.router.add_get("/cdn/attachments/{id}/{name}", self._cdn)
        rest.add_routes(app, self)
        interactions.add_routes(app, self)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self.gateway.drop()
        if self._runner:
            await self._runner.cleanup()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def api_url(self) -> str:
        return f"{self.base_url}{API}"

    @property
    def gateway_url(self) -> str:
        return f"ws://127.0.0.1:{self._port}/gateway"

    # what tests read and do

    @property
    def commands(self) -> list[dict[str, Any]]:
        """The registered global commands."""
        return self.command_sets[None]

    @property
    def heartbeats(self) -> list[Heartbeat]:
        return self.gateway.heartbeats

    def member(self, name: str) -> Person:
        """Act as ada, bob or eve (who has Manage Messages)."""
        return Person(self, self.users[name])

    def dm_with(self, user: User) -> Channel:
        """The direct conversation of the bot and `user`, opened if there is none."""
        if user.id not in self._dms:
            self._dms[user.id] = Channel(self.snowflakes.new(), DM, "", None, recipient=user)
        return self._dms[user.id]

    def channel_by_id(self, id: int) -> Channel | None:
        everywhere = (*self.channels.values(), *self._dms.values())
        return next((channel for channel in everywhere if channel.id == id), None)

    def messages_in(self, channel: Channel, *, ephemeral: bool = False) -> list[Message]:
        """The messages that stand in `channel` now, oldest first; private ones only when asked for."""
        here = [message for message in self.messages.values() if message.channel is channel and not message.deleted]
        return [message for message in here if ephemeral or not message.ephemeral]

    def inject(
        self, method: str, path_glob: str, *, status: int | None = None, times: int | None = 1, retry_after: float = 0.3,
        via: bool = True, after_accept: bool = False, reset: bool = False, truncate: bool = False, hang_s: float | None = None, code: int = 0,
    ) -> Injection:  # fmt: skip
        """Put a fault in the way of matching requests; `path_glob` counts from after /api/v10.

        `status` answers with it (429 with `retry_after`, and without `via` as the edge does), `reset` breaks the
        connection, `truncate` does the work and breaks it in the middle of the answer, `hang_s` waits first; `after_accept` does the work before. `times=None` lasts until `.lift()`.
        """
        fault = Injection(
            method, path_glob, status, times, retry_after, via, after_accept, reset, truncate, hang_s, code
        )
        self.injections.append(fault)
        return fault

    def calls(self, method: str, path_part: str) -> list[Recorded]:
        """The recorded requests with this method whose path contains `path_part`."""
        return [one for one in self.requests if one.method == method and path_part in one.path]

    def command_calls(self, method: str) -> int:
        """How often the bot fetched (GET) or overwrote (PUT) its commands."""
        return sum(one.path.endswith("/commands") for one in self.calls(method, "/commands"))

    async def delete_message(self, message: Message) -> None:
        """Remove `message` as a moderator's hand would."""
        message.deleted, message.deleted_at = True, self.now()
        data = {"id": str(message.id), "channel_id": str(message.channel.id)}
        if message.channel.guild_id:
            data["guild_id"] = str(message.channel.guild_id)
        if not message.ephemeral and self.gateway.connected:
            await self.gateway.dispatch_message("MESSAGE_DELETE", data, direct=message.channel.type == DM)
        self.bell.ring()

    # shared by the routes

    def store(self, upload: Upload) -> Attachment:
        """Keep a file on the CDN."""
        file = Attachment.make(self.snowflakes.new(), upload.filename, upload.data, self.base_url)
        self.files[file.id] = file
        return file

    def message(self, id: int | None) -> Message:
        """Return the message that stands; raises 10008."""
        message = self.messages.get(id) if id is not None else None
        if message is None or message.deleted:
            raise unknown_message()
        return message

    async def announce(self, message: Message, *, created: bool) -> None:
        """Tell the gateway about a public message, and everybody who waits."""
        self.bell.ring()
        if message.ephemeral or not self.gateway.connected:
            return
        data = message.payload()
        if message.channel.guild_id is not None:
            data |= {"guild_id": str(message.channel.guild_id)}
        event = "MESSAGE_CREATE" if created else "MESSAGE_UPDATE"
        await self.gateway.dispatch_message(event, data, direct=message.channel.type == DM)

    def check_body(self, route: str, body: Any) -> None:
        """Refuse with 400 what Discord's document does not allow, and remember it."""
        found = violation(route, body)
        if found is not None:
            self.violations.append(f"{route}: {found}")
            raise ApiError(400, 50035, "Invalid Form Body", {"_errors": [{"code": "SCHEMA", "message": found}]})

    def ready_payload(self, session_id: str) -> dict[str, Any]:
        return {
            "v": 10, "user": self.bot.payload(), "guilds": [{"id": str(self.guild_id), "unavailable": True}],
            "session_id": session_id, "session_type": "normal", "resume_gateway_url": self.gateway_url,
            "application": {"id": str(self.application_id), "flags": 0}, "private_channels": [], "relationships": [],
        }  # fmt: skip

    def guild_payload(self) -> dict[str, Any]:
        def role(id: int, name: str, rights: Permissions) -> dict[str, Any]:
            return {**everyone, "id": str(id), "name": name, "permissions": str(rights.value), "position": 1}

        everyone: dict[str, Any] = {
            "id": str(self.guild_id), "name": "@everyone", "permissions": str(BOT_PERMISSIONS.value), "position": 0,
            "color": 0, "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None}, "hoist": False,
            "managed": False, "mentionable": False, "flags": 0, "icon": None, "unicode_emoji": None,
        }  # fmt: skip
        channels = [channel for channel in self.channels.values() if channel.type != THREAD]
        threads = [channel for channel in self.channels.values() if channel.type == THREAD]
        return {
            "id": str(self.guild_id), "name": "Loopback", "owner_id": str(self.users["eve"].id), "unavailable": False,
            "roles": [everyone, *(role(id, f"role {id}", rights) for id, rights in self.roles.items())], "emojis": [], "stickers": [], "features": [], "preferred_locale": "en-US", "icon": None,
            "channels": [channel.payload() for channel in channels], "threads": [thread.payload() for thread in threads],
            "members": [user.member_payload() for user in self.users.values() if not user.left], "member_count": len(self.users),
            "presences": [], "voice_states": [], "stage_instances": [], "guild_scheduled_events": [], "premium_tier": 0,
            "verification_level": 0, "default_message_notifications": 0, "explicit_content_filter": 0, "mfa_level": 0,
            "nsfw_level": 0, "afk_timeout": 300, "system_channel_flags": 0, "joined_at": "2026-01-01T00:00:00+00:00",
            "large": False, "soundboard_sounds": [], "premium_subscription_count": 0,
        }  # fmt: skip

    # the wire

    async def _cdn(self, request: web.Request) -> web.Response:
        file = self.files.get(int(request.match_info["id"]))
        if file is None or file.filename != request.match_info["name"]:
            return web.Response(status=404, text="This content is no longer available.")
        return web.Response(body=file.data, content_type=file.content_type)

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith(API):
            return await handler(request)
        path = request.path.removeprefix(API)
        record = Recorded(request.method, path, dict(request.query), self.now())
        self.requests.append(record)
        request[RECORD] = record
        fault = next((one for one in self.injections if one.takes(request.method, path)), None)
        try:
            response = await (self._answer(request, handler) if fault is None else self._fault(fault, request, handler))
            record.status = response.status
            return response
        finally:
            record.finished_at = self.now()
            self.bell.ring()

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            await read_body(request)
            self._authorise(request)
            return await handler(request)
        except ApiError as error:
            return reply(error.body, status=error.status)
        except web.HTTPNotFound:
            return reply({"message": "404: Not Found", "code": 0}, status=404)
        except web.HTTPMethodNotAllowed:
            return reply({"message": "405: Method Not Allowed", "code": 0}, status=405)

    def _authorise(self, request: web.Request) -> None:
        tokenless = request.path.startswith((f"{API}/webhooks/", f"{API}/interactions/"))
        if not tokenless and (self.revoked or request.headers.get("Authorization") != f"Bot {self.token}"):
            raise ApiError(401, 0, "401: Unauthorized")

    async def _fault(self, fault: Injection, request: web.Request, handler: Handler) -> web.StreamResponse:
        request[RECORD].injected = True
        response: web.StreamResponse | None = None
        if fault.after_accept:
            response = await self._answer(request, handler)
        else:
            await read_body(request)
        if fault.hang_s is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), fault.hang_s)
        if fault.truncate:
            return await cut_short(request, response or await self._answer(request, handler))
        if fault.reset:
            reset(request)
            return web.Response(status=499)
        if fault.status is None:
            return response or await self._answer(request, handler)
        if fault.status == 429:
            if not fault.via:
                return web.Response(
                    status=429, text="error code: 1015", headers={"Retry-After": str(fault.retry_after)}
                )
            body = {"message": "You are being rate limited.", "retry_after": fault.retry_after, "global": False}
            return reply(body, status=429, headers={"Via": "1.1 google", "Retry-After": str(fault.retry_after)})
        if fault.status >= 500:
            return web.Response(
                status=fault.status, text="<html>upstream connect error</html>", content_type="text/html"
            )
        return reply({"message": "injected", "code": fault.code}, status=fault.status)
