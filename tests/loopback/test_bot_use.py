"""What members do: every kind of channel, private requests, input that is refused, repeated and late interactions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.loopback import Channel
from tests.loopback.messages import walk
from tests.loopback.stage import LONG, PROMPT, Stage, is_drawn, job_of, pictures

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("where", ["imagine", "after-dark", "thread", "post", "direct message"])
async def test_imagine_in_every_kind_of_channel_draws_there(stage: Stage, where: str) -> None:
    channel: Channel = stage.person("bob").dm if where == "direct message" else stage.discord.channels[where]
    message = await stage.draw("bob", channel, count=2, steps=4)
    assert message.channel is channel
    assert pictures(message) == [f"easel-{job_of(message)}-{n}.png" for n in (1, 2)]
    assert message.shown == message.attachments
    assert list(message.buttons) == [
        "Upscale 1",
        "Upscale 2",
        "Vary 1",
        "Vary 2",
        "Vary region",
        "Again",
        "Edit",
        "Info",
        "Delete",
    ]
    gallery = next(part for part in walk(message.components) if part["type"] == 12)
    assert [PROMPT in item["description"] for item in gallery["items"]] == [True, True]


async def test_private_request_is_seen_by_its_requester_alone(stage: Stage) -> None:
    channel = stage.discord.channels["imagine"]
    before = stage.discord.messages_in(channel)
    asked = await stage.imagine("ada", private=True, steps=4)
    message = await stage.drawn(asked)
    assert message.ephemeral
    assert all(version.flags & 64 for version in message.versions)
    assert message.owner is stage.person("ada").user
    assert stage.discord.messages_in(channel) == before
    assert stage.showing(job_of(message)) == [message]


async def test_spoiler_request_is_blurred(stage: Stage) -> None:
    message = await stage.draw("ada", spoiler=True, steps=4)
    gallery = next(part for part in walk(message.components) if part["type"] == 12)
    assert all(item["spoiler"] for item in gallery["items"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"prompt": "   "}, "prompt is empty", id="empty prompt"),
        pytest.param({"prompt": "x" * 1501}, "1,501", id="long prompt"),
        pytest.param({"width": 65}, "65 is not a multiple of 8", id="width"),
        pytest.param({"width": 512}, "at most 256 px", id="too large"),
        pytest.param({"model": "sdxx"}, "did you mean sdxl", id="model"),
        pytest.param({"sampler": "Eular"}, "did you mean Euler", id="sampler"),
        pytest.param({"count": 9}, "9", id="count"),
        pytest.param({"steps": 120}, "Steps goes from 1 to 100 with Pocket", id="steps"),
        pytest.param({"guidance": 29.5}, "Guidance goes from 0 to 15 with Pocket", id="guidance"),
        pytest.param({"prompt": "a nude child"}, "", id="moderation"),
    ],
)
async def test_imagine_with_bad_input_is_refused_in_private_and_makes_no_request(
    stage: Stage, options: dict[str, Any], words: str
) -> None:
    channel = stage.discord.channels["imagine"]
    rows, messages = len(stage.jobs()), stage.discord.messages_in(channel)
    values = {"prompt": PROMPT, **options}
    asked = await (await stage.person("ada").slash(channel, "imagine", unchecked=True, **values)).answered()
    assert words in asked.private_text
    assert "Something broke" not in asked.private_text
    assert 10 < len(asked.private_text) < 300
    assert len(stage.jobs()) == rows
    assert stage.discord.messages_in(channel) == messages


async def test_queue_and_cancel_show_and_take_back_what_waits(stage: Stage) -> None:
    running = await stage.busy("eve", **LONG)
    asked = await stage.waiting(await stage.imagine("ada"))
    seen = await (await stage.person("ada").slash("imagine", "queue")).answered()
    assert "**Now**" in seen.private_text
    assert "**1st in line**" in seen.private_text
    told = await (await stage.person("ada").slash("imagine", "cancel")).answered()
    assert "Cancelled" in told.private_text
    await asked.wait_for(lambda one: "cancelled" in one.text)
    await stage.drawn(running)
    assert not is_drawn(asked)
    assert stage.status_of(asked) == "cancelled"


@pytest.mark.parametrize("command", ["queue", "models", "history", "help"])
async def test_command_answers_in_private_and_at_once(stage: Stage, command: str) -> None:
    asked = await (await stage.person("ada").slash("imagine", command)).answered()
    assert asked.private_text
    assert asked.acknowledged_after_s is not None
    assert asked.acknowledged_after_s <= 0.25


async def test_vary_region_is_chosen_in_private_and_draws_in_the_channel(stage: Stage) -> None:
    message = await stage.draw("ada", steps=4)
    job, bob = job_of(message), stage.person("bob")
    opened = await (await bob.click(message, label="Vary region")).answered()
    (shown,) = opened.replies
    assert shown.ephemeral
    assert shown.file_names == ["region.jpg"]
    assert shown.shown == shown.attachments
    chosen = await bob.select(shown, f"easel:v1:part:{job}:1:0", "Centre")
    await chosen.wait_for(lambda _: "**Redraw B2, C2, B3, C3**" in shown.text)
    assert shown.file_names == ["region.jpg"]
    form = await (await bob.click(shown, label="Redraw…")).answered()
    drawn = await stage.drawn(await bob.submit_modal(form, {"Prompt": "a red circle"}))
    assert not drawn.ephemeral
    assert pictures(drawn) == [f"easel-{job_of(drawn)}-1.png"]
