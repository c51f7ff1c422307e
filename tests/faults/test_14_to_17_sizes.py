"""Faults 14 to 17: files that are too large, too many for one message, and places where the bot is a guest."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bot.files.decode import read_picture_info
from bot.provenance import DIGITAL_SOURCE_TYPE
from bot.verify import verify
from tests.faults.house import House, open_house
from tests.loopback import LoopbackDiscord, Message

pytestmark = pytest.mark.asyncio(loop_scope="session")

SMALL = 20_000
SIDE = 128
"""Noise of this side is a PNG of 49 kB."""
LARGE_SIDE = 1800
"""… and of this side 9.7 MB."""


def names(message: Message) -> list[str]:
    return list(message.file_names)


def noise(house: House, prompt: str, side: int = SIDE) -> str:
    house.engine.sides[prompt] = side
    return prompt


def standing(house: House, asked: Any) -> list[Message]:
    """The messages that show pictures of this request, in the order they were made."""
    job = house.job_id(asked)
    every = [message for message in house.discord.messages.values() if not message.deleted]
    return sorted((m for m in every if any(f"easel-{job}-" in name for name in names(m))), key=lambda m: m.id)


async def posted(house: House, asked: Any) -> list[Message]:
    await house.until_status(asked, "posted")
    return standing(house, asked)


def all_pictures(house: House, asked: Any, count: int) -> bool:
    """Whether every picture stands, and stands once."""
    found = sorted(name for message in standing(house, asked) for name in names(message))
    return found == sorted(f"easel-{house.job_id(asked)}-{n}.png" for n in range(1, count + 1))


@pytest.mark.fault(14)
async def test_fault_14_file_over_the_interactions_limit_is_shown_smaller_with_its_marks_and_said_so(
    house: House,
) -> None:
    prompt = noise(house, "over the limit")
    asked = await house.person("ada").slash("imagine", "imagine", size_limit=SMALL, prompt=prompt, count=2, seed=5)
    (message,) = await posted(house, asked)
    job = house.job_id(asked)
    assert names(message) == [f"easel-{job}-1.jpg", f"easel-{job}-2.jpg"]
    assert all(len(file.data) <= SMALL for file in message.attachments)
    assert "picture 1 is shown as JPEG" in message.text
    assert "picture 2 is shown as JPEG" in message.text
    second = message.attachments[1].data
    assert DIGITAL_SOURCE_TYPE.encode() in second
    signed = verify(second, []).credential
    assert signed is not None
    assert signed.title == f"easel-{job}-2.jpg"
    info = read_picture_info(second)
    assert info is not None
    assert (info.source, info.prompt, info.seed) == ("easel", prompt, 6)
    assert len(house.uploads(job)) == 1
    kept = list((house.bot.data_dir / "data" / "pictures").rglob(f"easel-{job}-*"))
    assert sorted(path.suffix for path in kept) == [".png", ".png"]


@pytest.mark.fault(14)
@pytest.mark.parametrize("code", [0, 40005], ids=["413", "40005"])
async def test_fault_14_files_that_discord_refuses_for_their_size_are_sent_smaller_once(
    house: House, code: int
) -> None:
    prompt = noise(house, f"refused with {code}")
    asked = await house.held("ada", prompt)
    refusal = {"status": 413} if not code else {"status": 400, "code": code}
    fault = house.discord.inject("PATCH", f"/webhooks/*/{asked.interaction.token}/*", **refusal)
    house.hold(prompt).set()
    (message,) = await posted(house, asked)
    assert fault.hits == 1
    assert names(message) == [f"easel-{house.job_id(asked)}-1.jpg"]
    assert "picture 1 is shown as JPEG" in message.text
    sizes = [next(iter(call.files.values()))[1] for call in house.uploads(house.job_id(asked))]
    assert len(sizes) == 2
    assert sizes[1] <= sizes[0] / 2


@pytest.mark.fault(14)
async def test_fault_14_files_that_discord_refuses_again_are_kept_and_the_state_says_so(house: House) -> None:
    prompt = noise(house, "refused twice")
    asked = await house.held("ada", prompt)
    path = f"/webhooks/*/{asked.interaction.token}/*"
    fault = house.discord.inject("PATCH", path, status=413, times=2)
    house.hold(prompt).set()
    assert await posted(house, asked) == []
    assert fault.hits == 2
    assert house.row(asked, "posted_to") == ("kept",)
    assert "larger than this channel accepts" in asked.text


@pytest.mark.fault(15)
async def test_fault_15_more_than_25_mib_is_split_over_messages(house: House) -> None:
    prompt = noise(house, "three large ones", LARGE_SIDE)
    asked = await house.imagine("ada", prompt=prompt, count=3)
    await house.until_status(asked, "posted")
    first, second = standing(house, asked)
    assert (len(names(first)), len(names(second))) == (2, 1)
    assert all_pictures(house, asked, 3)
    assert [call.status for call in house.uploads(house.job_id(asked))] == [200, 200]
    house.engine.sides.clear()


@pytest.mark.fault(16)
@pytest.mark.parametrize("private", [False, True], ids=["public", "private"])
async def test_fault_16_eleven_pictures_are_two_messages_and_the_second_has_its_own_record(
    house: House, private: bool
) -> None:
    prompt = f"eleven, {private}"
    house.engine.counts[prompt] = 11
    asked = await house.imagine("ada", prompt=prompt, private=private)
    first, second = await posted(house, asked)
    assert (len(names(first)), len(names(second))) == (10, 1)
    assert all_pictures(house, asked, 11)
    assert first is asked.message
    assert [message.ephemeral for message in (first, second)] == [private, private]
    assert "message 1 of 2" in first.text
    assert "message 2 of 2" in second.text
    assert house.posts(asked) == [(1, "0,1,2,3,4,5,6,7,8,9", first.id, 1), (2, "10", second.id, 1)]
    pressed = await house.person("ada").click(first, label="Delete")
    # What only one member sees is theirs to dismiss, once its token has run out or its end is recorded.
    await pressed.wait_for(lambda _: first.deleted and second.deleted is not private)


@pytest.mark.fault(16)
async def test_fault_16_history_shows_eleven_pictures_in_two_answers(house: House) -> None:
    prompt = "eleven of old"
    house.engine.counts[prompt] = 11
    asked = await house.imagine("eve", prompt=prompt)
    await posted(house, asked)
    page = await (await house.person("eve").slash("imagine", "history")).answered()
    again = await house.person("eve").select(page.replies[0], "easel:v1:show", house.job_id(asked))
    await again.wait_for(lambda one: len(one.replies) == 2)
    assert [len(names(message)) for message in again.replies] == [10, 1]


@pytest.mark.fault(16)
@pytest.mark.parametrize("lost", ["before", "after"], ids=["not carried out", "carried out"])
@pytest.mark.parametrize("private", [False, True], ids=["public", "private"])
async def test_fault_16_bot_that_goes_away_before_the_second_message_is_noted_shows_each_picture_once(
    tmp_path: Path, lost: str, private: bool
) -> None:
    async with LoopbackDiscord(heartbeat_interval_s=1.0) as discord:
        async with open_house(tmp_path, discord=discord) as house:
            house.engine.counts["eleven"] = 11
            asked = await house.held("ada", "eleven", private=private)
            # The picture itself: a new message where the bot may write, an edit of an empty follow-up elsewhere.
            where = (
                ("PATCH", f"/webhooks/*/{asked.interaction.token}/messages/1*")
                if private
                else ("POST", "/channels/*/messages")
            )
            fault = discord.inject(*where, hang_s=60.0, after_accept=lost == "after", times=None)
            house.hold("eleven").set()
            await asked.wait_for(lambda _: fault.hits == 1, timeout_s=30)
            await asyncio.sleep(0.2)
        assert house.row(asked, "status") == ("posting",)
        async with open_house(tmp_path, discord=discord) as house:
            await house.until_status(asked, "posted")
            assert all_pictures(house, asked, 11)
            assert len(standing(house, asked)) == 2
            assert [done for *_, done in house.posts(asked)] == [1, 1]
            house.check()


def calls_as_the_bot(house: House, since: int) -> list[str]:
    return [call.path for call in house.discord.requests[since:] if call.path.startswith("/channels/")]


@pytest.mark.fault(17)
async def test_fault_17_guest_of_a_member_answers_with_the_interaction_alone(house: House) -> None:
    imagine = next(one for one in house.discord.commands if one["name"] == "imagine")
    assert (sorted(imagine["integration_types"]), sorted(imagine["contexts"])) == ([0, 1], [0, 1, 2])
    house.engine.counts["as a guest"] = 11
    since = len(house.discord.requests)
    asked = await house.person("bob").slash("imagine", "imagine", user_install=True, prompt="as a guest")
    await posted(house, asked)
    assert all_pictures(house, asked, 11)
    assert len(asked.followups) == 1
    assert calls_as_the_bot(house, since) == []


@pytest.mark.fault(17)
async def test_fault_17_guest_of_a_member_sends_at_most_five_follow_ups_and_says_what_is_left(house: House) -> None:
    prompt = "seventy as a guest"
    house.engine.counts[prompt] = 70
    house.patch.setattr(house.easel.delivery, "_notify_after_s", -1.0)  # the mention is a follow-up, too
    try:
        since = len(house.discord.requests)
        asked = await house.person("bob").slash("imagine", "imagine", user_install=True, prompt=prompt)
        await house.until_status(asked, "posted")
        await asked.wait_for(lambda one: len(one.followups) == 5)
    finally:
        house.patch.setattr(house.easel.delivery, "_notify_after_s", 60.0)
    assert [len(names(message)) for message in standing(house, asked)] == [10] * 5
    assert "20 pictures could not be posted here, and wait for you in `/history`" in asked.text
    assert [message.content.startswith("<@") for message in asked.followups] == [False] * 4 + [True]
    assert all(call.status != 400 for call in house.discord.requests[since:])
    assert calls_as_the_bot(house, since) == []


@pytest.mark.fault(17)
async def test_fault_17_guest_whose_follow_up_is_refused_sends_the_rest_directly(house: House) -> None:
    house.engine.counts["refused guest"] = 11
    asked = await house.held("ada", "something first")
    asked = await house.person("bob").slash("imagine", "imagine", user_install=True, prompt="refused guest")
    house.discord.inject("POST", f"/webhooks/*/{asked.interaction.token}", status=400, code=40094)
    await house.until_status(asked, "posted")
    assert all_pictures(house, asked, 11)
    assert [message.channel for message in standing(house, asked)][1] == house.person("bob").dm
