"""Strangers' pictures: read in a process apart, refused with a sentence, never with anything else."""

from __future__ import annotations

import json
import random
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin
from PIL.PngImagePlugin import PngInfo

from bot.errors import AttachmentRefused
from bot.files import decode, decode_worker
from bot.files.decode import read_picture_info

TEXT = "a fox\nNegative prompt: fog\nSteps: 9, Sampler: Euler a, CFG scale: 7, Seed: 3, Size: 64x48, Model: Dreamy"


def still(side: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.frombytes("RGB", side, random.Random(1).randbytes(side[0] * side[1] * 3))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(text: str = TEXT, image: Image.Image | None = None) -> bytes:
    info = PngInfo()
    info.add_text("parameters", text)
    return saved(image or still(), "PNG", pnginfo=info)


def exif(comment: bytes) -> bytes:
    made = Image.Exif()
    made[0x8769] = {0x9286: comment}
    return made.tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int, after: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + after


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (32, 32), (shade, 0, 0)) for shade in (0, 128, 255)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def zip_of(name: str, body: bytes) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, body)
    return buffer.getvalue()


SOUND: dict[str, Callable[[], bytes]] = {
    "png": png,
    "png and zip": lambda: png() + zip_of("run.sh", b"echo hello"),
    "png palette": lambda: png(image=still().quantize(16)),
    "jpeg utf-16 be": lambda: saved(still(), "JPEG", exif=exif(b"UNICODE\0" + TEXT.encode("utf-16-be"))),
    "jpeg utf-16 le": lambda: saved(still(), "JPEG", exif=exif(b"UNICODE\0" + TEXT.encode("utf-16-le"))),
    "jpeg ascii": lambda: saved(still(), "JPEG", exif=exif(b"ASCII\0\0\0" + TEXT.encode())),
    "jpeg comment": lambda: saved(still(), "JPEG", comment=TEXT),
    "webp": lambda: saved(still(), "WEBP", exif=exif(b"UNICODE\0" + TEXT.encode("utf-16-be"))),
}


@pytest.mark.parametrize("make", SOUND.values(), ids=SOUND.keys())
def test_read_picture_info_of_a_sound_picture_finds_its_text(make: Callable[[], bytes]) -> None:
    info = read_picture_info(make())
    assert info is not None
    assert (info.prompt, info.negative_prompt, info.steps, info.seed) == ("a fox", "fog", 9, 3)
    assert (info.width, info.height, info.model) == (64, 48, "Dreamy")


@pytest.mark.parametrize("prompt", ["ein Fuß", "きつね 🦊"], ids=["utf-8 in tEXt", "iTXt"])
def test_read_picture_info_reads_other_alphabets(prompt: str) -> None:
    text = TEXT.replace("a fox", prompt)
    info = PngInfo()
    if prompt.isascii() or "ß" in prompt:
        info.add(b"tEXt", b"parameters\0" + text.encode("utf-8"))
    else:
        info.add_itxt("parameters", text)
    found = read_picture_info(saved(still(), "PNG", pnginfo=info))
    assert found is not None
    assert found.prompt == prompt


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_read_picture_info_without_texts_is_none(kind: str) -> None:
    assert read_picture_info(saved(still(), kind)) is None


def test_read_picture_info_of_a_comfyui_graph_names_its_source() -> None:
    graph = {"3": {"class_type": "KSampler", "inputs": {"seed": 4, "steps": 8, "positive": ["6", 0]}},
             "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox"}}}  # fmt: skip
    info = PngInfo()
    info.add_text("prompt", json.dumps(graph))
    found = read_picture_info(saved(still(), "PNG", pnginfo=info))
    assert found is not None
    assert (found.source, found.prompt, found.seed, found.width) == ("comfyui", "a fox", 4, 64)


