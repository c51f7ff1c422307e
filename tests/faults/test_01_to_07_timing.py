"""Faults 1 to 7: a database that stalls, interactions twice and too late, tokens, messages, rights and channels that go."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from tests.faults.house import House
from tests.loopback import Channel
from tests.loopback.stage import pictures

pytestmark = pytest.mark.asyncio(loop_scope="session")

LATE = timedelta(minutes=20)


async def overdue(house: House, name: str, prompt: str, **options: Any) -> Any:
    """A request whose drawing has taken longer than its interaction's token lives."""
    asked = await house.held(name, prompt, **options)
    house.clock.ahead += LATE
    asked.interaction.lifetime_s = 0.0
    return asked


async def finished(house: House, asked: Any, prompt: str) -> str:
    """Let the engine finish; the job's id once its end is recorded."""
    house.hold(prompt).set()
    await house.until_status(asked, "posted", "failed", "cancelled")
    return house.job_id(asked)


def new_messages(house: House, channel: Channel) -> list[Any]:
    return [call for call in house.discord.calls("POST", f"/channels/{channel.id}/messages") if call.files]


@pytest.mark.fault(1)
async def test_fault_01_stalled_database_the_command_is_acknowledged_at_once(house: House) -> None:
    release = threading.Event()
    house.easel.service._store._database._thread.submit(release.wait, 60)
    try:
        asked = await house.imagine("ada", prompt="a stalled one")
        await asked.acknowledged(timeout_s=2.9)
        assert asked.message is not None
        assert asked.message.loading
        assert house.status_of(asked) is None
    finally:
        release.set()
    await house.drawn(asked)


@pytest.mark.fault(2)
async def test_fault_02_interaction_delivered_twice_makes_one_job(house: House) -> None:
    rows = len(house.jobs())
    asked = await house.held("ada", "delivered twice")
    await house.person("ada").repeat(asked)
    await finished(house, asked, "delivered twice")
    message = await house.drawn(asked)
    await house.draw("ada", prompt="after it")
    assert len(house.jobs()) == rows + 2
    assert house.showing(house.job_id(asked)) == [message]
    assert house.engine.drawn.count("delivered twice") == 1
    assert asked.followups == []


@pytest.mark.fault(3)
async def test_fault_03_acknowledgement_refused_with_10062_costs_no_drawing_and_is_logged(house: House) -> None:
    rows = len(house.jobs())
    fault = house.discord.inject("POST", "/interactions/*/callback", status=404, code=10062)
    lost = await house.imagine("ada", prompt="answered too late")
    await lost.wait_for(lambda _: fault.hits == 1)
    await house.draw("bob", prompt="the next one")
    assert "answered too late" not in house.engine.drawn
    assert house.status_of(lost) is None
    assert len(house.jobs()) == rows + 1
    assert f"interaction {lost.interaction.id} was answered too late" in house.bot.all_logs


@pytest.mark.fault(4)
async def test_fault_04_job_longer_than_15_minutes_arrives_once_and_the_member_is_told(house: House) -> None:
    asked = await overdue(house, "ada", "a long one")
    card = asked.message
    job = await finished(house, asked, "a long one")
    assert house.showing(job) == [card]
    assert house.row(asked, "status", "posted_to", "message_id") == ("posted", "channel", card.id)
    upload = house.uploads(job)[-1]
    assert (upload.method, upload.path) == ("PATCH", f"/channels/{card.channel.id}/messages/{card.id}")

    def mentions() -> list[str]:
        said = [message.content for message in house.discord.messages_in(card.channel)]
        return [text for text in said if text.startswith(f"<@{asked.user.id}>") and f"/{card.id}" in text]

    await asked.wait_for(lambda _: mentions())
    assert len(mentions()) == 1


