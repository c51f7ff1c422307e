"""What a member does with a picture of their own: draw from it, redraw a part, follow its lines."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import pytest
from PIL import Image, ImageDraw

from bot.generation import GenerationOptions, JobStatus
from tests.simcord.conftest import World
from tests.simcord.test_commands import last_answer
from tests.support import labels, texts

STAR = "a blue star on a yellow background"
COLOURS = ("red", "green", "blue", "black", "white", "pink")


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def disc(width: int = 300, height: int = 200) -> bytes:
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).ellipse((90, 50, 190, 150), fill="red")
    return png(image)


def square() -> bytes:
    mask = Image.new("L", (300, 200))
    mask.paste(255, (70, 30, 210, 170))
    return png(mask)


async def job_of(world: World, message: Any) -> Any:
    return await world.easel.service.get(message.attachments[0].filename.split("-")[1])


async def test_imagine_image_is_drawn_from_in_its_shape_and_info_says_so(world: World) -> None:
    asked: dict[str, Any] = {"prompt": STAR, "image": ("disc.png", disc()), "strength": 0.5, "steps": 4, "seed": 5}
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", **asked))
    job = await job_of(world, message)
    assert (job.request.width, job.request.height, job.request.strength) == (160, 104, 0.5)
    answer = await world.bob.click(message.message, label="Info")
    assert "**From a picture** strength 0.5" in "\n".join(texts(answer.response.components))
    again = await world.drawn(await world.bob.click(message.message, label="Again"))
    repeated = (await job_of(world, again)).request
    assert (repeated.image, repeated.strength, repeated.width) == (job.request.image, 0.5, 160)


async def test_imagine_mask_redraws_its_part_alone(world: World) -> None:
    asked: dict[str, Any] = {"image": ("disc.png", disc()), "mask": ("mask.png", square()), "steps": 4}
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=STAR, **asked))
    data = await world.easel.client.http.get_from_cdn(message.attachments[0].url)
    drawn = Image.open(io.BytesIO(data)).convert("RGB")
    assert drawn.getpixel((5, 5)) == (255, 255, 255)
    assert drawn.getpixel((75, 50)) != (255, 0, 0)


async def test_imagine_control_follows_a_picture_and_edit_keeps_it(world: World) -> None:
    asked: dict[str, Any] = {
        "control": ("disc.png", disc(256, 256)),
        "control_type": "canny",
        "control_scale": 0.8,
        "steps": 2,
    }
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=STAR, **asked))
    shown = await world.ada.click(message.message, label="Edit")
    values = {"prompt": "a red star", "more": "control_scale: 0.4\nsteps: 2", "model": ["pocket"], "aspect": ["keep"]}
    request = (await job_of(world, await world.drawn(await world.ada.submit_modal(shown, values)))).request
    assert (request.control_type, request.control_scale, len(request.control)) == ("canny", 0.4, 64)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": ("a.txt", b"words")}, "Attach a PNG, JPEG or WebP picture"),
        ({"image": ("a.png", b"words")}, "not a PNG, JPEG or WebP"),
        ({"image": ("a.png", disc()[:200])}, "damaged or cut off"),
        ({"image": ("a.png", disc()), "strength": 0.0}, "Strength goes from just above 0"),
        ({"image": ("a.png", disc()), "mask": ("m.png", disc(200, 200))}, "send a mask of the picture's shape"),
        ({"mask": ("m.png", square())}, "add the picture, too"),
        ({"control": ("m.png", disc()), "control_type": "pose"}, "Pocket has no control network for pose"),
        ({"reference": ("m.png", disc())}, "Pocket has no IP-Adapter, which reads reference pictures"),
    ],
    ids=["another kind", "no picture", "truncated", "no strength", "another shape", "mask alone", "no network", "no adapter"],
)  # fmt: skip
async def test_imagine_picture_that_will_not_do_gets_one_private_sentence(
    world: World, options: dict[str, Any], words: str
) -> None:
    answer = last_answer(await world.ada.slash(world.channel, "imagine", prompt=STAR, **options))
    assert answer.ephemeral
    assert words in answer.content
    assert len(answer.content) < 250
    assert await world.easel.service.history(world.ada.id, limit=5) == ()


async def test_use_as_input_on_any_message_takes_its_picture_and_draws_from_it(world: World) -> None:
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=STAR, steps=2))
    taken = last_answer(await world.bob.context_menu(world.channel, "Use as input", message.message))
    assert taken.ephemeral
    shown = await world.bob.click(taken.message, label="Say what to draw")
    values = {"prompt": "a red star", "negative_prompt": "", "model": ["pocket"], "more": "strength: 0.7\nsteps: 5"}
    drawn = await world.drawn(await world.bob.submit_modal(shown, values))
    request = (await job_of(world, drawn)).request
    assert (request.prompt, request.strength, request.width) == ("a red star", 0.7, 128)


async def test_delete_takes_the_picture_along_unless_another_request_names_it(world: World) -> None:
    inputs = world.data_dir / "inputs"
    asked: dict[str, Any] = {"prompt": STAR, "image": ("disc.png", disc()), "steps": 2}
    first, second = [await world.drawn(await world.ada.slash(world.channel, "imagine", **asked)) for _ in range(2)]
    assert len(list(inputs.rglob("*.png"))) == 1
    await world.ada.click(first.message, label="Delete")
    assert len(list(inputs.rglob("*.png"))) == 1
    job = await job_of(world, second)
    assert job.status is JobStatus.POSTED
    await world.ada.click(second.message, label="Delete")
    assert not list(inputs.rglob("*.png"))


async def test_vary_draws_near_the_picture_and_its_result_offers_a_stronger_one(world: World) -> None:
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=STAR, steps=4, seed=5, count=2))
    assert labels(message.components)[2:4] == ["Vary 1", "Vary 2"]
    varied = await world.drawn(await world.bob.click(message.message, label="Vary 2"))
    request = (await job_of(world, varied)).request
    assert (request.base_seed, request.variation, request.count) == (6, 0.2, 2)
    assert labels(varied.components)[2:5] == ["Vary 1", "Vary 2", "Vary strong"]
    stronger = (
        await job_of(world, await world.drawn(await world.ada.click(varied.message, label="Vary strong")))
    ).request
    assert (stronger.base_seed, stronger.variation) == (6, 0.6)
    assert stronger.seed != request.seed
    answer = await world.bob.click(varied.message, label="Info")
    assert "**Variation** 0.2 away from seed 6" in "\n".join(texts(answer.response.components))


async def test_vary_reaches_every_picture_of_a_longer_list(world: World) -> None:
    prompts = ("prompts.txt", "\n".join(f"a {colour} star" for colour in COLOURS).encode())
    message = await world.drawn(await world.ada.slash(world.channel, "batch", file=prompts, steps=1))
    source = (await job_of(world, message)).request
    custom_id = f"easel:v1:varies:{(await job_of(world, message)).id}"
    varied = await world.drawn(await world.bob.select(message.message, ["5"], custom_id=custom_id))
    request = (await job_of(world, varied)).request
    assert (request.prompt, request.base_seed, request.count) == ("a pink star", source.seed + 5, 1)


async def test_vary_a_variation_draws_from_the_picture_itself(world: World) -> None:
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=STAR, steps=4, seed=5))
    varied = await world.drawn(await world.bob.click(message.message, label="Vary"))
    again = await world.drawn(await world.bob.click(varied.message, label="Vary"))
    request = (await job_of(world, again)).request
    assert (request.base_seed, request.strength, len(request.image)) == (None, 0.35, 64)
    assert "Vary strong" in labels(again.components)


async def test_imagine_style_wraps_the_prompt_and_the_card_shows_what_was_typed(world: World) -> None:
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=STAR, style="neon", steps=2))
    request = (await job_of(world, message)).request
    assert (request.prompt, request.style, request.told.prompt) == (
        STAR,
        "neon",
        f"{STAR}, neon lights, glowing at night",
    )
    answer = await world.bob.click(message.message, label="Info")
    assert "**Style** neon" in "\n".join(texts(answer.response.components))
    listed = await world.ada.slash(world.channel, "styles")
    assert "**Pixel art** `pixel-art`" in "\n".join(texts(listed.response.components))
    refused = await world.ada.slash(world.channel, "imagine", prompt=STAR, style="nean")
    assert "did you mean neon" in refused.response.content


async def test_expand_draws_around_a_picture_and_keeps_its_middle(world: World) -> None:
    asked: dict[str, Any] = {"image": ("disc.png", disc(200, 200)), "side": "left and right", "amount": 100, "steps": 4}
    del asked["steps"]
    message = await world.drawn(await world.ada.slash(world.channel, "expand", prompt=STAR, **asked))
    job = await job_of(world, message)
    assert job.request.width == pytest.approx(2 * job.request.height, abs=16)
    data = await world.easel.client.http.get_from_cdn(message.attachments[0].url)
    drawn = Image.open(io.BytesIO(data)).convert("RGB")
    middle = drawn.getpixel((int(drawn.width * (0.25 + 0.5 * 0.7)), drawn.height // 2))
    assert middle[0] > 200 > 100 > middle[2]  # type: ignore[index]  # the disc is still red
    edge = drawn.getpixel((2, drawn.height // 2))
    assert edge != (255, 255, 255)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"image": ("a.txt", b"x")}, "Attach a PNG"), ({"image": ("a.png", b"x")}, "not a PNG")],
    ids=["another kind", "no picture"],
)
async def test_expand_picture_that_will_not_do_gets_one_private_sentence(
    world: World, options: dict[str, Any], words: str
) -> None:
    answer = last_answer(await world.ada.slash(world.channel, "expand", prompt=STAR, **options))
    assert answer.ephemeral
    assert words in answer.content


async def test_imagine_choices_with_a_picture_are_made_by_the_seed_that_is_drawn_with(world: World) -> None:
    prompt = "a {red|green|blue|black|white|pink} star"
    asked: dict[str, Any] = {"prompt": prompt, "image": ("disc.png", disc()), "steps": 2, "count": 2}
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", **asked))
    request = (await job_of(world, message)).request
    same = world.easel.service.prepare(GenerationOptions(prompt, seed=request.seed, count=2))
    assert request.prompts == same.prompts


async def test_privacy_export_holds_the_pictures_a_member_drew_from_and_nobody_elses(world: World) -> None:
    asked: dict[str, Any] = {"image": ("disc.png", disc()), "mask": ("mask.png", square()), "steps": 2}
    mine = await job_of(world, await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=STAR, **asked)))
    other = {"image": ("other.png", disc(120, 120)), "steps": 2}
    theirs = await job_of(
        world, await world.drawn(await world.bob.slash(world.channel, "imagine", prompt=STAR, **other))
    )
    answer = last_answer(await world.ada.slash(world.channel, "privacy export"))
    assert "In `inputs`: 2 pictures you drew from." in answer.content
    (file,) = answer.attachments
    assert file.filename == "easel-my-data.zip"
    data = await world.easel.client.http.get_from_cdn(file.url)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        kept = json.loads(archive.read("easel-my-data.json"))
        names = archive.namelist()[1:]
        shown = Image.open(io.BytesIO(archive.read(f"inputs/{mine.request.image}.png"))).convert("RGB")
    assert sorted(names) == sorted(f"inputs/{digest}.png" for digest in (mine.request.image, mine.request.mask))
    assert kept["requests"][0]["drawn_from"] == list(mine.request.inputs)
    assert not any(theirs.request.image in name for name in names)
    assert (shown.size, shown.getpixel((140, 100))) == ((300, 200), (255, 0, 0))