def webp_bomb() -> bytes:
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + (16382).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", len(body)) + body + bytes(64)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty"),
    "words": (lambda: b"hello, I am a picture", "not a PNG, JPEG or WebP"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG, JPEG or WebP"),
    "zip": (lambda: zip_of("a.png", png()), "not a PNG, JPEG or WebP"),
    "gif": (lambda: saved(still(), "GIF"), "not a PNG, JPEG or WebP"),
    "bmp": (lambda: saved(still(), "BMP"), "not a PNG, JPEG or WebP"),
    "tiff": (lambda: saved(still(), "TIFF"), "not a PNG, JPEG or WebP"),
    "eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a PNG, JPEG or WebP"),
    "animated gif": (lambda: animated("GIF"), "not a PNG, JPEG or WebP"),
    "animated webp": (lambda: animated("WEBP"), "animated"),
    "animated png": (lambda: animated("PNG"), "animated"),
    "cut png": (lambda: png()[:4000], "damaged"),
    "cut jpeg": (lambda: saved(still(), "JPEG")[:900], "damaged"),
    "cut webp": (lambda: saved(still(), "WEBP")[:900], "damaged"),
    "png signature alone": (lambda: b"\x89PNG\r\n\x1a\n", "damaged"),
    "png that says webp": (lambda: b"\x89PNG\r\n\x1a\n" + saved(still(), "WEBP"), "damaged"),
    "header bomb": (lambda: png_header(20_000, 20_000, chunk(b"IDAT", zlib.compress(bytes(100_000)))), "40 megapixels"),
    "largest header": (lambda: png_header(2**31 - 1, 2**31 - 1, chunk(b"IDAT", b"")), "megapixels"),
    "webp bomb": (webp_bomb, "40 megapixels"),
    "text bomb": (
        lambda: png_header(8, 8, chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(200_000_000), 9))), "damaged",
    ),
    "too many bytes": (lambda: bytes(25 * 1024 * 1024 + 1), "larger than 25 MiB"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_read_picture_info_of_an_unsound_file_is_refused_in_a_sentence(
    make: Callable[[], bytes], sentence: str
) -> None:
    data = make()
    start = time.perf_counter()
    with pytest.raises(AttachmentRefused, match=sentence):
        read_picture_info(data)
    assert time.perf_counter() - start < decode.TIMEOUT_S


def test_read_picture_info_of_a_large_sound_picture_works() -> None:
    info = read_picture_info(png(image=Image.new("L", (8000, 5000), 90)))
    assert info is not None
    assert info.seed == 3


def test_read_picture_info_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "TIMEOUT_S", 0.001)
    with pytest.raises(AttachmentRefused, match="too long"):
        read_picture_info(png())


def test_read_picture_info_when_the_reader_dies_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import os\nos.abort()\n")
    monkeypatch.setattr(decode, "WORKER", worker)
    with pytest.raises(AttachmentRefused, match="damaged"):
        read_picture_info(png())


def test_read_picture_info_keeps_secrets_from_the_reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, os\n"
        "texts = {'parameters': 'x\\nSteps: 1, Model: ' + os.environ.get('DISCORD_TOKEN', 'none')}\n"
        "print(json.dumps({'size': [1, 1], 'texts': texts}))\n"
    )
    monkeypatch.setattr(decode, "WORKER", worker)
    monkeypatch.setenv("DISCORD_TOKEN", "secret")
    info = read_picture_info(png())
    assert info is not None
    assert info.model == "none"


def mutated(data: bytes, rng: random.Random) -> bytes:
    body = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(max(1, len(body) - 1))
        kind = rng.randrange(4)
        if kind == 0:
            body[at : at + 1] = bytes([body[at] ^ 1 << rng.randrange(8)])
        elif kind == 1:
            del body[at + 8 : at + 8 + rng.randrange(1, 64)]
        elif kind == 2:
            body[at:at] = rng.randbytes(rng.randrange(1, 32))
        else:
            body = body[: max(16, at)]
    return bytes(body)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_worker_read_of_mutated_pictures_answers_or_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, for speed: what the worker itself does with a thousand damaged files."""
    for owner, name in (
        (Image, "MAX_IMAGE_PIXELS"),
        (PngImagePlugin, "MAX_TEXT_CHUNK"),
        (PngImagePlugin, "MAX_TEXT_MEMORY"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # the worker sets its own; put them back afterwards
    rng = random.Random(20_26)
    sources = [make() for make in SOUND.values()] + [animated("WEBP"), animated("PNG")]
    answers: list[str] = []
    refusals: list[str] = []
    for _ in range(1000):
        data = mutated(rng.choice(sources), rng)
        try:
            answers.append(json.dumps(decode_worker.read(data)))
        except decode_worker.Refused as refusal:
            refusals.append(str(refusal))
    assert len(answers) > 20
    assert len(refusals) > 200
    assert set(refusals) <= decode._SENTENCES.keys()


def test_read_picture_info_of_mutated_pictures_raises_nothing_else() -> None:
    rng = random.Random(7)
    sources = [make() for make in SOUND.values()]
    outcomes: list[str] = []
    for _ in range(12):
        data = mutated(rng.choice(sources), rng)
        try:
            info = read_picture_info(data)
            outcomes.append("nothing" if info is None else info.source)
        except AttachmentRefused as refusal:
            outcomes.append(str(refusal))
    assert set(outcomes) <= {"nothing", "parameters", *decode._SENTENCES.values()}
    assert len(set(outcomes)) > 1