@pytest.mark.fault(4)
@pytest.mark.parametrize("answer", [(401, 50027), (404, 10015)], ids=["invalid token", "unknown webhook"])
async def test_fault_04_token_that_discord_refuses_early_leads_to_the_bots_own_edit(
    house: House, answer: tuple[int, int]
) -> None:
    asked = await house.held("ada", f"refused with {answer[1]}")
    house.discord.inject(
        "PATCH", f"/webhooks/*/{asked.interaction.token}/*", status=answer[0], code=answer[1], times=None
    )
    job = await finished(house, asked, f"refused with {answer[1]}")
    assert house.showing(job) == [asked.message]
    assert not house.transport.token_refused.done()


@pytest.mark.fault(4)
async def test_fault_04_private_job_longer_than_15_minutes_comes_as_a_direct_message(house: House) -> None:
    asked = await overdue(house, "ada", "a long secret", private=True)
    job = await finished(house, asked, "a long secret")
    assert [message.channel for message in house.showing(job)] == [house.person("ada").dm]
    assert house.row(asked, "posted_to") == ("direct message",)


@pytest.mark.fault(5)
async def test_fault_05_no_permission_to_post_leads_to_a_direct_message_and_the_state_says_so(house: House) -> None:
    asked = await overdue(house, "bob", "not allowed")
    house.discord.channels["imagine"].forbidden = True
    job = await finished(house, asked, "not allowed")
    assert [message.channel for message in house.showing(job)] == [house.person("bob").dm]
    assert house.row(asked, "status", "posted_to") == ("posted", "direct message")


@pytest.mark.fault(5)
async def test_fault_05_no_way_at_all_keeps_the_pictures_for_the_history_and_says_so(house: House) -> None:
    asked = await overdue(house, "bob", "not allowed anywhere")
    house.discord.channels["imagine"].forbidden = True
    house.person("bob").user.dms_closed = True
    job = await finished(house, asked, "not allowed anywhere")
    assert house.showing(job) == []
    assert house.row(asked, "status", "posted_to") == ("posted", "kept")
    history = await (await house.person("bob").slash("imagine", "history")).answered()
    assert "not allowed anywhere" in history.private_text
    assert "could not be posted, kept for you" in history.private_text


@pytest.mark.fault(6)
@pytest.mark.parametrize("late", [False, True], ids=["token lives", "token expired"])
async def test_fault_06_deleted_response_is_replaced_by_one_message(house: House, late: bool) -> None:
    prompt = f"deleted, {late}"
    asked = await (overdue if late else House.held)(house, "ada", prompt)
    old = asked.message
    await house.discord.delete_message(old)
    before = len(new_messages(house, old.channel))
    job = await finished(house, asked, prompt)
    shown = house.showing(job)
    assert len(shown) == 1
    assert shown[0] is not old
    assert shown[0].channel is old.channel
    assert list(shown[0].buttons) == ["Upscale", "Vary", "Vary region", "Again", "Edit", "Info", "Delete"]
    assert len(new_messages(house, old.channel)) == before + 1
    assert house.row(asked, "posted_to", "message_id") == ("channel", shown[0].id)


@pytest.mark.fault(7)
@pytest.mark.parametrize("how", ["deleted", "hidden"], ids=["channel gone", "bot removed"])
@pytest.mark.parametrize("reachable", [True, False], ids=["direct messages open", "direct messages closed"])
async def test_fault_07_channel_that_is_gone_ends_in_a_recorded_state_without_retries(
    house: House, how: str, reachable: bool
) -> None:
    prompt = f"{how}, {reachable}"
    asked = await overdue(house, "ada", prompt)
    channel = house.discord.channels["imagine"]
    setattr(channel, how, True)
    house.person("ada").user.dms_closed = not reachable
    before = len(house.discord.requests)
    await finished(house, asked, prompt)
    assert house.row(asked, "status", "posted_to") == ("posted", "direct message" if reachable else "kept")
    carrying = [call.method for call in house.discord.requests[before:] if call.files and str(channel.id) in call.path]
    assert sorted(carrying) in (["PATCH"], ["PATCH", "POST"])
    assert pictures(asked.original) == []
