"""The loopback Discord proved with the real discord.py client."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import discord
import pytest
import yarl
from discord import app_commands, ui
from discord.gateway import DiscordWebSocket
from discord.http import Route
from PIL import Image

from tests.loopback import ClientRefused, LoopbackDiscord, Upload


def picture() -> discord.File:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, "PNG")
    data.seek(0)
    return discord.File(data, "red.png", description="a red square")


class Form(ui.Modal, title="Edit"):
    prompt = ui.Label(text="Prompt", component=ui.TextInput(default="old words", max_length=40))

    async def on_submit(self, interaction: discord.Interaction) -> None:
        assert isinstance(self.prompt.component, ui.TextInput)
        await interaction.response.send_message(f"drawing {self.prompt.component.value}", ephemeral=True)


class Press(ui.DynamicItem[ui.Button[Any]], template=r"easel:v1:(?P<action>\w+):(?P<job>\w+)"):
    def __init__(self, action: str, job: str) -> None:
        super().__init__(ui.Button(label=action.title(), custom_id=f"easel:v1:{action}:{job}"))
        self.action = action
        self.job = job

    @classmethod
    async def from_custom_id(cls, interaction: Any, item: Any, match: re.Match[str]) -> Press:
        return cls(match["action"], match["job"])

    async def callback(self, interaction: discord.Interaction) -> None:
        if self.action == "edit":
            await interaction.response.send_modal(Form())
        elif self.action == "again":
            await interaction.response.defer()
            await interaction.followup.send("only you see this", ephemeral=True)
        else:
            await interaction.response.edit_message(
                view=card("changed", "gone.png" if self.action == "broken" else None)
            )


def card(title: str, file_name: str | None) -> ui.LayoutView:
    view = ui.LayoutView(timeout=None)
    container: ui.Container[Any] = ui.Container(ui.TextDisplay(title), accent_colour=0x336699)
    if file_name:
        gallery: ui.MediaGallery[Any] = ui.MediaGallery()
        gallery.add_item(media=f"attachment://{file_name}", description="a red square")
        container.add_item(gallery)
    row: ui.ActionRow[Any] = ui.ActionRow()
    for action in ("again", "edit", "change", "broken"):
        row.add_item(Press(action, "job1"))
    container.add_item(row)
    view.add_item(container)
    return view


@dataclass
class Bot:
    """The minimal client and what happened to it."""

    client: discord.Client
    tree: app_commands.CommandTree[Any]
    errors: list[BaseException] = field(default_factory=list[BaseException])
    resumed: asyncio.Event = field(default_factory=asyncio.Event)
    uploaded: list[bytes] = field(default_factory=list[bytes])


def build() -> Bot:
    client = discord.Client(intents=discord.Intents.default(), guild_ready_timeout=0.1)
    bot = Bot(client, app_commands.CommandTree(client))

    @bot.tree.command(name="imagine", description="Draw a picture")
    async def imagine(
        interaction: discord.Interaction,
        prompt: str,
        count: app_commands.Range[int, 1, 4] = 1,
        guidance: app_commands.Range[float, 0.0, 30.0] = 7.0,
        model: str | None = None,
        image: discord.Attachment | None = None,
    ) -> None:
        await interaction.response.defer()
        if image is not None:
            bot.uploaded.append(await image.read())
        await interaction.edit_original_response(view=card(f"{prompt} ×{count}", "red.png"), attachments=[picture()])

    @imagine.autocomplete("model")
    async def models(interaction: discord.Interaction, current: str) -> list[app_commands.Choice[str]]:
        return [app_commands.Choice(name=name, value=name) for name in ("pocket", "sdxl") if name.startswith(current)]

    @bot.tree.context_menu(name="Image info")
    async def info(interaction: discord.Interaction, message: discord.Message) -> None:
        await interaction.response.send_message(f"{len(message.attachments)} file", ephemeral=True)

    @bot.tree.error
    async def on_error(interaction: discord.Interaction, error: Exception) -> None:
        bot.errors.append(error)

    async def setup() -> None:
        client.add_dynamic_items(Press)
        await bot.tree.sync()

    async def on_resumed() -> None:
        bot.resumed.set()

    client.setup_hook = setup
    client.event(on_resumed)
    return bot


@asynccontextmanager
async def connected(server: LoopbackDiscord) -> AsyncIterator[Bot]:
    """Run the client against `server`; discord.py's addresses are put back at the end."""
    before = Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY
    Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY = server.api_url, yarl.URL(server.gateway_url)
    bot = build()
    running = asyncio.create_task(bot.client.start(server.token))
    try:
        await asyncio.wait_for(bot.client.wait_until_ready(), 10)
        yield bot
    finally:
        await bot.client.close()
        await asyncio.wait([running], timeout=5)
        running.cancel()
        Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY = before


