"""`/info` and *Image info*: parameters read back from files on the server's CDN; broken and huge ones get one sentence."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.loopback import Invocation, Upload
from tests.loopback.stage import PROMPT, Stage, shown

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOREIGN = "a castle in the mist\nNegative prompt: blurry\nSteps: 31, Sampler: Euler a, CFG scale: 6.5, Seed: 99, Size: 32x32, Model: someone"


def png(size: tuple[int, int] = (32, 32), parameters: str = "") -> bytes:
    chunks = PngInfo()
    if parameters:
        chunks.add_text("parameters", parameters)
    out = io.BytesIO()
    Image.new("RGB", size, "teal").save(out, "PNG", pnginfo=chunks)
    return out.getvalue()


def bomb() -> bytes:
    """A small file that says it has 60,000 × 60,000 pixels."""
    data = bytearray(png())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


async def info(stage: Stage, upload: Upload) -> Invocation:
    return await (await stage.person("bob").slash("imagine", "info", image=upload)).answered(timeout_s=20)


async def test_info_on_our_own_picture_reads_all_that_made_it(stage: Stage) -> None:
    message = await stage.draw("ada", seed=4242, steps=5)
    said = shown((await info(stage, Upload("download.png", message.attachments[0].data))).private_text)
    for part in (PROMPT, "**Seed** 4242", "**Steps** 5", "**Size** 128×128", "**Sampler** DDIM", "pocket"):
        assert part in said


async def test_info_on_another_programs_picture_reads_its_parameters(stage: Stage) -> None:
    said = shown((await info(stage, Upload("castle.png", png(parameters=FOREIGN)))).private_text)
    for part in ("a castle in the mist", "blurry", "31", "Euler a", "6.5", "99", "someone"):
        assert part in said


async def test_image_info_on_a_message_reads_its_first_picture(stage: Stage) -> None:
    message = await stage.draw("ada", seed=77, steps=4)
    asked = await (await stage.person("eve").context_menu(message, "Image info")).answered(timeout_s=20)
    assert PROMPT in asked.private_text
    assert "77" in asked.private_text


@pytest.mark.parametrize(
    ("upload", "words"),
    [
        pytest.param(Upload("plain.png", png()), "carries no parameters", id="nothing inside"),
        pytest.param(Upload("half.png", png((500, 500), FOREIGN)[:300]), "damaged or cut off", id="cut off"),
        pytest.param(Upload("words.png", b"these are words, not a picture"), "not a PNG, JPEG or WebP", id="words"),
        pytest.param(Upload("empty.png", b""), "empty", id="empty"),
        pytest.param(Upload("bomb.png", bomb()), "megapixels", id="bomb"),
        pytest.param(Upload("huge.png", png() + bytes(26 * 1024 * 1024)), "25 MiB", id="huge"),
        pytest.param(Upload("notes.txt", b"words"), "Attach a PNG, JPEG or WebP", id="text file"),
    ],
)
async def test_info_on_what_it_cannot_read_says_so_in_one_sentence(stage: Stage, upload: Upload, words: str) -> None:
    said = (await info(stage, upload)).private_text
    assert words in said
    assert "Something broke" not in said
    assert len(said) < 250


async def test_info_on_a_file_that_is_gone_says_so(stage: Stage) -> None:
    stage.discord.store = _forgetting(stage)  # type: ignore[method-assign]
    try:
        said = (await info(stage, Upload("gone.png", png()))).private_text
    finally:
        del stage.discord.store
    assert "no longer there" in said


def _forgetting(stage: Stage):  # type: ignore[no-untyped-def]
    keep = stage.discord.store

    def store(upload: Upload):  # type: ignore[no-untyped-def]
        file = keep(upload)
        del stage.discord.files[file.id]
        return file

    return store
