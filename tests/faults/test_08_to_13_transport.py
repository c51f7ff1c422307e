"""Faults 8 to 13: limits of Discord and of its edge, servers that fail or are silent, a token that is refused."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bot import delivery
from bot.transport import WINDOW_S, RefusedCalls, Timing
from tests.faults.house import QUICK, House, open_house
from tests.loopback.conftest import Raise
from tests.loopback.faults import Recorded
from tests.loopback.stage import pictures

pytestmark = pytest.mark.asyncio(loop_scope="session")

WAIT_S = 1.5
LATE = timedelta(minutes=20)
HASTY = Timing(silence_s=0.7, total_s=5.0, answer_s=0.7, again_s=(0.05,), probe_s=(0.05, 0.1))


def hook(asked: Any) -> str:
    """The address of a request's message with its own token."""
    return f"/webhooks/*/{asked.interaction.token}/*"


def patches(house: House, asked: Any) -> list[Recorded]:
    return [call for call in house.discord.calls("PATCH", asked.interaction.token) if call.files]


async def shown_once(house: House, asked: Any) -> None:
    await house.until_status(asked, "posted")
    message = await house.drawn(asked)
    job = house.job_id(asked)
    assert house.showing(job) == [message]
    assert pictures(message) == [f"easel-{job}-1.png"]
    assert asked.followups == []
    assert house.row(asked, "posted_to") == ("channel",)


@pytest.mark.fault(8)
async def test_fault_08_rate_limit_with_via_is_waited_for_and_honoured(house: House) -> None:
    asked = await house.held("ada", "limited")
    house.discord.inject("PATCH", hook(asked), status=429, retry_after=WAIT_S)
    house.hold("limited").set()
    await shown_once(house, asked)
    refused, *after = [call for call in patches(house, asked) if call.at]
    assert refused.status == 429
    assert len(after) == 1
    assert after[0].at - (refused.finished_at or 0.0) >= WAIT_S - 0.05


@pytest.mark.fault(9)
async def test_fault_09_rate_limit_of_the_edge_stops_all_calls_for_as_long_as_it_says(house: House) -> None:
    asked = await house.held("ada", "limited by the edge")
    fault = house.discord.inject("PATCH", hook(asked), status=429, retry_after=WAIT_S, via=False, times=2)
    house.hold("limited by the edge").set()
    await asked.wait_for(lambda _: fault.hits >= 1)
    refused_at = house.discord.now()
    other = await house.imagine("bob", prompt="somebody else's")
    await shown_once(house, asked)
    await shown_once(house, other)
    # Whoever else has something to say keeps still, too; only first answers go out, for which somebody waits.
    storm = [
        call
        for call in house.discord.requests
        if refused_at < call.at < refused_at + WAIT_S - 0.1 and not call.path.endswith("/callback")
    ]
    assert storm == []
    assert fault.hits == 2
    assert len(patches(house, asked)) == 3


@pytest.mark.fault(10)
@pytest.mark.parametrize("status", [500, 502])
async def test_fault_10_server_error_after_the_edit_was_carried_out_leaves_one_message(
    house: House, status: int
) -> None:
    asked = await house.held("ada", f"edited, then {status}")
    fault = house.discord.inject("PATCH", hook(asked), status=status, after_accept=True)
    house.hold(f"edited, then {status}").set()
    await shown_once(house, asked)
    assert fault.hits == 1


@pytest.mark.fault(10)
@pytest.mark.parametrize("status", [500, 502])
async def test_fault_10_server_error_after_a_new_message_was_made_leaves_one_message(house: House, status: int) -> None:
    prompt = f"deleted, then {status}"
    asked = await house.held("ada", prompt)
    card = asked.message
    await house.discord.delete_message(card)
    fault = house.discord.inject("POST", f"/channels/{card.channel.id}/messages", status=status, after_accept=True)
    house.hold(prompt).set()
    await house.until_status(asked, "posted")
    assert fault.hits == 1
    assert len(house.showing(house.job_id(asked))) == 1
    # The request's own, so that it holds across our repeats and a restart, and not only within one call of discord.py's.
    sent = [call.body for call in house.uploads(house.job_id(asked)) if call.method == "POST"]
    assert {body["nonce"] for body in sent} == {house.job_id(asked)}
    assert all(body["enforce_nonce"] for body in sent)


