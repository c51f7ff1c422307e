"""REST as a bot: who am I, commands, channels, messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.loopback.bell import ApiError, cannot_message_user, missing_access, missing_permissions, unknown_channel
from tests.loopback.messages import Message
from tests.loopback.wire import BODY, FILES, reply
from tests.loopback.world import DM, FORUM, Channel

if TYPE_CHECKING:
    from tests.loopback.server import LoopbackDiscord

GLOBAL_COMMANDS = "/applications/{application_id}/commands"
GUILD_COMMANDS = "/applications/{application_id}/guilds/{guild_id}/commands"
CHANNEL_MESSAGES = "/channels/{channel_id}/messages"
CHANNEL_MESSAGE = "/channels/{channel_id}/messages/{message_id}"


def add_routes(app: web.Application, server: LoopbackDiscord) -> None:
    """Mount the routes under /api/v10."""
    rest = Rest(server)
    table = [
        ("GET", "/gateway", rest.gateway), ("GET", "/gateway/bot", rest.gateway),
        ("GET", "/users/@me", rest.me), ("GET", "/users/{user_id}", rest.user),
        ("GET", "/oauth2/applications/@me", rest.application), ("GET", "/applications/@me", rest.application),
        ("GET", "/users/@me/guilds", rest.guilds), ("POST", "/users/@me/channels", rest.open_dm),
        ("GET", "/guilds/{guild_id}", rest.guild), ("GET", "/channels/{channel_id}", rest.channel),
        ("GET", "/guilds/{guild_id}/members/{user_id}", rest.guild_member),
        ("POST", "/channels/{channel_id}/typing", rest.typing),
        ("GET", CHANNEL_MESSAGES, rest.list_messages), ("POST", CHANNEL_MESSAGES, rest.send),
        ("GET", CHANNEL_MESSAGE, rest.get_message), ("PATCH", CHANNEL_MESSAGE, rest.edit),
        ("DELETE", CHANNEL_MESSAGE, rest.delete),
    ]  # fmt: skip
    for base in (GLOBAL_COMMANDS, GUILD_COMMANDS):
        table += [("GET", base, rest.get_commands), ("PUT", base, rest.put_commands), ("POST", base, rest.post_command)]
    for method, path, handler in table:
        app.router.add_route(method, f"/api/v10{path}", handler)


class Rest:
    """The handlers; each raises ApiError where Discord refuses."""

    def __init__(self, server: LoopbackDiscord) -> None:
        self._server = server

    # who and where

    async def gateway(self, request: web.Request) -> web.Response:
        limit = {**self._server.gateway.session_start_limit, "max_concurrency": 1}
        return reply({"url": self._server.gateway_url, "shards": 1, "session_start_limit": limit})

    async def me(self, request: web.Request) -> web.Response:
        return reply(self._server.bot.payload())

    async def user(self, request: web.Request) -> web.Response:
        wanted = request.match_info["user_id"]
        for user in self._server.users.values():
            if str(user.id) == wanted:
                return reply(user.payload())
        raise ApiError(404, 10013, "Unknown User")

    async def application(self, request: web.Request) -> web.Response:
        server = self._server
        return reply(
            {
                "id": str(server.application_id), "name": "easel", "description": "", "icon": None, "bot_public": True,
                "bot_require_code_grant": False, "verify_key": "0" * 64, "owner": server.users["eve"].payload(),
                "team": None, "summary": "", "flags": 0, "bot": server.bot.payload(), "rpc_origins": None, "hook": True,
                "integration_types_config": {"0": {}, "1": {}},
            }
        )  # fmt: skip

    async def guilds(self, request: web.Request) -> web.Response:
        return reply([{"id": str(self._server.guild_id), "name": "Loopback", "icon": None, "owner": False, "permissions": "0", "features": []}])  # fmt: skip

    async def guild(self, request: web.Request) -> web.Response:
        if request.match_info["guild_id"] != str(self._server.guild_id):
            raise ApiError(404, 10004, "Unknown Guild")
        return reply(self._server.guild_payload())

    async def guild_member(self, request: web.Request) -> web.Response:
        for user in self._server.users.values():
            if str(user.id) == request.match_info["user_id"] and not user.left:
                return reply(user.member_payload())
        raise ApiError(404, 10007, "Unknown Member")

    async def open_dm(self, request: web.Request) -> web.Response:
        self._server.check_body("POST /users/@me/channels", request[BODY])
        wanted = str(request[BODY]["recipient_id"])
        for user in self._server.users.values():
            if str(user.id) == wanted and not user.bot:
                return reply(self._server.dm_with(user).payload())
        raise ApiError(400, 50033, "Invalid Recipient(s)")

    async def channel(self, request: web.Request) -> web.Response:
        return reply(self._seen_channel(request).payload())

    async def typing(self, request: web.Request) -> web.Response:
        self._seen_channel(request)
        return web.Response(status=204)

    # commands

    def _scope(self, request: web.Request) -> int | None:
        if request.match_info["application_id"] != str(self._server.application_id):
            raise ApiError(403, 20012, "You are not authorized to perform this action on this application")
        guild = request.match_info.get("guild_id")
        return int(guild) if guild else None

    async def get_commands(self, request: web.Request) -> web.Response:
        stored = self._server.command_sets.get(self._scope(request), [])
        if request.query.get("with_localizations", "").lower() in ("1", "true"):
            return reply(stored)
        return reply([{k: v for k, v in one.items() if not k.endswith("_localizations")} for one in stored])

    async def put_commands(self, request: web.Request) -> web.Response:
        scope = self._scope(request)
        self._server.check_body(f"PUT {GUILD_COMMANDS if scope else GLOBAL_COMMANDS}", request[BODY])
        before = {(one["type"], one["name"]): one["id"] for one in self._server.command_sets.get(scope, [])}
        stored = [self._stored(command, scope, before) for command in request[BODY]]
        if len({(one["type"], one["name"]) for one in stored}) != len(stored):
            raise ApiError(
                400, 50035, "Invalid Form Body", {"_errors": [{"code": "APPLICATION_COMMANDS_DUPLICATE_NAME"}]}
            )
        self._server.command_sets[scope] = stored
        return reply(stored)

    async def post_command(self, request: web.Request) -> web.Response:
        scope = self._scope(request)
        self._server.check_body(f"POST {GUILD_COMMANDS if scope else GLOBAL_COMMANDS}", request[BODY])
        stored = self._stored(request[BODY], scope, {})
        others = [one for one in self._server.command_sets.get(scope, []) if one["name"] != stored["name"]]
        self._server.command_sets[scope] = [*others, stored]
        return reply(stored, status=201)

    def _stored(self, command: dict[str, Any], scope: int | None, before: dict[tuple[int, str], str]) -> dict[str, Any]:
        """Fill in what Discord fills in, and leave out what it leaves out (false and null in options)."""
        server, kind = self._server, command.get("type") or 1
        out: dict[str, Any] = {
            "id": before.get((kind, command["name"])) or str(server.snowflakes.new()),
            "application_id": str(server.application_id), "version": str(server.snowflakes.new()), "type": kind,
            "name": command["name"], "name_localizations": command.get("name_localizations"),
            "description": command.get("description") or "",
            "description_localizations": command.get("description_localizations"),
            "default_member_permissions": command.get("default_member_permissions"), "dm_permission": True,
            "contexts": command.get("contexts"), "integration_types": command.get("integration_types") or [0],
            "nsfw": bool(command.get("nsfw")),
        }  # fmt: skip
        if command.get("options"):
            out["options"] = [_stored_option(option) for option in command["options"]]
        if scope:
            out["guild_id"] = str(scope)
        return out

    # messages

    def _seen_channel(self, request: web.Request) -> Channel:
        channel = self._server.channel_by_id(int(request.match_info["channel_id"]))
        if channel is None or channel.deleted:
            raise unknown_channel()
        if channel.hidden:
            raise missing_access()
        return channel

    def _seen_message(self, request: web.Request) -> Message:
        channel = self._seen_channel(request)
        message = self._server.message(int(request.match_info["message_id"]))
        if message.channel is not channel or message.ephemeral:
            raise ApiError(404, 10008, "Unknown Message")
        return message

    async def list_messages(self, request: web.Request) -> web.Response:
        messages = self._server.messages_in(self._seen_channel(request))[::-1]
        limit = int(request.query.get("limit", "50"))
        if not 1 <= limit <= 100:
            raise ApiError(400, 50035, "Invalid Form Body", {"limit": {"_errors": [{"code": "NUMBER_TYPE_MAX"}]}})
        if before := request.query.get("before"):
            messages = [message for message in messages if message.id < int(before)]
        elif after := request.query.get("after"):
            messages = [message for message in messages if message.id > int(after)][-limit:]
        elif around := request.query.get("around"):
            older = [message for message in messages if message.id <= int(around)][: limit // 2 + 1]
            messages = [*[message for message in messages if message.id > int(around)][-(limit // 2) :], *older]
        return reply([message.payload() for message in messages[:limit]])

    async def get_message(self, request: web.Request) -> web.Response:
        return reply(self._seen_message(request).payload())

    async def send(self, request: web.Request) -> web.Response:
        server, body, channel = self._server, request[BODY] or {}, self._seen_channel(request)
        server.check_body(f"POST {CHANNEL_MESSAGES}", body)
        if channel.recipient and channel.recipient.dms_closed:
            raise cannot_message_user()
        if channel.type == FORUM:
            raise ApiError(400, 50008, "Cannot send messages in a non-text channel")
        if channel.forbidden:
            raise missing_permissions()
        nonce = str(body["nonce"]) if body.get("nonce") is not None else None
        if nonce and body.get("enforce_nonce"):
            for message in server.messages.values():
                if message.nonce == nonce and message.channel is channel:
                    return reply(message.payload())
        message = Message(
            server.snowflakes.new(), channel, server.bot, server.application_id, server.wall(), nonce=nonce
        )
        if reference := body.get("message_reference"):
            message.reference = {**reference, "channel_id": str(channel.id)}
        message.apply(body, request[FILES], server.store, size_limit=10 * 1024 * 1024, at=server.now(), edit=False)
        server.messages[message.id] = message
        await server.announce(message, created=True)
        return reply(message.payload())

    async def edit(self, request: web.Request) -> web.Response:
        server, message = self._server, self._seen_message(request)
        server.check_body(f"PATCH {CHANNEL_MESSAGE}", request[BODY])
        if message.author is not server.bot:
            raise ApiError(403, 50005, "Cannot edit a message authored by another user")
        if message.channel.forbidden and request[FILES]:
            raise missing_permissions()
        limit = 10 * 1024 * 1024
        message.apply(request[BODY], request[FILES], server.store, size_limit=limit, at=server.now(), edit=True)
        message.edited_at = server.wall()
        await server.announce(message, created=False)
        return reply(message.payload())

    async def delete(self, request: web.Request) -> web.Response:
        message = self._seen_message(request)
        if message.author is not self._server.bot:
            raise cannot_message_user() if message.channel.type == DM else missing_permissions()
        await self._server.delete_message(message)
        return web.Response(status=204)


def _stored_option(option: dict[str, Any]) -> dict[str, Any]:
    out = {key: value for key, value in option.items() if value is not None and value is not False}
    if isinstance(out.get("options"), list):
        out["options"] = [_stored_option(inner) for inner in option["options"]]
        if not out["options"]:
            out.pop("options")
    if out.get("choices") == []:
        out.pop("choices")
    return out