@pytest.fixture
async def server() -> AsyncIterator[LoopbackDiscord]:
    async with LoopbackDiscord(heartbeat_interval_s=0.2) as server:
        yield server


@pytest.fixture
async def bot(server: LoopbackDiscord) -> AsyncIterator[Bot]:
    async with connected(server) as bot:
        yield bot
        assert not server.violations


async def test_sync_of_commands_is_stored_and_counted(server: LoopbackDiscord, bot: Bot) -> None:
    assert [command["name"] for command in server.commands] == ["imagine", "Image info"]
    assert server.command_calls("PUT") == 1
    assert len(await bot.tree.fetch_commands()) == 2
    assert server.command_calls("GET") == 1
    guild = bot.client.get_guild(server.guild_id)
    assert guild is not None
    assert {channel.name for channel in guild.channels} == {"imagine", "after-dark", "gallery"}
    assert {thread.name for thread in guild.threads} == {"a thread", "a forum post"}


@pytest.mark.parametrize("where", ["imagine", "after-dark", "thread", "post", "dm"])
async def test_slash_deferred_is_edited_with_a_picture(server: LoopbackDiscord, bot: Bot, where: str) -> None:
    ada = server.member("ada")
    asked = await ada.slash(ada.dm if where == "dm" else where, "imagine", prompt="a red square", count=2)
    await asked.wait_for(lambda one: one.message and one.message.file_names)
    assert asked.message is not None
    assert asked.acknowledged_after_s is not None
    assert asked.acknowledged_after_s < 1
    assert asked.interaction.callback_type == 5
    assert asked.text == "a red square ×2"
    assert [file.filename for file in asked.message.shown] == ["red.png"]
    shown = asked.message.payload()["components"][0]["components"][1]["items"][0]["media"]
    assert (shown["width"], shown["height"]) == (8, 8)
    assert await bot.client.http.get_from_cdn(shown["url"]) == asked.message.attachments[0].data
    assert not bot.errors


async def test_button_click_edits_its_message_and_drops_the_file(server: LoopbackDiscord, bot: Bot) -> None:
    asked = await server.member("ada").slash("imagine", "imagine", prompt="x")
    await asked.wait_for(lambda one: one.message and one.message.buttons)
    assert asked.message is not None
    assert list(asked.message.buttons) == ["Again", "Edit", "Change", "Broken"]
    pressed = await server.member("bob").click(asked.message, label="Change")
    await pressed.acknowledged()
    assert pressed.interaction.callback_type == 7
    assert asked.text == "changed"
    assert asked.message.file_names == ["red.png"]
    assert asked.message.shown == []
    assert [version.text for version in asked.message.versions] == ["", "x ×1", "changed"]


async def test_button_naming_a_missing_attachment_is_refused(server: LoopbackDiscord, bot: Bot) -> None:
    asked = await server.member("ada").slash("imagine", "imagine", prompt="x")
    await asked.wait_for(lambda one: one.message and one.message.buttons)
    assert asked.message is not None
    pressed = await server.member("ada").click(asked.message, custom_id="easel:v1:broken:job1")
    await pressed.wait_for(lambda one: one.interaction.refusals)
    assert pressed.interaction.refusals[0]["code"] == 50035
    assert asked.text == "x ×1"


async def test_modal_opens_and_its_submission_answers_privately(server: LoopbackDiscord, bot: Bot) -> None:
    ada = server.member("ada")
    asked = await ada.slash("imagine", "imagine", prompt="x")
    await asked.wait_for(lambda one: one.message and one.message.buttons)
    assert asked.message is not None
    pressed = await (await ada.click(asked.message, label="Edit")).acknowledged()
    assert pressed.fields()["Prompt"]["value"] == "old words"
    with pytest.raises(ClientRefused, match="characters"):
        await ada.submit_modal(pressed, {"Prompt": "x" * 41})
    sent = await (await ada.submit_modal(pressed, {"Prompt": "new words"})).answered()
    assert sent.private_text == "drawing new words"


