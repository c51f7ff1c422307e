"""What a member does with `/imagine`, from the wait to the result."""

from __future__ import annotations

import io
import shutil
from typing import Any

import pytest
from PIL import Image

from bot.provenance import read_info
from tests.simcord.conftest import World
from tests.support import labels, texts

BEACH = "a sunset over a beach"


async def data_of(world: World, attachment: Any) -> bytes:
    return await world.easel.client.http.get_from_cdn(attachment.url)


async def test_imagine_prompt_alone_gives_one_picture_with_its_parameters(world: World) -> None:
    result = await world.ada.slash(world.channel, "imagine", prompt=BEACH, seed=7)
    assert result.acknowledged
    message = await world.drawn(result)
    assert [a.filename for a in message.attachments] == [message.attachments[0].filename]
    assert message.attachments[0].filename.endswith("-1.png")
    image = Image.open(io.BytesIO(await data_of(world, message.attachments[0])))
    info = read_info({k: v for k, v in image.info.items() if isinstance(v, str)}, image.size)
    assert info is not None
    assert (info.prompt, info.seed, info.model) == (BEACH, 7, "pocket")
    assert labels(message.components) == ["Upscale", "Vary", "Vary region", "Again", "Edit", "Info", "Delete"]


async def test_imagine_count_gives_that_many_files_in_one_message(world: World) -> None:
    result = await world.ada.slash(world.channel, "imagine", prompt=BEACH, count=4, steps=4)
    message = await world.drawn(result)
    assert [a.filename[-6:] for a in message.attachments] == ["-1.png", "-2.png", "-3.png", "-4.png"]
    job = (await world.easel.service.history(world.ada.id, limit=1, before=None))[0]
    assert [file.seed for file in job.files] == [job.request.seed + n for n in range(4)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": "   "}, "prompt"),
        ({"prompt": "x", "width": 100}, "8"),
        ({"prompt": "x", "width": 2048}, "256"),
        ({"prompt": "x", "model": "nonsuch"}, "nonsuch"),
        ({"prompt": "x", "sampler": "Eulr"}, "Euler"),
        ({"prompt": "x", "steps": 150}, "100"),
        ({"prompt": "naked child"}, "not"),
    ],
    ids=["blank", "multiple", "too large", "model", "sampler", "steps", "minors"],
)
async def test_imagine_bad_input_is_refused_privately_in_one_sentence(world: World, options: dict, words: str) -> None:
    result = await world.ada.slash(world.channel, "imagine", **options)
    assert result.ephemeral
    assert words in result.response.content
    assert world.easel.service.overview(world.ada.id).waiting == 0


async def test_imagine_without_disk_space_is_refused_privately_and_keeps_what_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=BEACH, steps=1))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 0))
    refused = await world.ada.slash(world.channel, "imagine", prompt=BEACH)
    assert refused.ephemeral
    assert "disk" in refused.response.content
    assert [job.message_id for job in await world.easel.service.history(world.ada.id, limit=5)] == [before.id]


async def test_imagine_private_is_seen_by_its_member_alone(world: World) -> None:
    result = await world.ada.slash(world.channel, "imagine", prompt=BEACH, steps=2, private=True)
    message = await world.drawn(result)
    assert message.ephemeral


async def test_imagine_markup_in_a_prompt_is_inert(world: World) -> None:
    result = await world.ada.slash(world.channel, "imagine", prompt="@everyone **loud** `code`", steps=1)
    message = await world.drawn(result)
    title = texts(message.components)[0]
    assert "@everyone" not in title
    assert "\\*\\*loud" in title


async def test_imagine_same_seed_gives_the_same_bytes_of_picture(world: World) -> None:
    pixels = []
    for _ in range(2):
        message = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=BEACH, seed=5, steps=4))
        pixels.append(Image.open(io.BytesIO(await data_of(world, message.attachments[0]))).tobytes())
    assert pixels[0] == pixels[1]


async def test_imagine_several_members_at_once_all_get_theirs(world: World) -> None:
    results = [
        await member.slash(world.channel, "imagine", prompt=f"{BEACH} {n}", steps=2)
        for n in range(2)
        for member in (world.ada, world.bob, world.eve)
    ]
    messages = [await world.drawn(result) for result in results]
    assert len({message.id for message in messages}) == 6


async def test_imagine_short_request_is_done_while_a_long_one_is_drawn(world: World) -> None:
    long = await world.ada.slash(world.channel, "imagine", prompt=BEACH, steps=100, count=3, width=256, height=256)
    await world.until(lambda: "step " in texts(long.response.components)[0], "the long one's first steps")
    await world.drawn(await world.bob.slash(world.channel, "imagine", prompt=BEACH, steps=2))
    assert world.shows_pictures(long) is None
    await world.ada.slash(world.channel, "cancel")
    await world.until(lambda: not world.easel.service.overview(world.ada.id).running, "the end of the drawing")


async def test_imagine_works_in_threads_forum_posts_and_direct_messages(world: World) -> None:
    backend = world.env.backend
    forum = world.guild.create_forum_channel("gallery")
    messages = []
    for parent in (world.channel, forum):
        backend.create_thread(parent.id, "ideas", owner_id=world.ada.id)
        messages.append(await world.drawn(await world.ada.slash(parent.threads[0], "imagine", prompt=BEACH, steps=1)))
    zoe = world.env.create_user("zoe")
    messages.append(await world.drawn(await zoe.slash("imagine", prompt=BEACH, steps=1)))
    assert len({message.channel_id for message in messages} - {world.channel.id}) == 3


async def test_imagine_autocomplete_offers_models_and_their_samplers(world: World) -> None:
    models = await world.ada.autocomplete(world.channel, "imagine", "model", "poc")
    assert [choice["value"] for choice in models] == ["pocket"]
    samplers = await world.ada.autocomplete(world.channel, "imagine", "sampler", "")
    assert "DDIM" in [choice["value"] for choice in samplers]
