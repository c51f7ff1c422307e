"""People who use the bot: what the Discord client of ada, bob or eve sends when they type, press and fill in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from discord import Permissions

from tests.loopback.invocation import Invocation
from tests.loopback.messages import Message, Upload, walk
from tests.loopback.options import ClientRefused, build_options
from tests.loopback.world import DM, TEXT, Channel, Interaction, Kind, User, new_token

if TYPE_CHECKING:
    from tests.loopback.server import LoopbackDiscord


class Person:
    """One user at the keyboard. Every action returns an `Invocation` once it is sent; answers are waited for there."""

    def __init__(self, server: LoopbackDiscord, user: User) -> None:
        self._server = server
        self.user = user

    @property
    def dm(self) -> Channel:
        """The direct conversation with the bot."""
        return self._server.dm_with(self.user)

    async def slash(
        self, channel: Channel | str, command: str, *, unchecked: bool = False, user_install: bool = False,
        size_limit: int | None = None, **options: Any,
    ) -> Invocation:  # fmt: skip
        """Run a slash command ("settings me" names a subcommand); a value may be an `Upload` or a `User`.

        Raises ClientRefused for what the real client would not send, unless `unchecked`.
        """
        where = self._channel(channel)
        registered = self._command(command.split()[0], 1, where)
        data = self._command_data(registered, command, options, unchecked=unchecked)
        return await self._act("command", 2, where, data, user_install=user_install, size_limit=size_limit)

    async def autocomplete(
        self,
        channel: Channel | str,
        command: str,
        *,
        focused: str,
        value: str = "",
        timeout_s: float = 3.0,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Type `value` into the option `focused` and return the choices offered (name and value)."""
        where = self._channel(channel)
        registered = self._command(command.split()[0], 1, where)
        data = self._command_data(registered, command, {**options, focused: value}, unchecked=True)
        for option in walk_options(data["options"]):
            if option["name"] == focused:
                option["focused"] = True
        invocation = await self._act("autocomplete", 4, where, data)
        await invocation.wait_for(lambda one: one.choices is not None, timeout_s=timeout_s)
        return invocation.choices or []

    async def context_menu(self, message: Message, command: str, *, user_install: bool = False) -> Invocation:
        """Choose `command` in a message's Apps menu."""
        self._check_visible(message)
        registered = self._command(command, 3, message.channel)
        data = {
            "id": registered["id"], "name": command, "type": 3, "target_id": str(message.id),
            "resolved": {"messages": {str(message.id): message.payload()}},
        }  # fmt: skip
        return await self._act("command", 2, message.channel, data, user_install=user_install)

    async def click(
        self, message: Message, *, label: str | None = None, custom_id: str | None = None, unchecked: bool = False
    ) -> Invocation:
        """Press a button. Raises ClientRefused when it is not there, disabled, or the message cannot be seen."""
        for part in walk(message.components):
            if part["type"] == 2 and (
                part.get("label") == label if label is not None else part.get("custom_id") == custom_id
            ):
                break
        else:
            if not unchecked or custom_id is None:
                raise ClientRefused(f"no button {label or custom_id!r}; there are {list(message.buttons)}")
            part = {"custom_id": custom_id, "id": 1}
        if not unchecked:
            self._check_visible(message)
            if part.get("disabled"):
                raise ClientRefused(f"the button {label or custom_id!r} is disabled")
        data = {"component_type": 2, "custom_id": part["custom_id"], "id": part["id"]}
        return await self._act("component", 3, message.channel, data, message=message)

    async def select(self, message: Message, custom_id: str, *values: str) -> Invocation:
        """Choose in a select menu."""
        self._check_visible(message)
        for part in walk(message.components):
            if part["type"] == 3 and part.get("custom_id") == custom_id:
                if not set(values) <= {option["value"] for option in part["options"]}:
                    raise ClientRefused(f"{values} are not all among the options")
                data = {"component_type": 3, "custom_id": custom_id, "id": part["id"], "values": list(values)}
                return await self._act("component", 3, message.channel, data, message=message)
        raise ClientRefused(f"no select {custom_id!r}")

    async def submit_modal(
        self, invocation: Invocation, values: dict[str, Any] | None = None, *, unchecked: bool = False
    ) -> Invocation:
        """Send the form that `invocation` opened; `values` by label or custom id, what is left out stays as it was."""
        if invocation.modal is None:
            raise ClientRefused("no form opened")
        if invocation.interaction.user is not self.user:
            raise ClientRefused("the form is somebody else's")
        given = dict(values or {})
        rows = [_fill(row, given, unchecked) for row in invocation.modal["components"]]
        if given:
            raise ClientRefused(f"the form has no {list(given)}; it has {list(invocation.fields())}")
        data = {"custom_id": invocation.modal["custom_id"], "components": rows}
        source = self._server.messages.get(invocation.interaction.source_message_id or 0)
        return await self._act("modal", 5, invocation.interaction.channel, data, message=source)

    async def repeat(self, invocation: Invocation) -> None:
        """Deliver the very same interaction once more, as the gateway may."""
        await self._server.gateway.dispatch("INTERACTION_CREATE", invocation.interaction.payload)

    # building

    def _channel(self, channel: Channel | str) -> Channel:
        return self._server.channels[channel] if isinstance(channel, str) else channel

    def _check_visible(self, message: Message) -> None:
        if message.deleted:
            raise ClientRefused("the message was deleted")
        if message.ephemeral and message.owner is not self.user:
            raise ClientRefused("the message is private to somebody else")

    def _command(self, name: str, kind: int, channel: Channel) -> dict[str, Any]:
        in_guild = self._server.command_sets.get(channel.guild_id, []) if channel.guild_id else []
        for command in [*in_guild, *self._server.commands]:
            if command["name"] == name and command["type"] == kind:
                contexts = command.get("contexts")
                if contexts is not None and (0 if channel.guild_id else 1) not in contexts:
                    raise ClientRefused(f"/{name} is not offered here")
                return command
        raise ClientRefused(f"/{name} is not registered")

    def _command_data(
        self, registered: dict[str, Any], words: str, options: dict[str, Any], *, unchecked: bool
    ) -> dict[str, Any]:
        attachments: dict[str, Any] = {}

        def upload(file: Upload) -> str:
            stored = self._server.store(file)
            stored.ephemeral = True
            attachments[str(stored.id)] = stored.payload()
            return str(stored.id)

        built = build_options(registered, words.split()[1:], options, upload, unchecked=unchecked)
        data: dict[str, Any] = {"id": registered["id"], "name": registered["name"], "type": 1, "options": built}
        if "guild_id" in registered:
            data["guild_id"] = registered["guild_id"]
        resolved: dict[str, Any] = {"attachments": attachments} if attachments else {}
        users = [value for value in options.values() if isinstance(value, User)]
        if users:
            resolved["users"] = {str(user.id): user.payload() for user in users}
            resolved["members"] = {str(user.id): _resolved_member(user) for user in users}
        if resolved:
            data["resolved"] = resolved
        return data

    async def _act(
        self, kind: Kind, number: int, channel: Channel, data: dict[str, Any], *, message: Message | None = None,
        user_install: bool = False, size_limit: int | None = None,
    ) -> Invocation:  # fmt: skip
        server = self._server
        id = server.snowflakes.new()
        token = new_token(id)
        bot_rights = Permissions.none() if user_install else channel.bot_permissions()
        limit = size_limit or server.attachment_size_limit
        payload: dict[str, Any] = {
            "id": str(id), "application_id": str(server.application_id), "type": number, "token": token, "version": 1,
            "data": data, "channel_id": str(channel.id), "channel": self._channel_payload(channel), "locale": "en-US",
            "app_permissions": str(bot_rights.value), "entitlements": [], "attachment_size_limit": limit,
        }  # fmt: skip
        if channel.type == DM:
            owner = {"1": str(self.user.id)} if user_install else {"0": "0"}
            payload |= {"user": self.user.payload(), "context": 1}
        else:
            owner = {"1": str(self.user.id)} if user_install else {"0": str(server.guild_id)}
            member = {**self.user.member_payload(), "permissions": str(self.user.permissions.value)}
            guild = {"id": str(server.guild_id), "locale": "en-US", "features": []}
            payload |= {
                "member": member, "guild_id": str(server.guild_id), "guild": guild, "guild_locale": "en-US", "context": 0,
            }  # fmt: skip
        payload["authorizing_integration_owners"] = owner
        if message is not None:
            payload["message"] = message.payload()
        interaction = Interaction(
            id, token, kind, self.user, channel, payload, server.now(), server.token_lifetime_s, limit, user_install,
            message.id if message else None,
        )  # fmt: skip
        server.interactions[id] = interaction
        await server.gateway.dispatch("INTERACTION_CREATE", payload)
        return Invocation(server, interaction)

    def _channel_payload(self, channel: Channel) -> dict[str, Any]:
        payload = channel.payload()
        if channel.type != DM:
            payload["permissions"] = str(self.user.permissions.value)
        if channel.type == TEXT:
            payload.pop("permission_overwrites")
        return payload