@pytest.mark.fault(10)
async def test_fault_10_server_error_after_a_follow_up_was_made_does_not_repeat_it(house: House) -> None:
    asked = await house.held("ada", "a follow-up")
    house.patch.setattr(house.easel.delivery, "_notify_after_s", -1.0)
    fault = house.discord.inject("POST", f"/webhooks/*/{asked.interaction.token}", status=502, after_accept=True)
    house.hold("a follow-up").set()
    await asked.wait_for(lambda one: one.followups)
    house.patch.setattr(house.easel.delivery, "_notify_after_s", 60.0)
    await house.draw("bob", prompt="meanwhile")
    await asyncio.sleep(1.2)  # discord.py would be back after a second
    assert fault.hits == 1
    assert [message.content.startswith(f"<@{asked.user.id}>") for message in asked.followups] == [True]


@pytest.mark.fault(11)
@pytest.mark.parametrize(
    "fault",
    [{"status": 503}, {"reset": True}, {"truncate": True}],
    ids=["503", "connection reset", "disconnect in mid-response"],
)
@pytest.mark.parametrize("own", [False, True], ids=["token lives", "token expired"])
async def test_fault_11_edit_that_fails_is_repeated_by_us(house: House, fault: dict[str, Any], own: bool) -> None:
    prompt = f"edited in spite of {fault}, {own}"
    asked = await house.held("ada", prompt)
    card = asked.message
    if own:
        house.clock.ahead += LATE
    path = f"/channels/{card.channel.id}/messages/{card.id}" if own else hook(asked)
    injected = house.discord.inject("PATCH", path, **fault)
    house.hold(prompt).set()
    await shown_once(house, asked)
    assert injected.hits == 1


@pytest.mark.fault(11)
@pytest.mark.parametrize("fault", [{"reset": True}, {"truncate": True}], ids=["connection reset", "mid-response"])
async def test_fault_11_new_message_whose_answer_is_lost_is_found_and_not_sent_twice(
    house: House, fault: dict[str, Any]
) -> None:
    prompt = f"sent in spite of {fault}"
    asked = await house.held("ada", prompt)
    card = asked.message
    await house.discord.delete_message(card)
    path = f"/channels/{card.channel.id}/messages"
    injected = house.discord.inject("POST", path, **fault)
    house.hold(prompt).set()
    await house.until_status(asked, "posted")
    job = house.job_id(asked)
    assert injected.hits == 1
    assert len(house.showing(job)) == 1
    sent = [call for call in house.uploads(job) if call.method == "POST"]
    assert len(sent) == (1 if "truncate" in fault else 2)


@pytest.mark.fault(11)
@pytest.mark.parametrize(
    "fault", [{"status": 503}, {"reset": True}, {"truncate": True}], ids=["503", "connection reset", "mid-response"]
)
async def test_fault_11_first_answer_that_fails_is_given_again_within_its_3_s(
    house: House, fault: dict[str, Any]
) -> None:
    injected = house.discord.inject("POST", "/interactions/*/callback", **fault)
    asked = await house.imagine("ada", prompt=f"answered in spite of {fault}")
    await shown_once(house, asked)
    assert injected.hits == 1
    assert asked.acknowledged_after_s is not None
    assert asked.acknowledged_after_s < 3.0