async def test_followup_private_is_kept_out_of_the_channel(server: LoopbackDiscord, bot: Bot) -> None:
    asked = await server.member("ada").slash("imagine", "imagine", prompt="x")
    await asked.wait_for(lambda one: one.message and one.message.buttons)
    assert asked.message is not None
    pressed = await server.member("bob").click(asked.message, label="Again")
    await pressed.wait_for(lambda one: one.followups)
    assert pressed.private_text == "only you see this"
    assert server.messages_in(server.channels["imagine"]) == [asked.message]
    with pytest.raises(ClientRefused, match="private"):
        await server.member("ada").context_menu(pressed.followups[0], "Image info")


async def test_autocomplete_and_context_menu_answer(server: LoopbackDiscord, bot: Bot) -> None:
    ada = server.member("ada")
    choices = await ada.autocomplete("imagine", "imagine", focused="model", value="po")
    assert [choice["value"] for choice in choices] == ["pocket"]
    asked = await ada.slash("imagine", "imagine", prompt="x", image=Upload("in.png", b"the bytes"))
    await asked.wait_for(lambda one: one.message and one.message.file_names)
    assert bot.uploaded == [b"the bytes"]
    assert asked.message is not None
    about = await (await ada.context_menu(asked.message, "Image info")).answered()
    # As at Discord, what a component names is not listed among the attachments.
    assert about.private_text == "0 file"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"prompt": "x", "count": 5}, "1 to 4"), ({"prompt": "x", "guidance": 31}, "0.*30"), ({}, "needs"), ({"prompt": 5}, "not take")],
    ids=["count", "guidance", "missing", "type"],
)  # fmt: skip
async def test_person_sending_what_the_client_forbids_is_refused(
    server: LoopbackDiscord, bot: Bot, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ClientRefused, match=complaint):
        await server.member("ada").slash("imagine", "imagine", **options)


async def test_unchecked_value_reaches_the_bot(server: LoopbackDiscord, bot: Bot) -> None:
    asked = await server.member("ada").slash("imagine", "imagine", prompt="x", count=99, unchecked=True)
    await server.bell.until(lambda: bot.errors or asked.text, timeout_s=5)
    assert asked.text == "x ×99" or bot.errors


async def test_rate_limit_with_via_is_waited_for(server: LoopbackDiscord, bot: Bot) -> None:
    fault = server.inject("PATCH", "/webhooks/*", status=429, retry_after=0.3)
    asked = await server.member("ada").slash("imagine", "imagine", prompt="x")
    await asked.wait_for(lambda one: one.message and one.message.file_names)
    first, second = server.calls("PATCH", "/webhooks/")
    assert fault.hits == 1
    assert first.status == 429
    assert second.at - first.at >= 0.3


async def test_rate_limit_without_via_and_reset_raise_at_once(server: LoopbackDiscord, bot: Bot) -> None:
    channel = bot.client.get_channel(server.channels["imagine"].id)
    assert isinstance(channel, discord.TextChannel)
    server.inject("POST", "/channels/*/messages", status=429, via=False)
    with pytest.raises(discord.HTTPException) as refused:
        await channel.send("hello")
    assert refused.value.status == 429
    server.inject("POST", "/channels/*/messages", reset=True)
    with pytest.raises(OSError, match="reset"):
        await channel.send("hello")
    assert server.messages_in(server.channels["imagine"]) == []


async def test_answer_cut_short_is_accepted_and_raises(server: LoopbackDiscord, bot: Bot) -> None:
    channel = bot.client.get_channel(server.channels["imagine"].id)
    assert isinstance(channel, discord.TextChannel)
    server.inject("POST", "/channels/*/messages", truncate=True)
    with pytest.raises((OSError, aiohttp.ClientError)):
        await channel.send("hello")
    assert len(server.messages_in(server.channels["imagine"])) == 1


async def test_request_that_hangs_is_given_up_by_a_time_out(server: LoopbackDiscord, bot: Bot) -> None:
    server.inject("GET", "/users/@me", hang_s=60)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bot.client.http.request(Route("GET", "/users/@me")), 0.2)


async def test_nonce_enforced_after_a_lost_answer_posts_once(server: LoopbackDiscord, bot: Bot) -> None:
    channel = bot.client.get_channel(server.channels["imagine"].id)
    assert isinstance(channel, discord.TextChannel)
    server.inject("POST", "/channels/*/messages", status=502, after_accept=True)
    sent = await channel.send("hello", nonce="job1")
    assert [message.text for message in server.messages_in(server.channels["imagine"])] == ["hello"]
    assert [message.id async for message in channel.history(limit=5)] == [sent.id]


