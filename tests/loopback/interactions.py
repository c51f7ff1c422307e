"""REST with an interaction's token: the first answer, the original response, follow-ups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.loopback.bell import (
    ApiError,
    already_acknowledged,
    invalid_form,
    invalid_webhook_token,
    too_many_followups,
    unknown_channel,
    unknown_interaction,
    unknown_message,
    unknown_webhook,
)  # fmt: skip
from tests.loopback.messages import Message, walk
from tests.loopback.wire import BODY, FILES, RECORD, reply
from tests.loopback.world import EPHEMERAL, LOADING, Interaction

if TYPE_CHECKING:
    from tests.loopback.server import LoopbackDiscord

CALLBACK = "/interactions/{interaction_id}/{interaction_token}/callback"
WEBHOOK = "/webhooks/{webhook_id}/{webhook_token}"
MESSAGE, DEFER, DEFER_UPDATE, UPDATE, CHOICES, MODAL = 4, 5, 6, 7, 8, 9
USER_INSTALL_FOLLOWUPS = 5


def add_routes(app: web.Application, server: LoopbackDiscord) -> None:
    """Mount the routes under /api/v10."""
    hooks = Hooks(server)
    app.router.add_post(f"/api/v10{CALLBACK}", hooks.callback)
    app.router.add_post(f"/api/v10{WEBHOOK}", hooks.follow_up)
    for method, handler in (("GET", hooks.get), ("PATCH", hooks.edit), ("DELETE", hooks.delete)):
        app.router.add_route(method, f"/api/v10{WEBHOOK}/messages/{{message_id}}", handler)


class Hooks:
    """The handlers; each raises ApiError where Discord refuses."""

    def __init__(self, server: LoopbackDiscord) -> None:
        self._server = server

    # the first answer

    async def callback(self, request: web.Request) -> web.Response:
        server, body = self._server, request[BODY]
        interaction = server.interactions.get(int(request.match_info["interaction_id"]))
        try:
            if interaction is None or interaction.token != request.match_info["interaction_token"]:
                raise unknown_interaction()
            server.check_body(f"POST {CALLBACK}", body)
            if interaction.acknowledged_at is not None:
                raise already_acknowledged()
            if request[RECORD].at - interaction.sent_at > server.ack_window_s:
                raise unknown_interaction()
            message = self._first_answer(interaction, body, request)
        except ApiError as error:
            if interaction is not None:
                interaction.refusals.append(error.body)
            raise
        # The moment it came in: checking the body is this server's time, not the bot's.
        interaction.acknowledged_at, interaction.callback_type = request[RECORD].at, body["type"]
        if message is not None and body["type"] in (MESSAGE, DEFER, UPDATE):
            await server.announce(message, created=body["type"] != UPDATE)
        server.bell.ring()
        if request.query.get("with_response", "").lower() not in ("1", "true"):
            return web.Response(status=204)
        return reply(_callback_response(interaction, body["type"], message))

    def _first_answer(self, interaction: Interaction, body: dict[str, Any], request: web.Request) -> Message | None:
        kind, data = body["type"], body.get("data") or {}
        if (kind == CHOICES) != (interaction.kind == "autocomplete") or (kind == MODAL and interaction.kind == "modal"):
            raise invalid_form(
                "type", "INTERACTION_RESPONSE_TYPE", f"Type {kind} does not answer a {interaction.kind}."
            )
        if kind == CHOICES:
            interaction.choices = data.get("choices") or []
            return None
        if kind == MODAL:
            rows = data.get("components") or []
            if not 1 <= len(rows) <= 5:
                raise invalid_form("data.components", "BASE_TYPE_BAD_LENGTH", "Must be between 1 and 5 in length.")
            ids = [part["custom_id"] for part in walk(rows) if part.get("custom_id")]
            if len(ids) != len(set(ids)):
                raise invalid_form("data.components", "COMPONENT_CUSTOM_ID_DUPLICATED", "Duplicate custom id.")
            interaction.modal = data
            return None
        if kind in (DEFER_UPDATE, UPDATE):
            if interaction.source_message_id is None:
                raise invalid_form("type", "INTERACTION_RESPONSE_TYPE", f"Type {kind} needs a message to update.")
            interaction.original_id = interaction.source_message_id
            if kind == DEFER_UPDATE:
                return self._server.messages.get(interaction.source_message_id)
            message = self._server.message(interaction.source_message_id)
            self._apply(interaction, message, data, request, edit=True)
            return message
        message = self._new_message(interaction, "response")
        if kind == DEFER:
            message.flags = LOADING | (data.get("flags") or 0) & EPHEMERAL
            message.owner = interaction.user if message.ephemeral else None
            message.note(self._server.now())
        else:
            self._apply(interaction, message, data, request, edit=False)
        self._server.messages[message.id] = message
        interaction.original_id = message.id
        return message

    def _new_message(self, interaction: Interaction, role: str) -> Message:
        server = self._server
        if interaction.channel.deleted:
            raise unknown_channel()
        kind = {"command": 2, "component": 3, "modal": 5, "autocomplete": 4}[interaction.kind]
        metadata: dict[str, Any] = {
            "id": str(interaction.id), "type": kind, "user": interaction.user.payload(),
            "authorizing_integration_owners": interaction.payload["authorizing_integration_owners"],
        }  # fmt: skip
        if kind == 2:
            metadata["name"] = interaction.payload["data"]["name"]
        if kind == 3:
            metadata["interacted_message_id"] = str(interaction.source_message_id)
        if kind == 5:
            base = {**metadata, "type": 2}
            metadata["triggering_interaction_metadata"] = base
        message = Message(server.snowflakes.new(), interaction.channel, server.bot, server.application_id, server.wall(), interaction=metadata)  # fmt: skip
        if role == "follow-up" and interaction.original_id is not None:
            message.reference = {
                "type": 0,
                "channel_id": str(interaction.channel.id),
                "message_id": str(interaction.original_id),
            }
        return message

    def _apply(
        self, interaction: Interaction, message: Message, data: dict[str, Any], request: web.Request, *, edit: bool
    ) -> None:
        if interaction.channel.deleted:
            raise unknown_channel()
        server = self._server
        message.apply(data, request[FILES], server.store, size_limit=interaction.size_limit, at=server.now(), edit=edit)
        message.owner = interaction.user if message.ephemeral else None
        for file in message.attachments:
            file.ephemeral = message.ephemeral
        if edit:
            message.edited_at = server.wall()

    # afterwards

    def _interaction(self, request: web.Request) -> Interaction:
        """Find the interaction by its token; raises 10015 or, when the token has run out, 50027."""
        server, token = self._server, request.match_info["webhook_token"]
        found = next((one for one in server.interactions.values() if one.token == token), None)
        if found is None or request.match_info["webhook_id"] != str(server.application_id):
            raise unknown_webhook()
        if server.now() - found.sent_at > found.lifetime_s:
            raise invalid_webhook_token()
        if found.acknowledged_at is None:
            raise unknown_webhook()
        return found

    def _target(self, interaction: Interaction, request: web.Request) -> Message:
        wanted = request.match_info["message_id"]
        number = interaction.original_id if wanted == "@original" else int(wanted)
        if number is None or number not in (interaction.original_id, *interaction.followup_ids):
            raise unknown_message()
        return self._server.message(number)

    async def get(self, request: web.Request) -> web.Response:
        return reply(self._target(self._interaction(request), request).payload())

    async def edit(self, request: web.Request) -> web.Response:
        interaction = self._interaction(request)
        message = self._target(interaction, request)
        self._server.check_body(f"PATCH {WEBHOOK}/messages/@original", request[BODY])
        self._apply(interaction, message, request[BODY] or {}, request, edit=True)
        await self._server.announce(message, created=False)
        return reply(message.payload())

    async def delete(self, request: web.Request) -> web.Response:
        await self._server.delete_message(self._target(self._interaction(request), request))
        return web.Response(status=204)

    async def follow_up(self, request: web.Request) -> web.Response:
        """Create a message; the first one after a deferral takes the deferred message's place, as at Discord."""
        server, interaction, body = self._server, self._interaction(request), request[BODY] or {}
        server.check_body(f"POST {WEBHOOK}", body)
        original = server.messages.get(interaction.original_id or 0)
        if original is not None and original.loading and not original.deleted:
            self._apply(interaction, original, body, request, edit=True)
            await server.announce(original, created=False)
            return reply(original.payload())
        if interaction.user_install and len(interaction.followup_ids) >= USER_INSTALL_FOLLOWUPS:
            raise too_many_followups()
        message = self._new_message(interaction, "follow-up")
        self._apply(interaction, message, body, request, edit=False)
        server.messages[message.id] = message
        interaction.followup_ids.append(message.id)
        await server.announce(message, created=True)
        return reply(message.payload())


def _callback_response(interaction: Interaction, kind: int, message: Message | None) -> dict[str, Any]:
    number = {"command": 2, "component": 3, "autocomplete": 4, "modal": 5}[interaction.kind]
    about: dict[str, Any] = {"id": str(interaction.id), "type": number}
    out: dict[str, Any] = {"interaction": about}
    if message is not None:
        about |= {
            "response_message_id": str(message.id), "response_message_loading": message.loading,
            "response_message_ephemeral": message.ephemeral,
        }  # fmt: skip
        shown = {} if kind == DEFER_UPDATE else {"message": message.payload()}
        out["resource"] = {"type": kind, **shown}
    return out
