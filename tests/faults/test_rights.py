"""44, 45, 47: who may press and who may draw, looked at when it is pressed and again when work starts."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing

import pytest
import pytest_asyncio
from discord import Permissions

from tests.faults.conftest import FRESH_S
from tests.loopback import Invocation, Message
from tests.loopback.messages import walk
from tests.loopback.stage import Stage, job_of, pictures

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROLE = 1_100_000_000_000_000_900
FOREVER = "a red circle, drawn forever"
WAIT_S = 30.0


async def press_what_says(stage: Stage, name: str, message: Message, custom_id: str) -> str:
    """Press a button that says `custom_id`, as it may stand on a message from long ago; what is answered privately."""
    button = next(part for part in walk(message.components) if part["type"] == 2)
    held, button["custom_id"] = button["custom_id"], custom_id
    try:
        return (await (await stage.person(name).click(message, custom_id=custom_id)).answered()).private_text
    finally:
        button["custom_id"] = held


@pytest.mark.fault(44)
async def test_fault_44_stranger_presses_cancel_is_refused_privately_and_it_is_drawn(loud_stage: Stage) -> None:
    before = await loud_stage.waiting(await loud_stage.imagine("eve", prompt=FOREVER, steps=60, count=4))
    asked = await loud_stage.waiting(await loud_stage.imagine("ada", steps=2))
    assert asked.message is not None
    refused = await (await loud_stage.person("bob").click(asked.message, label="Cancel")).answered()
    assert "Only the member who asked for this, or a moderator" in refused.private_text
    assert loud_stage.status_of(asked) in ("queued", "running")
    assert before.message is not None
    await loud_stage.person("eve").click(before.message, label="Cancel")
    assert pictures(await loud_stage.drawn(asked))


@pytest.mark.fault(44)
async def test_fault_44_stranger_presses_delete_is_refused_privately_and_all_stays(loud_stage: Stage) -> None:
    message = await loud_stage.draw("ada", steps=2)
    refused = await (await loud_stage.person("bob").click(message, label="Delete")).answered()
    assert "Only the member who asked for this, or a moderator" in refused.private_text
    assert not message.deleted
    assert job_of(message) in [job for job, _, _ in loud_stage.jobs()]
    assert list((loud_stage.bot.data_dir / "data" / "pictures").rglob(f"easel-{job_of(message)}-*"))


@pytest.mark.fault(44)
async def test_fault_44_stranger_sends_the_button_of_a_private_request_and_learns_nothing(loud_stage: Stage) -> None:
    private = await loud_stage.drawn(await loud_stage.imagine("ada", prompt="a secret garden", private=True, steps=2))
    other = await loud_stage.draw("bob", steps=2)
    for action in ("info", "again", "edit", "delete"):
        said = await press_what_says(loud_stage, "bob", other, f"easel:v1:{action}:{job_of(private)}")
        assert "private to the member" in said or "Only the member" in said, action
        assert "secret garden" not in said
    assert not other.deleted


@pytest.mark.fault(44)
async def test_fault_44_member_who_may_not_use_commands_here_presses_again_and_is_refused(loud_stage: Stage) -> None:
    message = await loud_stage.draw("ada", steps=2)
    bob = loud_stage.person("bob").user
    held, bob.permissions = bob.permissions, bob.permissions & ~Permissions(use_application_commands=True)
    try:
        refused = await (await loud_stage.person("bob").click(message, label="Again")).answered()
    finally:
        bob.permissions = held
    assert "You may not use commands in this channel" in refused.private_text


@pytest.mark.fault(45)
async def test_fault_45_old_button_after_kill_9_and_restart_works_or_says_why_not(loud_stage: Stage) -> None:
    kept = await loud_stage.draw("ada", steps=2, seed=7)
    deleted = await loud_stage.draw("ada", steps=2)
    await loud_stage.bot.kill()
    await loud_stage.bot.start()
    await loud_stage.bot.ready()
    bob, ada = loud_stage.person("bob"), loud_stage.person("ada")
    again = await loud_stage.drawn(await bob.click(kept, label="Again"))
    assert job_of(again) != job_of(kept)
    assert "7" in (await (await bob.click(kept, label="Info")).answered()).private_text
    gone = await ada.click(deleted, label="Delete")
    await gone.wait_for(lambda _: deleted.deleted)
    async with asyncio.timeout(WAIT_S):  # the message goes first, then the record
        while job_of(deleted) in [job for job, _, _ in loud_stage.jobs()]:
            await asyncio.sleep(0.05)
    for action in ("again", "info", "edit", "cancel"):
        said = await press_what_says(loud_stage, "bob", kept, f"easel:v1:{action}:{job_of(deleted)}")
        assert "no longer kept" in said, action
    for unknown in ("easel:v0:again:abcdef", "easel:v1:frobnicate:abcdef", "some other thing"):
        said = await press_what_says(loud_stage, "bob", kept, unknown)
        assert "made by another version" in said, unknown


@pytest_asyncio.fixture(loop_scope="session")
async def members_only(loud_stage: Stage) -> AsyncIterator[Stage]:
    """`#imagine` is closed to everyone but those with a role, which ada, bob and eve have."""
    discord = loud_stage.discord
    channel = discord.channels["imagine"]
    names = ("ada", "bob", "eve")
    discord.roles[ROLE] = Permissions()
    role = next(one for one in discord.guild_payload()["roles"] if one["id"] == str(ROLE))
    await discord.gateway.dispatch("GUILD_ROLE_CREATE", {"guild_id": str(discord.guild_id), "role": role})
    needed = str(Permissions(view_channel=True, use_application_commands=True).value)
    channel.overwrites = [
        {"id": str(discord.guild_id), "type": 0, "allow": "0", "deny": needed},
        {"id": str(ROLE), "type": 0, "allow": needed, "deny": "0"},
    ]
    await discord.gateway.dispatch("CHANNEL_UPDATE", channel.payload())
    for name in names:
        discord.users[name].roles = [ROLE]
    yield loud_stage
    channel.overwrites = []
    await discord.gateway.dispatch("CHANNEL_UPDATE", channel.payload())
    for name in names:
        discord.users[name].roles, discord.users[name].left = [], False


async def behind(stage: Stage) -> tuple[Invocation, Invocation, Invocation]:
    """One of eve's that is drawn until it is cancelled, and two behind it, of ada's and bob's."""
    first = await stage.waiting(await stage.imagine("eve", prompt=FOREVER, steps=100, count=4))
    ada = await stage.waiting(await stage.imagine("ada", steps=2))
    bob = await stage.waiting(await stage.imagine("bob", steps=2))
    return first, ada, bob