async def test_late_and_double_answers_get_discords_errors(server: LoopbackDiscord, bot: Bot) -> None:
    caught: list[int] = []
    defer: Any = {"type": 5}

    @bot.tree.command(name="twice", description="Answer twice")
    async def twice(interaction: discord.Interaction) -> None:
        route = Route("POST", f"/interactions/{interaction.id}/{interaction.token}/callback")
        for _ in range(2):
            try:
                await bot.client.http.request(route, json=defer)
            except discord.HTTPException as error:
                caught.append(error.code)

    await bot.tree.sync()
    asked = await server.member("ada").slash("imagine", "twice")
    await asked.wait_for(lambda one: caught)
    server.ack_window_s = -1
    late = await server.member("ada").slash("imagine", "twice")
    await late.wait_for(lambda one: len(caught) == 3)
    assert caught == [40060, 10062, 10062]
    assert late.failed


@pytest.mark.parametrize(
    ("change", "code"),
    [({"forbidden": True}, 50013), ({"hidden": True}, 50001), ({"deleted": True}, 10003)],
    ids=["forbidden", "hidden", "deleted"],
)
async def test_channel_closed_to_the_bot_refuses_messages(
    server: LoopbackDiscord, bot: Bot, change: dict[str, bool], code: int
) -> None:
    channel = bot.client.get_channel(server.channels["imagine"].id)
    assert isinstance(channel, discord.TextChannel)
    for name, value in change.items():
        setattr(server.channels["imagine"], name, value)
    with pytest.raises(discord.HTTPException) as refused:
        await channel.send("hello")
    assert refused.value.code == code


async def test_token_of_an_interaction_that_ran_out_is_50027(server: LoopbackDiscord, bot: Bot) -> None:
    server.token_lifetime_s = -1
    asked = await server.member("ada").slash("imagine", "imagine", prompt="x")
    await server.bell.until(lambda: bot.errors, timeout_s=5)
    original = getattr(bot.errors[0], "original", None)
    assert isinstance(original, discord.HTTPException)
    assert original.code == 50027
    assert asked.message is not None
    assert asked.message.loading


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"content": "x" * 5000}, "content"),
        ({"flags": 32768, "components": [{"type": 17, "components": []}]}, "components.0.components"),
        ({"flags": 32768, "components": [{"type": 99}]}, "components.0"),
        (
            {"components": [{"type": 1, "components": [{"type": 2, "style": 1, "label": "x" * 81, "custom_id": "a"}]}]},
            "label",
        ),
    ],
    ids=["content", "empty container", "unknown component", "label"],
)
async def test_body_that_discord_does_not_know_is_refused_and_remembered(
    server: LoopbackDiscord, body: dict[str, Any], complaint: str
) -> None:
    async with connected(server) as bot:
        route = Route("POST", "/channels/{channel_id}/messages", channel_id=server.channels["imagine"].id)
        with pytest.raises(discord.HTTPException) as refused:
            await bot.client.http.request(route, json=body)
        assert refused.value.code == 50035
        assert len(server.violations) == 1
        assert complaint in server.violations[0]


async def test_heartbeats_arrive_on_time(server: LoopbackDiscord, bot: Bot) -> None:
    await server.bell.until(lambda: len(server.heartbeats) >= 4, timeout_s=5)
    late = [beat.lateness_s for beat in server.heartbeats[1:4] if beat.lateness_s is not None]
    assert len(late) == 3
    assert max(late) < 0.15


async def test_socket_dropped_is_resumed_and_missed_events_arrive(server: LoopbackDiscord, bot: Bot) -> None:
    server.gateway.drop()
    await server.bell.until(lambda: not server.gateway.connected, timeout_s=5)
    asked = await server.member("ada").slash("imagine", "imagine", prompt="x")
    await asked.wait_for(lambda one: one.message and one.message.file_names, timeout_s=15)
    await asyncio.wait_for(bot.resumed.wait(), 5)
    assert len(server.gateway.resumed_at) == 1
    assert len(server.gateway.identified_at) == 1


async def test_close_4004_ends_the_client(server: LoopbackDiscord) -> None:
    server.gateway.refuse_identify_with = 4004
    before = Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY
    Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY = server.api_url, yarl.URL(server.gateway_url)
    try:
        with pytest.raises(discord.ConnectionClosed) as closed:
            await asyncio.wait_for(build().client.start(server.token), 10)
    finally:
        Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY = before
    assert closed.value.code == 4004
