"""PNG files and previews, read back with Pillow."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from io import BytesIO

import pytest
from PIL import Image

from bot import provenance
from bot.files.encode import encode_png, encode_preview
from tests.unit.files.pictures import REQUEST, raw


def encoded(prompt: str = "a sunset") -> tuple[bytes, dict[str, str]]:
    chunks = {
        "parameters": f"{prompt}\nSteps: 20, Sampler: Default, Seed: 1",
        "easel": provenance.easel_json(REQUEST, 0, 40, "job", "cpu", "fp32", "0.1.0"),
    }
    return encode_png(raw(), chunks, provenance.iptc_xmp("0.1.0", prompt)), chunks


def kinds(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, body = data[at + 4 : at + 8].decode(), data[at + 8 : at + 8 + length]
        if kind in ("tEXt", "iTXt", "zTXt"):
            found[body.split(b"\0", 1)[0].decode()] = kind
        at += 12 + length
    return found


def test_encode_png_read_back_has_the_same_pixels_and_texts() -> None:
    data, chunks = encoded()
    with Image.open(BytesIO(data)) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (64, 48), "RGB")
        assert image.tobytes() == raw().pixels
        assert {key: image.text[key] for key in chunks} == chunks
        xmp = image.info["xmp"].decode()
    root = ElementTree.fromstring(xmp[xmp.index("?>") + 2 : xmp.rindex("<?xpacket")])
    (about,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert about.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == provenance.DIGITAL_SOURCE_TYPE


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [("a café", "tEXt"), ("夕焼け 🌅", "iTXt")],
    ids=["latin-1", "beyond"],
)
def test_encode_png_parameters_use_the_chunk_other_programs_use(prompt: str, kind: str) -> None:
    data, chunks = encoded(prompt)
    assert kinds(data) == {"parameters": kind, "easel": "iTXt", "XML:com.adobe.xmp": "iTXt"}
    with Image.open(BytesIO(data)) as image:
        assert image.text["parameters"] == chunks["parameters"]


def test_encode_png_twice_gives_the_same_bytes() -> None:
    assert encoded()[0] == encoded()[0]


@pytest.mark.parametrize(
    ("size", "shown"),
    [((64, 64), (256, 256)), ((48, 64), (192, 256)), ((16, 8), (64, 32)), ((1024, 512), (256, 128)), ((200, 96), (200, 96)),
     ((2048, 8), (256, 1))],
    ids=["pocket", "portrait", "tiny", "large", "as is", "thin"],
)  # fmt: skip
def test_encode_preview_is_a_small_jpeg(size: tuple[int, int], shown: tuple[int, int]) -> None:
    data = encode_preview(raw(0, *size), provenance.iptc_xmp("0.1.0"))
    with Image.open(BytesIO(data)) as image:
        assert (image.format, image.size) == ("JPEG", shown)
    assert len(data) < 200_000
