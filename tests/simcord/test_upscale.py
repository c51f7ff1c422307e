"""What a member does to make a picture larger: a button, a command, a message's menu, and what is refused."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image, ImageDraw

from tests.simcord.conftest import World
from tests.simcord.test_commands import last_answer
from tests.simcord.test_pictures import disc, job_of, png
from tests.support import labels, texts

BEACH = "a sunset over a beach"


async def fetched(world: World, message: Any) -> Image.Image:
    return Image.open(io.BytesIO(await world.easel.client.http.get_from_cdn(message.attachments[0].url)))


async def test_upscale_n_answers_with_the_picture_twice_as_large_and_what_is_stronger(world: World) -> None:
    asked: dict[str, Any] = {"prompt": BEACH, "count": 2, "steps": 2, "width": 96, "height": 64}
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", **asked))
    assert labels(message.components)[:2] == ["Upscale 1", "Upscale 2"]
    larger = await world.drawn(await world.bob.click(message.message, label="Upscale 2"))
    job = await job_of(world, larger)
    assert (job.origin.user_id, job.request.prompt, job.request.upscale) == (world.bob.id, BEACH, 2)
    assert labels(larger.components) == ["4×", "Detail", "Info", "Delete"]
    said = "\n".join(texts(larger.components))
    assert BEACH in said
    assert "upscaled 2× by pocket-4x · 192×128" in said
    image, source = await fetched(world, larger), (await job_of(world, message)).files[1]
    assert image.size == (192, 128)
    with Image.open(source.path) as small:
        apart = zip(
            image.convert("RGB").resize((96, 64), Image.Resampling.BOX).tobytes(),
            small.convert("RGB").tobytes(),
            strict=True,
        )
    assert sum(abs(one - other) for one, other in apart) / (96 * 64 * 3) < 8
    info = await world.ada.click(larger.message, label="Info")
    assert "**Upscaled** ×2\n**Drawn by** pocket" in "\n".join(texts(info.response.components))


async def test_upscale_stronger_is_of_the_same_picture(world: World) -> None:
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=BEACH, steps=2))
    assert labels(message.components) == ["Upscale", "Vary", "Vary region", "Again", "Edit", "Info", "Delete"]
    larger = await world.drawn(await world.ada.click(message.message, label="Upscale"))
    four = await world.drawn(await world.ada.click(larger.message, label="4×"))
    assert (await fetched(world, four)).size == (512, 512)
    assert labels(four.components) == ["Detail", "Info", "Delete"]
    detailed = await world.drawn(await world.ada.click(larger.message, label="Detail"))
    assert labels(detailed.components) == ["4×", "Again", "Info", "Delete"]
    assert "upscaled 2×, details by Pocket" in "\n".join(texts(detailed.components))
    request = (await job_of(world, detailed)).request
    assert (request.model, request.prompt, request.upscale_mode) == ("pocket", BEACH, "detail")
    again = await world.drawn(await world.bob.click(detailed.message, label="Again"))
    assert (await job_of(world, again)).request.seed != request.seed
    images = {(await job_of(world, shown)).request.image for shown in (larger, four, detailed, again)}
    assert len(images) == 1


async def test_upscale_command_takes_any_picture_with_its_own_words(world: World) -> None:
    drawn = await world.drawn(
        await world.ada.slash(world.channel, "imagine", prompt=BEACH, steps=1, width=64, height=64)
    )
    data = await world.easel.client.http.get_from_cdn(drawn.attachments[0].url)
    asked: dict[str, Any] = {"image": ("mine.png", data), "factor": 4, "mode": "detail"}
    larger = await world.drawn(await world.bob.slash(world.channel, "upscale", **asked))
    request = (await job_of(world, larger)).request
    assert (request.prompt, request.model, request.width) == (BEACH, "pocket", 256)
    plain = await world.drawn(
        await world.bob.slash(world.channel, "upscale", image=("SPOILER_disc.png", disc(75, 50)), private=True)
    )
    request = (await job_of(world, plain)).request
    assert (request.prompt, request.private, request.spoiler, request.width) == ("Upscaled picture", True, True, 150)
    assert plain.ephemeral
    pressed = last_answer(
        await world.bob.slash(
            world.channel,
            "info",
            image=("x.png", await world.easel.client.http.get_from_cdn(larger.attachments[0].url)),
        )
    )
    assert "**Upscaled** ×4, details redrawn at strength 0.3" in "\n".join(texts(pressed.components))


async def test_upscale_of_a_message_takes_its_picture(world: World) -> None:
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=BEACH, steps=1))
    larger = await world.drawn(await world.bob.context_menu(world.channel, "Upscale", message.message))
    job = await job_of(world, larger)
    assert (job.request.prompt, job.request.width, job.origin.user_id) == (BEACH, 256, world.bob.id)


async def test_upscale_of_a_picture_of_a_list_has_its_own_words(world: World) -> None:
    prompts = ("prompts.txt", b"a red circle\na blue star")
    message = await world.drawn(await world.ada.slash(world.channel, "batch", file=prompts, steps=1))
    larger = await world.drawn(await world.bob.click(message.message, label="Upscale 2"))
    request = (await job_of(world, larger)).request
    assert (request.prompt, request.upscale, request.variants) == ("a blue star", 2, ())


async def test_upscale_of_a_private_picture_is_its_members_alone_and_stays_private(world: World) -> None:
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=BEACH, steps=1, private=True))
    larger = await world.drawn(await world.ada.click(message.message, label="Upscale"))
    assert larger.ephemeral
    assert (await job_of(world, larger)).request.private


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": ("a.txt", b"words")}, "Attach a PNG, JPEG or WebP picture"),
        ({"image": ("a.png", b"words")}, "not a PNG, JPEG or WebP"),
        ({"image": ("a.png", disc(2049, 200))}, "at most 2048 px a side are enlarged"),
        ({"image": ("a.png", disc(1100, 200)), "factor": 4}, "would be 4400×800"),
    ],
    ids=["another kind", "no picture", "too large", "too large a result"],
)
async def test_upscale_that_will_not_do_gets_one_private_sentence(
    world: World, options: dict[str, Any], words: str
) -> None:
    answer = last_answer(await world.ada.slash(world.channel, "upscale", **options))
    assert answer.ephemeral
    assert words in answer.content
    assert len(answer.content) < 250
    assert await world.easel.service.history(world.ada.id, limit=5) == ()


async def test_upscale_too_large_for_the_channel_is_shown_as_jpeg_and_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.effect_noise((500, 500), 90).convert("RGB")
    ImageDraw.Draw(image).ellipse((90, 50, 190, 150), fill="red")
    monkeypatch.setattr("bot.ui.messenger.Messenger.limits", _small_limits)
    larger = await world.drawn(await world.ada.slash(world.channel, "upscale", image=("noise.png", png(image))))
    assert larger.attachments[0].filename.endswith(".jpg")
    assert "shown as JPEG" in "\n".join(texts(larger.components))


def _small_limits(self: Any, job: Any) -> Any:
    from bot.ui.parcels import Limits

    return Limits(600_000)