def walk_options(options: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every option of an invocation, those of subcommands included."""
    return [inner for option in options for inner in (option, *walk_options(option.get("options", [])))]


def _resolved_member(user: User) -> dict[str, Any]:
    member = {key: value for key, value in user.member_payload().items() if key not in ("user", "deaf", "mute")}
    return {**member, "permissions": str(user.permissions.value)}


def _fill(row: dict[str, Any], given: dict[str, Any], unchecked: bool) -> dict[str, Any]:
    """The submitted form of one row; takes what it uses out of `given`."""
    if row["type"] == 10:
        return {"type": 10, "id": row.get("id", 0)}
    if row["type"] == 18:
        return {
            "type": 18,
            "id": row.get("id", 0),
            "component": _fill_input(row["component"], row["label"], given, unchecked),
        }
    inner = [_fill_input(part, part.get("label", ""), given, unchecked) for part in row["components"]]
    return {"type": 1, "id": row.get("id", 0), "components": inner}


def _fill_input(part: dict[str, Any], label: str, given: dict[str, Any], unchecked: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"type": part["type"], "custom_id": part["custom_id"], "id": part.get("id", 0)}
    key = label if label in given else part["custom_id"]
    if part["type"] == 4:
        out["value"] = value = str(given.pop(key, part.get("value") or ""))
        low = part.get("min_length") or (1 if part.get("required", True) else 0)
        if (
            not unchecked
            and (value or part.get("required", True))
            and not low <= len(value) <= (part.get("max_length") or 4000)
        ):
            raise ClientRefused(
                f"{label!r} takes {low} to {part.get('max_length') or 4000} characters, got {len(value)}"
            )
        return out
    chosen = [option["value"] for option in part.get("options", []) if option.get("default")]
    value = given.pop(key, chosen)
    out["values"] = [value] if isinstance(value, str) else list(value)
    allowed = {option["value"] for option in part.get("options", [])}
    if not unchecked and part["type"] == 3 and not set(out["values"]) <= allowed:
        raise ClientRefused(f"{label!r} takes {sorted(allowed)}, got {out['values']}")
    return out
