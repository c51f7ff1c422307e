"""The other commands, and what a page of them says."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bot.generation import PostedTo, RawPicture
from tests.simcord.conftest import World
from tests.support import labels, texts

BEACH = "a sunset over a beach"


async def test_help_explains_every_command(world: World) -> None:
    answer = await world.ada.slash(world.channel, "help")
    text = "\n".join(texts(answer.response.components))
    assert answer.ephemeral
    for name in world.ada.available_commands(world.channel):
        assert f"/{name}" in text or name == "help", name


async def test_models_lists_the_catalogue_and_marks_the_default(world: World) -> None:
    answer = await world.ada.slash(world.channel, "models")
    text = "\n".join(texts(answer.response.components))
    assert len(text) <= 4000
    for spec in world.easel.service.catalogue.models:
        assert f"`{spec.id}`" in text
    assert "`pocket` · the default here" in text


async def test_queue_shows_running_and_own_places_with_a_cancel_each(world: World) -> None:
    await world.bob.slash(world.channel, "imagine", prompt="bob's long one", steps=100, count=4)
    for n in range(2):
        await world.ada.slash(world.channel, "imagine", prompt=f"mine {n}", steps=100)
    answer = await world.ada.slash(world.channel, "queue")
    text = "\n".join(texts(answer.response.components))
    assert "bob's long one" in text
    assert "1st in line" in text
    assert "2nd in line" in text
    assert labels(answer.response.components) == ["Cancel", "Cancel"]
    await world.ada.slash(world.channel, "cancel", request="all")
    await world.bob.slash(world.channel, "cancel")
    await world.until(lambda: not world.easel.service.overview(world.bob.id).running, "the end of the drawing")


async def test_cancel_with_nothing_to_cancel_says_so(world: World) -> None:
    answer = await world.ada.slash(world.channel, "cancel")
    assert answer.ephemeral
    assert "nothing" in answer.response.content


async def test_cancel_of_another_members_request_is_refused(world: World) -> None:
    await world.bob.slash(world.channel, "imagine", prompt=BEACH, steps=100, count=4)
    await world.ada.slash(world.channel, "imagine", prompt=BEACH, steps=100)
    theirs = world.easel.service.overview(world.bob.id).running[0]
    answer = last_answer(await world.ada.slash(world.channel, "cancel", request=theirs.id))
    assert "a moderator" in answer.content
    for member in (world.ada, world.bob):
        await member.slash(world.channel, "cancel")
    await world.until(lambda: not world.easel.service.overview(world.bob.id).running, "the end of the drawing")


async def test_history_empty_says_how_to_begin(world: World) -> None:
    answer = await world.ada.slash(world.channel, "history")
    assert "/imagine" in last_answer(answer).content


async def test_history_pages_through_own_requests_and_shows_one_again(world: World) -> None:
    for n in range(6):
        await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=f"picture {n}", steps=1))
    await world.drawn(await world.bob.slash(world.channel, "imagine", prompt="bob's", steps=1))
    first = last_answer(await world.ada.slash(world.channel, "history"))
    text = "\n".join(texts(first.components))
    assert "picture 5" in text
    assert "picture 0" not in text
    assert "bob's" not in text
    older = last_answer(await world.ada.click(first.message, label="Older"))
    assert "picture 0" in "\n".join(texts(older.components))
    newest = (await world.easel.service.history(world.ada.id, limit=1, before=None))[0]
    shown = last_answer(await world.ada.select(first.message, [newest.id], custom_id="easel:v1:show"))
    assert shown.ephemeral
    assert [a.filename for a in shown.attachments] == [newest.files[0].file_name]


def last_answer(result: Any) -> Any:
    return result.followups[-1] if result.followups else result.response


def png(**chunks: str) -> bytes:
    info = PngInfo()
    for key, value in chunks.items():
        info.add_text(key, value)
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, "PNG", pnginfo=info)
    return out.getvalue()


async def test_info_reads_another_programs_parameters(world: World) -> None:
    text = "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 64x64, Model: other"
    answer = last_answer(await world.ada.slash(world.channel, "info", image=("cat.png", png(parameters=text))))
    shown = "\n".join(texts(answer.components))
    for part in ("a cat", "dog", "Euler a", "5", "other"):
        assert part in shown


async def test_info_reads_our_own_picture_back(world: World) -> None:
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=BEACH, steps=2, seed=8))
    data = await world.easel.client.http.get_from_cdn(message.attachments[0].url)
    answer = last_answer(await world.ada.slash(world.channel, "info", image=("x.png", data)))
    shown = "\n".join(texts(answer.components))
    assert BEACH in shown
    assert "8" in shown
    by_menu = last_answer(await world.bob.context_menu(world.channel, "Image info", message.message))
    assert BEACH in "\n".join(texts(by_menu.components))


async def test_info_draw_this_fills_a_form_that_draws_the_same_again(world: World) -> None:
    text = (
        "a_red *star*, on \\(blue\\)\nNegative prompt: fog\nSteps: 3, Sampler: Euler a, CFG scale: 2.5, Seed: 5, "
        "Size: 144x96, Model: Pocket"
    )
    answer = last_answer(await world.ada.slash(world.channel, "info", image=("cat.png", png(parameters=text))))
    form = await world.ada.click(answer.message, label="Draw this")
    shown = str(form.modal)
    for part in (
        "a_red *star*",
        "fog",
        "steps: 3",
        "guidance: 2.5",
        "seed: 5",
        "sampler: Euler a",
        "width: 144",
        "height: 96",
    ):
        assert part in shown
    more = "steps: 3\nguidance: 2.5\nseed: 5\nsampler: Euler a\nwidth: 144\nheight: 96"
    values = {"prompt": "a star", "negative_prompt": "fog", "model": ["pocket"], "aspect": ["keep"], "more": more}
    message = await world.drawn(await world.ada.submit_modal(form, values))
    (job,) = await world.easel.service.history(world.ada.id, limit=5)
    request = job.request
    assert (request.width, request.height, request.sampler, request.seed) == (144, 96, "Euler a", 5)
    assert message.attachments


async def test_info_of_our_own_picture_whose_request_is_gone_fills_the_form_from_its_file(world: World) -> None:
    asked: dict[str, Any] = {"style": "neon", "lora": "chalk:0.5", "tiling": True, "quality": "draft", "steps": 2}
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=BEACH, seed=8, **asked))
    data = await world.easel.client.http.get_from_cdn(message.attachments[0].url)
    await world.ada.click(message.message, label="Delete")
    answer = last_answer(await world.ada.slash(world.channel, "info", image=("x.png", data)))
    shown = str((await world.ada.click(answer.message, label="Draw this")).modal)
    for line in ("seed: 8", "style: neon", "lora: chalk:0.5", "tiling: yes", "quality: draft", "width: 128"):
        assert line in shown


async def test_info_of_a_picture_drawn_from_another_offers_no_form_of_words(world: World) -> None:
    asked: dict[str, Any] = {"prompt": BEACH, "steps": 2, "image": ("red.png", png())}
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", **asked))
    data = await world.easel.client.http.get_from_cdn(message.attachments[0].url)
    await world.ada.click(message.message, label="Delete")
    answer = last_answer(await world.ada.slash(world.channel, "info", image=("x.png", data)))
    assert labels(answer.components) == []


async def test_info_of_a_kept_request_opens_its_own_form_and_of_a_strangers_private_one_does_not(world: World) -> None:
    asked: dict[str, Any] = {"prompt": BEACH, "steps": 2, "seed": 8, "private": True}
    await world.drawn(await world.ada.slash(world.channel, "imagine", **asked))
    (job,) = await world.easel.service.history(world.ada.id, limit=5)
    data = await world.easel.service.read_picture(job.files[0])
    own = last_answer(await world.ada.slash(world.channel, "info", image=("x.png", data)))
    assert labels(own.components) == ["Edit"]
    form = await world.ada.click(own.message, label="Edit")
    assert "seed: 8" in str(form.modal)
    others = last_answer(await world.bob.slash(world.channel, "info", image=("x.png", data)))
    assert labels(others.components) == ["Draw this"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("broken.png", png()[:60]),
        ("text.png", b"hello"),
        ("notes.txt", b"hello"),
        ("fake.png", b"\xff\xd8\xff" + b"0" * 500),
    ],
    ids=["truncated", "no picture", "another kind", "mislabelled"],
)
async def test_info_bad_file_gets_one_sentence(world: World, name: str, data: bytes) -> None:
    answer = last_answer(await world.ada.slash(world.channel, "info", image=(name, data)))
    assert answer.ephemeral
    assert 10 < len(answer.content) < 300


async def test_info_picture_without_parameters_says_so(world: World) -> None:
    answer = last_answer(await world.ada.slash(world.channel, "info", image=("plain.png", png())))
    assert "carries no parameters" in "\n".join(texts(answer.components))


class Scores:
    """A classifier with a fixed score, at the published threshold."""

    threshold = 0.5

    def __init__(self, score: float | None) -> None:
        self._score = score

    def score(self, picture: RawPicture) -> float:
        if self._score is None:
            raise RuntimeError("no session")
        return self._score


@pytest.mark.parametrize("classifier", [Scores(0.9), Scores(None)], ids=["flagged", "failing"])
async def test_flagged_picture_is_withheld_where_the_channel_is_not_age_restricted(
    world: World, classifier: Any
) -> None:
    result = await world.ada.slash(world.channel, "imagine", prompt=BEACH, steps=1)
    await world.until(lambda: result.response and "adult" in texts(result.response.components)[0], "the notice")
    assert not result.response.attachments
    job = (await world.easel.service.history(world.ada.id, limit=1, before=None))[0]
    assert job.posted_to is PostedTo.WITHHELD