async def go_on(stage: Stage, first: Invocation, waiting: Invocation) -> None:
    """End what is in front, once the one behind has waited long enough for its rights to be looked up."""
    waited_s = stage.discord.now() - waiting.sent_at
    await asyncio.sleep(max(0.0, FRESH_S + 0.5 - waited_s))
    assert stage.status_of(waiting) == "queued"
    assert first.message is not None
    await stage.person("eve").click(first.message, label="Cancel")


@pytest.mark.fault(47)
@pytest.mark.parametrize(
    ("loses", "says"), [("role", "may no longer draw in this channel"), ("membership", "no longer a member")]
)
async def test_fault_47_rights_lost_while_queued_end_the_request_with_a_sentence_and_a_refund(
    members_only: Stage, loses: str, says: str
) -> None:
    stage = members_only
    first, ada, bob = await behind(stage)
    user = stage.person("ada").user
    user.roles, user.left = [], loses == "membership"
    await go_on(stage, first, ada)
    await stage.until_status(ada, "failed")
    assert ada.message is not None
    await ada.wait_for(lambda one: says in one.text, timeout_s=WAIT_S)
    assert pictures(ada.message) == []
    assert stage.ledger(ada) == ("refunded", 0)
    assert pictures(await stage.drawn(bob))  # who kept the role is drawn


@pytest.mark.fault(47)
async def test_fault_47_channel_closed_while_queued_is_seen_also_by_a_process_that_starts_anew(
    members_only: Stage,
) -> None:
    stage = members_only
    first, ada, bob = await behind(stage)
    await asyncio.sleep(FRESH_S)
    await stage.bot.kill()
    with closing(sqlite3.connect(stage.bot.data_dir / "data" / "easel.db")) as database:
        # So that ada's is the first thing the new process begins, before the gateway has told it anything.
        database.execute("DELETE FROM jobs WHERE interaction_id = ?", (first.interaction.id,))
        database.execute("DELETE FROM ledger WHERE job_id NOT IN (SELECT id FROM jobs) AND state = 'reserved'")
        database.commit()
    stage.discord.channels["imagine"].overwrites[1] = {
        "id": str(stage.person("bob").user.id), "type": 1, "allow": "2147484672", "deny": "0",
    }  # fmt: skip
    asked_before = len(stage.discord.calls("GET", f"/guilds/{stage.discord.guild_id}"))
    stage.discord.gateway.invalidate_next = 1000
    await stage.bot.start()
    await stage.until_status(ada, "failed")
    stage.discord.gateway.invalidate_next = 0
    await ada.wait_for(lambda one: "may no longer draw in this channel" in one.text, timeout_s=WAIT_S)
    assert pictures(await stage.drawn(bob))
    calls = stage.discord.calls("GET", f"/guilds/{stage.discord.guild_id}")[asked_before:]
    assert any(call.path == f"/guilds/{stage.discord.guild_id}" for call in calls)
    await stage.bot.ready(timeout_s=120)


@pytest.mark.fault(47)
async def test_fault_47_rights_that_discord_does_not_tell_leave_the_request_its_turn(members_only: Stage) -> None:
    stage = members_only
    first, ada, bob = await behind(stage)
    fault = stage.discord.inject("GET", f"/guilds/*/members/{stage.person('ada').user.id}", status=503, times=None)
    await go_on(stage, first, ada)
    assert pictures(await stage.drawn(ada))
    assert pictures(await stage.drawn(bob))
    assert fault.hits
    fault.lift()
