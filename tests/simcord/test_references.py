"""What a member does with a reference picture, where the model has an IP-Adapter: this one is made by chance."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bot.app import Machine
from bot.provenance import parse_easel
from tests.simcord.conftest import World, start
from tests.simcord.test_commands import last_answer
from tests.simcord.test_pictures import disc, job_of, square
from tests.support import texts
from tests.unit.engine.ip_adapters import pocket_with_one
from tests.unit.files.test_decode import animated, chunk, png_header

STAR = "a blue star on a yellow background"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine whose built-in model reads reference pictures."""
    files = tmp_path / "models"
    files.mkdir()
    started = start(tmp_path, EASEL_MODELS_FILE=str(pocket_with_one(files)))
    yield started
    started.gpu.stop(timeout_s=10)


async def picture_of(world: World, message: Any) -> Image.Image:
    data = await world.easel.client.http.get_from_cdn(message.attachments[0].url)
    return Image.open(io.BytesIO(data))


async def test_imagine_reference_is_drawn_with_and_stays_with_info_again_edit_and_the_file(world: World) -> None:
    asked: dict[str, Any] = {"prompt": STAR, "steps": 4, "seed": 5}
    plain = await world.drawn(await world.ada.slash(world.channel, "imagine", **asked))
    asked["reference"] = ("disc.png", disc())
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", **asked))
    request = (await job_of(world, message)).request
    assert (len(request.reference), request.reference_scale, request.width, request.height) == (64, 0.6, 128, 128)
    with await picture_of(world, message) as picture, await picture_of(world, plain) as without:
        assert picture.convert("RGB").tobytes() != without.convert("RGB").tobytes()
        record = parse_easel(picture.info["easel"])
        assert "Reference scale: 0.6" in picture.info["parameters"]
    assert record is not None
    assert (record.request.reference, record.request.reference_scale) == (request.reference, 0.6)
    answer = await world.bob.click(message.message, label="Info")
    assert "**Reference** a picture, scale 0.6" in "\n".join(texts(answer.response.components))
    again = await world.drawn(await world.bob.click(message.message, label="Again"))
    assert (await job_of(world, again)).request.reference == request.reference
    shown = await world.ada.click(message.message, label="Edit")
    values = {"prompt": "a red star", "more": "steps: 2", "model": ["pocket"], "aspect": ["keep"]}
    edited = (await job_of(world, await world.drawn(await world.ada.submit_modal(shown, values)))).request
    assert (edited.prompt, edited.reference) == ("a red star", request.reference)


async def test_imagine_reference_beside_a_picture_and_a_mask_leaves_what_is_outside(world: World) -> None:
    pictures = {"image": ("a.png", disc()), "mask": ("m.png", square()), "reference": ("r.png", disc(64, 64))}
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=STAR, steps=4, **pictures))
    request = (await job_of(world, message)).request
    assert len(request.inputs) == 3
    with await picture_of(world, message) as picture:
        assert picture.convert("RGB").getpixel((5, 5)) == (255, 255, 255)


async def test_delete_takes_the_reference_along(world: World) -> None:
    asked: dict[str, Any] = {"reference": ("disc.png", disc()), "steps": 2}
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=STAR, **asked))
    assert len(list((world.data_dir / "inputs").rglob("*.png"))) == 1
    assert await world.easel.service._store.inputs() == {(await job_of(world, message)).request.reference}
    await world.ada.click(message.message, label="Delete")
    assert not list((world.data_dir / "inputs").rglob("*.png"))


async def test_models_says_which_reads_reference_pictures(world: World) -> None:
    answer = await world.ada.slash(world.channel, "models")
    assert "· reference pictures" in "\n".join(texts(answer.response.components))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (("a.txt", b"words"), "Attach a PNG, JPEG or WebP picture"),
        (("a.png", disc()[:200]), "damaged or cut off"),
        (("a.png", animated("PNG")), "That picture is animated"),
        (("a.png", png_header(30_000, 30_000, chunk(b"IDAT", zlib.compress(bytes(1000))))), "more than 40 megapixels"),
    ],
    ids=["another kind", "truncated", "animated", "bomb"],
)
async def test_imagine_reference_that_will_not_do_gets_one_private_sentence(
    world: World, file: tuple[str, bytes], words: str
) -> None:
    answer = last_answer(await world.ada.slash(world.channel, "imagine", prompt=STAR, reference=file))
    assert answer.ephemeral
    assert words in answer.content
    assert len(answer.content) < 250
    assert await world.easel.service.history(world.ada.id, limit=5) == ()
