"""What outlives the process: requests, buttons and registered commands, through kill -9 and SIGTERM."""

from __future__ import annotations

import time

import pytest

from bot.app import DRAIN_S
from tests.loopback import Invocation
from tests.loopback.conftest import Raise
from tests.loopback.stage import Stage, is_drawn, job_of, pictures

pytestmark = pytest.mark.asyncio(loop_scope="session")

FIVE = ("ada", "bob", "ada", "eve", "bob")


async def five_waiting(stage: Stage) -> list[Invocation]:
    """One request that is being drawn and five behind it."""
    running = await stage.busy("eve")
    asked = [await stage.imagine(name, steps=6) for name in FIVE]
    for one in asked:
        await stage.waiting(one)
    assert not any(is_drawn(one) for one in (running, *asked))
    return [running, *asked]


async def each_once(stage: Stage, asked: list[Invocation]) -> None:
    """Wait for every request's pictures; each stands in one message, put there by one edit, in its own place."""
    for one in asked:
        message = await stage.drawn(one)
        job = job_of(message)
        assert stage.showing(job) == [message]
        assert [bool(pictures(version)) for version in message.versions].count(True) == 1
        assert len(stage.uploads(job)) == 1
        assert one.followups == []
    assert len({job_of(one.message) for one in asked if one.message}) == len(asked)


async def test_killed_bot_with_five_queued_draws_all_and_none_twice_after_a_restart(set_up: Raise) -> None:
    stage = await set_up()
    old = await stage.draw("ada", seed=7)
    asked = await five_waiting(stage)
    await stage.bot.kill()
    await stage.bot.start()
    await stage.bot.ready()
    await each_once(stage, asked)
    assert len(stage.discord.messages_in(stage.discord.channels["imagine"])) == 1 + len(asked)
    for one in asked:
        await stage.until_status(one, "posted")

    ada, bob = stage.person("ada"), stage.person("bob")
    told = await (await bob.click(old, label="Info")).answered()
    assert "a large red circle" in told.private_text
    assert "7" in told.private_text
    again = await stage.drawn(await bob.click(old, label="Again"))
    assert job_of(again) != job_of(old)
    form = await (await bob.click(old, label="Edit")).answered()
    assert form.fields()["Prompt"]["value"] == "a large red circle on a blue background"
    edited = await stage.drawn(await bob.submit_modal(form, {"Prompt": "a small green square on black"}))
    assert "a small green square on black" in edited.text
    refused = await (await bob.click(old, label="Delete")).answered()
    assert "Only the member who asked" in refused.private_text
    assert not old.deleted
    folder = stage.bot.data_dir / "data" / "pictures"
    assert list(folder.rglob(f"easel-{job_of(old)}-*.png"))
    pressed = await ada.click(old, label="Delete")
    await pressed.wait_for(lambda _: old.deleted)
    await pressed.wait_for(lambda _: not list(folder.rglob(f"easel-{job_of(old)}-*.png")))
    assert job_of(old) not in [job for job, _, _ in stage.jobs()]


async def test_killed_bot_with_a_list_half_drawn_shows_every_picture_once(set_up: Raise) -> None:
    stage = await set_up()
    ada, prompts = stage.person("ada"), [f"a large red circle, {n}" for n in range(12)]
    form = await (await ada.slash("imagine", "batch")).answered()
    sent = await ada.submit_modal(form, {"Prompts, one a line": "\n".join(prompts), "more": "steps: 24\nseed: 5"})
    await sent.wait_for(lambda one: one.message is not None and "preview.jpg" in one.message.file_names, timeout_s=60)
    assert "of 12" in (sent.message.text if sent.message else "")
    ((row, _, _),) = stage.jobs()
    await sent.wait_for(lambda _: len(stage.files(row)) > 2, timeout_s=60)
    await stage.bot.kill()
    kept = stage.files(row)
    await stage.bot.start()
    await stage.bot.ready()
    job = job_of(await stage.drawn(sent))
    assert 2 < len(kept) < 12
    # Each file has a signature of its own: what was committed is not drawn again.
    assert {n: stage.files(job)[n] for n in kept} == kept
    await stage.until_status(sent, "posted")
    standing = stage.showing(job)
    names = sorted((name for message in standing for name in pictures(message)), key=lambda name: (len(name), name))
    assert names == [f"easel-{job}-{n + 1}.png" for n in range(12)]
    assert [message for message in standing if f"easel-{job}.zip" in message.file_names] == [sent.message]
    assert len(stage.discord.messages_in(stage.discord.channels["imagine"])) == len(standing) == 2
    assert stage.ledger(sent) == ("settled", 12 * 128 * 128 * 24)


async def test_killed_bot_between_posting_and_noting_shows_the_picture_once(set_up: Raise) -> None:
    stage = await set_up()
    await stage.draw("bob")  # so that the model is loaded, and no progress has to be shown
    asked = await stage.waiting(await stage.imagine("ada", steps=4))
    # Discord has the picture, and the process dies before it hears so.
    fault = stage.discord.inject("PATCH", "/webhooks/*", after_accept=True, hang_s=60, times=None)
    message = await stage.drawn(asked)
    await stage.bot.kill()
    fault.lift()
    await stage.bot.start()
    await stage.bot.ready()
    await stage.until_status(asked, "posted")
    assert stage.showing(job_of(message)) == [message]
    assert len(pictures(message)) == 1
    assert len(stage.discord.messages_in(stage.discord.channels["imagine"])) == 2


async def test_stopped_bot_ends_in_order_and_draws_the_rest_at_the_next_start(set_up: Raise) -> None:
    stage = await set_up()
    asked = await five_waiting(stage)
    began = time.monotonic()
    assert await stage.bot.terminate(timeout_s=DRAIN_S + 10) == 0
    assert time.monotonic() - began < DRAIN_S + 5
    unfinished = [one for one in asked if not is_drawn(one)]
    assert len(unfinished) >= len(FIVE)
    assert {status for _, status, _ in stage.jobs()} <= {"queued", "posted"}
    assert stage.discord.command_calls("PUT") == 1
    await stage.bot.start()
    await stage.bot.ready()
    await each_once(stage, asked)
    # The commands were registered by the first start; the second finds them as they should be.
    assert stage.discord.command_calls("GET") == 2
    assert stage.discord.command_calls("PUT") == 1


async def test_request_that_takes_the_process_down_each_time_is_given_up(set_up: Raise) -> None:
    stage = await set_up({"EASEL_MAX_ATTEMPTS": "2"})
    asked = await stage.busy("ada")
    await stage.bot.kill()
    await stage.bot.start()
    await stage.bot.ready()
    await stage.until_status(asked, "running")
    await stage.bot.kill()
    await stage.bot.start()
    await stage.until_status(asked, "failed")
    message = (await asked.wait_for(lambda one: one.message and "Again" in one.message.buttons)).message
    assert message is not None
    assert pictures(message) == []
    assert "Cancel" not in message.buttons
