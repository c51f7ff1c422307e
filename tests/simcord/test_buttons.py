"""What can be done with a result and with a wait: rights at every press, also after a restart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import simcord

from bot.demo import build_simulated
from bot.errors import JobNotFound
from bot.generation import Actor, JobStatus
from tests.simcord.conftest import World, start
from tests.support import labels, texts

BEACH = "a sunset over a beach"


async def draw(world: World, member: Any = None, **options: Any) -> Any:
    result = await (member or world.ada).slash(world.channel, "imagine", prompt=BEACH, **{"steps": 1, **options})
    return await world.drawn(result)


def job_id_of(message: Any) -> str:
    return message.attachments[0].filename.split("-")[1]


async def test_again_draws_the_same_request_with_a_new_seed_for_whoever_pressed(world: World) -> None:
    message = await draw(world, seed=3, count=2)
    pressed = await world.bob.click(message.message, label="Again")
    again = await world.drawn(pressed)
    old = await world.easel.service.get(job_id_of(message))
    new = await world.easel.service.get(job_id_of(again))
    assert new.origin.user_id == world.bob.id
    assert replace(new.request, seed=3) == old.request
    assert new.request.seed != 3


async def test_edit_opens_a_filled_form_and_draws_what_it_says(world: World) -> None:
    message = await draw(world, seed=3)
    shown = await world.ada.click(message.message, label="Edit")
    assert shown.modal is not None
    values = {
        "prompt": "a blue star on a yellow background",
        "more": "seed: 9\nsteps: 2",
        "model": ["pocket"],
        "aspect": ["keep"],
    }
    edited = await world.drawn(await world.ada.submit_modal(shown, values))
    job = await world.easel.service.get(job_id_of(edited))
    assert (job.request.prompt, job.request.seed, job.request.num_inference_steps) == (values["prompt"], 9, 2)


async def test_edit_with_a_wrong_line_says_which_and_hands_the_prompt_back(world: World) -> None:
    message = await draw(world)
    shown = await world.ada.click(message.message, label="Edit")
    values = {"prompt": "a long considered prompt", "more": "steps: many", "model": ["pocket"], "aspect": ["keep"]}
    refused = await world.ada.submit_modal(shown, values)
    assert refused.ephemeral
    assert "steps is “many”" in refused.response.content
    assert "a long considered prompt" in refused.response.content


async def test_info_tells_everything_privately(world: World) -> None:
    message = await draw(world, seed=3, negative_prompt="people")
    answer = await world.bob.click(message.message, label="Info")
    assert answer.ephemeral
    text = "\n".join(texts(answer.response.components))
    for part in (BEACH, "people", "**Seed** 3", "**Size** 128×128", "**Licence**"):
        assert part in text


async def test_delete_by_a_stranger_is_refused_and_nothing_goes(world: World) -> None:
    message = await draw(world)
    answer = await world.bob.click(message.message, label="Delete")
    assert "moderator" in answer.followups[0].content
    assert answer.followups[0].ephemeral
    assert (await world.easel.service.get(job_id_of(message))).status is JobStatus.POSTED


@pytest.mark.parametrize("who", ["ada", "eve"], ids=["requester", "moderator"])
async def test_delete_erases_message_files_and_rows(world: World, who: str) -> None:
    message = await draw(world)
    job = await world.easel.service.get(job_id_of(message))
    await getattr(world, who).click(message.message, label="Delete")
    with pytest.raises(JobNotFound):
        await world.easel.service.get(job.id)
    assert not list(world.data_dir.rglob(f"*{job.id}*"))
    assert message.id not in [standing.id for standing in world.channel.history()]


async def test_delete_on_a_copy_from_the_history_takes_the_message_too(world: World) -> None:
    message = await draw(world)
    job = await world.easel.service.get(job_id_of(message))
    page = await world.ada.slash(world.channel, "history")
    listed = page.followups[-1] if page.followups else page.response
    shown = await world.ada.select(listed.message, [job.id], custom_id="easel:v1:show")
    copy = shown.followups[-1] if shown.followups else shown.response
    await world.ada.click(copy.message, label="Delete")
    assert message.id not in [standing.id for standing in world.channel.history()]
    assert not list(world.data_dir.rglob(f"*{job.id}*"))


async def test_cancel_in_the_list_of_queue_answers(world: World) -> None:
    await world.bob.slash(world.channel, "imagine", prompt=BEACH, steps=100, count=4)
    waiting = await world.ada.slash(world.channel, "imagine", prompt=BEACH, steps=1)
    listed = await world.ada.slash(world.channel, "queue")
    answer = await world.ada.click(listed.response.message, label="Cancel")
    assert answer.followups[-1].content == "Cancelled."
    await world.until(lambda: "cancelled" in texts(waiting.response.components)[0], "the cancellation")
    await world.bob.slash(world.channel, "cancel")
    await world.until(lambda: not world.easel.service.overview(world.bob.id).running, "the end of the drawing")


async def test_cancel_while_waiting_takes_the_request_out_of_the_line(world: World) -> None:
    first = await world.ada.slash(world.channel, "imagine", prompt=BEACH, steps=100, count=4)
    second = await world.bob.slash(world.channel, "imagine", prompt="a green circle on a red background", steps=2)
    await world.until(lambda: second.response and labels(second.response.components) == ["Cancel"], "the wait")
    await world.bob.click(second.response.message, label="Cancel")
    await world.until(lambda: "cancelled" in texts(second.response.components)[0], "the cancellation")
    await world.ada.click(first.response.message, label="Cancel")
    await world.until(lambda: "cancelled" in texts(first.response.components)[0], "the second cancellation")
    assert not second.response.attachments


async def test_cancel_while_running_stops_the_drawing(world: World) -> None:
    result = await world.ada.slash(world.channel, "imagine", prompt=BEACH, steps=100, count=4)
    await world.until(lambda: "step " in texts(result.response.components)[0], "the first steps")
    await world.ada.click(result.response.message, label="Cancel")
    await world.until(lambda: "cancelled" in texts(result.response.components)[0], "the cancellation")
    await world.until(lambda: not world.easel.service.overview(world.ada.id).running, "the end of the drawing")
    assert not result.response.attachments


async def test_cancel_by_a_stranger_is_refused(world: World) -> None:
    result = await world.ada.slash(world.channel, "imagine", prompt=BEACH, steps=100)
    answer = await world.bob.click(result.response.message, label="Cancel")
    assert answer.followups[0].ephemeral
    await world.eve.click(result.response.message, label="Cancel")
    await world.until(lambda: "cancelled" in texts(result.response.components)[0], "the moderator's cancellation")


async def test_buttons_work_after_a_restart(world: World) -> None:
    message = await draw(world, seed=3)
    await world.easel.drain(5.0)
    easel, patience = build_simulated(start(world.data_dir))
    patience.env = world.env
    await world.env.restart_bot(easel.client)
    try:
        again = await world.drawn(await world.bob.click(message.message, label="Again"))
        assert again.id != message.id
        info = await world.bob.click(message.message, label="Info")
        assert BEACH in "\n".join(texts(info.response.components))
    finally:
        patience.env = None
        await easel.drain(5.0)


async def test_a_button_of_a_request_no_longer_kept_says_so(world: World) -> None:
    message = await draw(world)
    job = await world.easel.service.get(job_id_of(message))
    await world.easel.service.delete(job.id, Actor(world.ada.id))
    answer = await world.bob.click(message.message, label="Again")
    assert answer.ephemeral
    assert "no longer kept" in answer.response.content


async def test_private_request_is_closed_to_others_even_with_its_button_id(world: World) -> None:
    message = await draw(world, private=True)
    answer = await world.ada.click(message.message, label="Info")
    assert BEACH in "\n".join(texts(answer.response.components))
    with pytest.raises(simcord.SetupError):  # nobody else even sees the message
        await world.bob.click(message.message, label="Info")