@pytest.mark.fault(11)
async def test_fault_11_discord_that_is_down_lets_the_drawing_go_on_and_the_results_come_when_it_is_back(
    house: House,
) -> None:
    prompts = [f"outage {n}" for n in range(6)]
    names = ("ada", "bob", "eve", "ada", "bob", "eve")
    asked = [await house.held(name, prompt) for name, prompt in zip(names, prompts, strict=True)]
    outage = [house.discord.inject("*", path, status=503, times=None) for path in ("/webhooks/*", "/ch*", "/gateway")]
    for prompt in prompts:
        house.hold(prompt).set()
    for one in asked:
        await house.until_status(one, "rendered", "posting")
    await asked[0].wait_for(lambda _: house.transport.down)
    # Answers to interactions are still tried, and what is asked now is drawn now.
    asked.append(await house.imagine("ada", prompt="asked while it was down"))
    await house.until_status(asked[-1], "rendered")
    assert {*prompts, "asked while it was down"} <= set(house.engine.drawn)
    before = [len(house.uploads(house.job_id(one))) for one in asked]
    await asyncio.sleep(1.5)
    # While it is down nothing is sent but the question whether it is back.
    assert [len(house.uploads(house.job_id(one))) for one in asked] == before
    assert house.status_of(asked[-1]) == "rendered"
    for fault in outage:
        fault.lift()
    for one in asked:
        await shown_once(house, one)


@pytest.mark.fault(12)
async def test_fault_12_call_that_is_never_answered_ends_by_our_time_out_and_the_queue_goes_on(tmp_path: Path) -> None:
    async with open_house(tmp_path, timing=HASTY) as house:
        house.patch.setattr(delivery, "UNANSWERED_AGAIN_S", (0.1,) * 1000)
        asked = await house.held("ada", "into the void")
        silent = house.discord.inject("PATCH", hook(asked), hang_s=600.0, times=None)
        house.hold("into the void").set()
        await asked.wait_for(lambda _: silent.hits >= 2, timeout_s=60)
        meanwhile = await house.draw("bob", prompt="not held up")
        assert house.status_of(asked) == "posting"
        silent.lift()
        await shown_once(house, asked)
        assert pictures(meanwhile)
        house.check()


@pytest.mark.fault(12)
async def test_fault_12_first_answer_that_hangs_is_given_again(tmp_path: Path) -> None:
    async with open_house(tmp_path, timing=HASTY) as house:
        house.discord.inject("POST", "/interactions/*/callback", hang_s=600.0)
        asked = await house.imagine("ada", prompt="hanging")
        await shown_once(house, asked)
        house.check()


@pytest.mark.fault(13)
async def test_fault_13_token_refused_while_running_stops_the_calls_and_ends_with_3_and_a_sentence(
    set_up: Raise,
) -> None:
    stage = await set_up()
    first = await stage.waiting(await stage.imagine("ada"))
    second = await stage.waiting(await stage.imagine("bob"))
    assert first.message is not None
    before = len(stage.discord.requests)
    # With its own token refused, the second card is edited by the bot itself, as soon as there is news of it.
    second.interaction.lifetime_s = 0.0
    stage.discord.revoked = True
    await stage.person("ada").click(first.message, label="Cancel")
    assert await stage.bot.exited(timeout_s=90) == 3
    assert "Discord refuses DISCORD_TOKEN. Copy it anew" in stage.bot.logs
    own = [call for call in stage.discord.requests[before:] if not call.path.startswith(("/webhooks", "/interactions"))]
    assert [call.status for call in own] == [401]


@pytest.mark.fault(13)
async def test_fault_13_refused_calls_near_the_limit_stop_all_calls_until_there_is_room(tmp_path: Path) -> None:
    refused = RefusedCalls(at_most=6)
    async with open_house(tmp_path, timing=QUICK, refused_calls=refused) as house:
        asked = await house.held("ada", "refused and refused")
        house.clock.ahead += LATE
        wall = house.discord.inject("*", "/channels/*", status=403, code=50013, times=None)
        house.hold("refused and refused").set()
        others = [await house.imagine(name, prompt=f"{name}'s") for name in ("bob", "eve")]
        for one in others:
            one.interaction.lifetime_s = 0.0

        def count() -> int:
            return sum(call.status in (401, 403, 429) for call in house.discord.requests)

        await asked.wait_for(lambda _: count() >= 6, timeout_s=60)
        await asyncio.sleep(0.5)
        stopped = count()
        assert 6 <= stopped <= 6 + len(others)  # those that were on their way as the sixth was refused
        await asyncio.sleep(1.5)
        assert count() == stopped
        wall.lift()
        house.ticks.ahead += WINDOW_S
        for one in (asked, *others):
            await house.until_status(one, "posted")
        house.check()
