"""Every file that leaves the bot says what it is, and still does after what the bot does to it."""

from __future__ import annotations

import random
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from bot import provenance
from bot.errors import StorageError
from bot.files.credentials import JPEG, PNG, State
from bot.files.decode import decode
from bot.files.watermark import detect
from bot.generation import RawPicture
from bot.provenance import DIGITAL_SOURCE_TYPE, digital_source_type, read_info
from tests.unit.files.pictures import REQUEST, marker, raw

MARKS = provenance.marks(
    REQUEST, 0, job_id="ab12", model_name="Pocket", device="cpu", dtype="fp32", version="0.1.0"
)  # fmt: skip


def smooth(side: int = 256) -> RawPicture:
    """A picture that JPEG makes small."""
    rows = Image.frombytes("RGB", (16, 16), random.Random(1).randbytes(16 * 16 * 3))
    image = rows.resize((side, side), Image.Resampling.BICUBIC)
    return RawPicture(0, 40, side, side, image.tobytes())


def test_png_has_the_pixels_the_texts_the_iptc_mark_and_credentials_of_its_name() -> None:
    data = marker().png(raw(), MARKS, title="easel-ab12-1.png")
    opened = decode(data, 64)
    assert opened.picture is not None
    assert opened.picture.pixels == raw().pixels
    assert opened.texts == dict(MARKS.chunks)
    assert digital_source_type(opened.xmp) == DIGITAL_SOURCE_TYPE
    found = marker().credentials.read(data, PNG)
    assert found is not None
    assert (found.state, found.title, found.trained) == (State.OURS, "easel-ab12-1.png", True)


def test_png_signature_repeats_no_word_of_the_prompt() -> None:
    data = marker().png(raw(), MARKS, title="easel-ab12-1.png")
    at = data.index(b"caBX")
    length = int.from_bytes(data[at - 4 : at], "big")
    assert b"sunset" in data
    assert b"sunset" not in data[at : at + length]


def test_preview_is_signed_and_says_a_model_made_it_but_not_from_what() -> None:
    data = marker().preview(raw())
    opened = decode(data)
    assert (opened.format, opened.texts) == ("JPEG", {})
    assert digital_source_type(opened.xmp) == DIGITAL_SOURCE_TYPE
    found = marker().credentials.read(data, JPEG)
    assert found is not None
    assert (found.state, found.title, found.trained) == (State.OURS, "preview.jpg", True)


@pytest.mark.parametrize("on", [False, True], ids=["off", "on"])
def test_watermark_is_in_the_pixels_only_where_it_is_on(on: bool) -> None:
    made = marker(watermark=on)
    opened = decode(made.png(smooth(), MARKS, title="x.png"), 256)
    assert opened.picture is not None
    assert detect(opened.picture) == (made.credentials.identity.mark if on else None)
    assert (opened.picture.pixels == smooth().pixels) is not on


def test_re_encode_keeps_every_mark_and_says_what_it_was_made_from(tmp_path: Path) -> None:
    made = marker(watermark=True)
    path = tmp_path / "easel-ab12-1.png"
    path.write_bytes(made.png(smooth(), MARKS, title=path.name))
    limit = path.stat().st_size // 2
    name, data = made.re_encode(path, limit)
    assert name == "easel-ab12-1.jpg"
    assert len(data) <= limit
    opened = decode(data, 256)
    assert (opened.format, opened.width, opened.height) == ("JPEG", 256, 256)
    assert opened.texts["UserComment"] == MARKS.chunks["parameters"]
    assert opened.texts["easel"] == MARKS.chunks["easel"]
    info = read_info(opened.texts, (256, 256))
    assert info is not None
    assert (info.source, info.seed, info.prompt) == ("easel", 40, REQUEST.prompt)
    assert digital_source_type(opened.xmp) == DIGITAL_SOURCE_TYPE
    assert opened.picture is not None
    assert detect(opened.picture) == made.credentials.identity.mark
    found = made.credentials.read(data, JPEG)
    assert found is not None
    assert (found.state, found.title, found.trained) == (State.OURS, name, True)
    assert found.actions == ("c2pa.opened", "c2pa.transcoded")


def test_re_encode_takes_the_finest_quality_that_fits(tmp_path: Path) -> None:
    path = tmp_path / "easel-ab12-1.png"
    path.write_bytes(marker().png(raw(0, 256, 256), MARKS, title=path.name))
    sizes = [len(marker().re_encode(path, limit)[1]) for limit in (10**9, 80_000, 60_000)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_re_encode_that_no_quality_does_halves_the_sides(tmp_path: Path) -> None:
    path = tmp_path / "easel-ab12-1.png"
    path.write_bytes(marker().png(raw(0, 256, 256), MARKS, title=path.name))
    with Image.open(BytesIO(marker().re_encode(path, 25_000)[1])) as image:
        assert image.size == (128, 128)


def test_re_encode_of_a_re_encoded_file_still_has_its_marks(tmp_path: Path) -> None:
    path = tmp_path / "easel-ab12-1.png"
    path.write_bytes(marker().png(smooth(), MARKS, title=path.name))
    name, once = marker().re_encode(path, 10**9)
    path.with_name(name).write_bytes(once)
    _, data = marker().re_encode(path.with_name(name), 10**9)
    found = marker().credentials.read(data, JPEG)
    assert found is not None
    assert (found.state, found.trained) == (State.OURS, True)
    assert decode(data).texts["easel"] == MARKS.chunks["easel"]


def test_re_encode_that_cannot_be_so_small_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "easel-ab12-1.png"
    path.write_bytes(marker().png(raw(0, 256, 256), MARKS, title=path.name))
    with pytest.raises(StorageError, match=r"cannot be made smaller than 0\.01 MB"):
        marker().re_encode(path, 10_000)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_decode_with_a_side_gives_what_people_see() -> None:
    """Upright, on white where it is transparent, no larger than asked."""
    image = Image.new("RGBA", (40, 20), (255, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    out = BytesIO()
    image.save(out, "PNG", exif=exif)
    opened = decode(out.getvalue(), 20)
    assert (opened.width, opened.height) == (40, 20)
    assert opened.picture is not None
    assert (opened.picture.width, opened.picture.height) == (10, 20)
    assert opened.picture.pixels == b"\xff" * (10 * 20 * 3)
