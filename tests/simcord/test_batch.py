"""What a member does with many prompts: `/batch` by form and by file, the message that fills, the archive at its end."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import pytest
from PIL import Image

from bot.generation import JobStatus
from bot.provenance import EASEL_KEY, parse_easel
from tests.simcord.conftest import World
from tests.simcord.test_commands import last_answer
from tests.support import labels, texts

THREE = ["a red circle", "a blue star", "a green hill"]


def listed(*prompts: str, ending: str = "\n") -> tuple[str, bytes]:
    return "prompts.txt", ending.join(prompts).encode()


async def data_of(world: World, attachment: Any) -> bytes:
    return await world.easel.client.http.get_from_cdn(attachment.url)


async def job_of(world: World, message: Any) -> Any:
    return await world.easel.service.get(message.attachments[0].filename.split("-")[1])


async def test_batch_file_gives_a_picture_a_line_and_all_of_them_as_one_archive(world: World) -> None:
    name, data = listed(THREE[0], "", *THREE[1:], "", ending="\r\n")
    file = (name, b"\xef\xbb\xbf" + data)
    message = await world.drawn(await world.ada.slash(world.channel, "batch", file=file, steps=2, seed=40))
    pictures = [a for a in message.attachments if a.filename.endswith(".png")]
    assert [a.filename[-6:] for a in pictures] == ["-1.png", "-2.png", "-3.png"]
    job = await job_of(world, message)
    assert [job.request.alone(n).prompt for n in range(3)] == THREE
    assert texts(message.components)[0] == f"**3 prompts: {THREE[0]}**"
    archive = next(a for a in message.attachments if a.filename == f"easel-{job.id}.zip")
    with zipfile.ZipFile(io.BytesIO(await data_of(world, archive))) as found:
        assert found.namelist() == ["0001.png", "0002.png", "0003.png"]
        for n, picture in enumerate(pictures):
            packed = found.read(f"000{n + 1}.png")
            assert packed == await data_of(world, picture)
            record = parse_easel(Image.open(io.BytesIO(packed)).info[EASEL_KEY])
            assert record is not None
            assert record.alone == job.request.alone(n)
            assert (record.alone.prompt, record.alone.seed) == (THREE[n], 40 + n)
    assert labels(message.components)[-4:] == ["Again", "Edit", "Info", "Delete"]


async def test_batch_without_a_file_opens_a_form_filled_with_what_was_given(world: World) -> None:
    shown = await world.ada.slash(world.channel, "batch", steps=2, aspect="3:2")
    values = {"prompts": "\n".join(THREE[:2]), "model": ["pocket"], "aspect": ["3:2"], "more": "steps: 2\nseed: 7"}
    job = await job_of(world, await world.drawn(await world.ada.submit_modal(shown, values)))
    assert [job.request.alone(n).prompt for n in range(2)] == THREE[:2]
    assert (job.request.num_inference_steps, job.request.seed, job.request.width) == (2, 7, 144)


async def test_batch_edit_again_info_and_history_know_the_list(world: World) -> None:
    message = await world.drawn(await world.ada.slash(world.channel, "batch", file=listed(*THREE), steps=1))
    again = await job_of(world, await world.drawn(await world.bob.click(message.message, label="Again")))
    assert [again.request.alone(n).prompt for n in range(3)] == THREE
    assert again.request.seed != (await job_of(world, message)).request.seed
    shown = await world.bob.click(message.message, label="Edit")
    values = {"prompts": "one\ntwo", "model": ["pocket"], "aspect": ["keep"], "more": "steps: 1"}
    edited = await job_of(world, await world.drawn(await world.bob.submit_modal(shown, values)))
    assert [edited.request.alone(n).prompt for n in range(2)] == ["one", "two"]
    info = await world.bob.click(message.message, label="Info")
    assert "2. a blue star" in "\n".join(texts(info.response.components))
    pages = last_answer(await world.ada.slash(world.channel, "history"))
    assert "3 prompts: a red circle" in "\n".join(texts(pages.components))
    again_shown = await world.ada.select(pages.message, [(await job_of(world, message)).id])
    assert any(a.filename.endswith(".zip") for a in last_answer(again_shown).attachments)


async def test_batch_message_fills_and_a_cancel_ends_it(world: World) -> None:
    asked = await world.ada.slash(world.channel, "batch", file=listed(*(f"a star {n}" for n in range(30))), steps=6)
    await world.until(
        lambda: any(a.filename == "preview.jpg" for a in asked.response.attachments), "the first finished pictures"
    )
    assert " of 30" in texts(asked.response.components)[0]
    await world.ada.click(asked.response.message, label="Cancel")
    await world.until(lambda: "cancelled" in texts(asked.response.components)[0], "the end")
    assert not asked.response.attachments


async def test_batch_leaves_room_for_others(world: World) -> None:
    long = await world.ada.slash(world.channel, "batch", file=listed(*(f"a star {n}" for n in range(40))), steps=8)
    await world.until(lambda: world.easel.service.overview(world.ada.id).running, "its beginning")
    await world.drawn(await world.bob.slash(world.channel, "imagine", prompt=THREE[0], steps=2))
    assert world.shows_pictures(long) is None
    await world.ada.slash(world.channel, "cancel")


async def test_batch_delete_takes_message_files_and_archive(world: World) -> None:
    message = await world.drawn(await world.ada.slash(world.channel, "batch", file=listed(*THREE), steps=1))
    await world.ada.click(message.message, label="Delete")
    assert not list((world.data_dir / "pictures").rglob("*.png"))
    assert await world.easel.service.history(world.ada.id, limit=5) == ()


async def test_batch_of_more_than_a_message_holds_takes_two(world: World) -> None:
    prompts = [f"a star {n}" for n in range(12)]
    message = await world.drawn(await world.ada.slash(world.channel, "batch", file=listed(*prompts), steps=1))
    job = await job_of(world, message)
    await world.until(lambda: len(world.channel.history()) >= 2, "the second message")
    names = [a.filename for m in world.channel.history() for a in m.attachments]
    assert len(names) == len(set(names)) == 13
    assert names.count(f"easel-{job.id}.zip") == 1
    job = await world.easel.service.get(job.id)
    assert job.status is JobStatus.POSTED


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (("a.png", b"x"), "Attach a .txt file"),
        (("a.txt", b"x" * 600_000), "larger than 512 KiB"),
        (("a.txt", b" \r\n\n"), "no prompts"),
        (("a.txt", b"\xff\xfea\x00"), "no UTF-8 text"),
        (listed(*"ab" * 26), "52 prompts; at most 50"),
        (listed("one", "", "x" * 1501), "Line 3: The prompt has 1,501 characters"),
        (listed("one", "t\0o"), "Line 2: The prompt has a control character"),
        (listed("one", "", "naked child"), "Line 3: Easel does not draw"),
    ],
    ids=["another kind", "large", "empty", "utf-16", "too many", "long line", "nul", "minors"],
)  # fmt: skip
async def test_batch_file_that_will_not_do_gets_one_private_sentence(world: World, file: Any, words: str) -> None:
    answer = last_answer(await world.ada.slash(world.channel, "batch", file=file))
    assert answer.ephemeral
    assert words in answer.content
    assert len(answer.content) < 250
    assert [m for m in world.channel.history() if not m.flags.ephemeral] == []


async def test_batch_form_that_is_refused_hands_the_prompts_back_as_a_file(world: World) -> None:
    shown = await world.ada.slash(world.channel, "batch")
    values = {"prompts": "one\nnaked child", "model": ["pocket"], "aspect": ["keep"], "more": ""}
    answer = last_answer(await world.ada.submit_modal(shown, values))
    assert answer.ephemeral
    assert "Line 2: Easel does not draw" in answer.content
    assert await data_of(world, answer.attachments[0]) == b"one\nnaked child"


async def test_batch_bad_option_is_refused_before_the_form(world: World) -> None:
    answer = await world.ada.slash(world.channel, "batch", model="nonsuch")
    assert answer.ephemeral
    assert "nonsuch" in answer.response.content
