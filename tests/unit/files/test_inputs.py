"""Input pictures on disk: one file for equal ones, read in the size that is drawn, removed when nobody names them."""

from __future__ import annotations

import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bot.errors import AttachmentRefused, RequestError
from bot.files.control_maps import control_map
from bot.files.decode import decode
from bot.files.inputs import FRESH_S, InputShelf
from bot.generation import RawPicture
from tests.unit.files.pictures import REQUEST


def raw(image: Image.Image) -> RawPicture:
    return RawPicture(0, 0, image.width, image.height, image.convert("RGB").tobytes())


def png(image: Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_put_equal_pictures_are_one_file_and_read_as_they_were(tmp_path: Path) -> None:
    shelf = InputShelf(tmp_path)
    picture = Image.effect_noise((40, 30), 80).convert("RGB")
    digest = shelf.put(raw(picture))
    assert shelf.put(raw(picture)) == digest
    assert [path.stem for path in tmp_path.rglob("*.png")] == [digest]
    assert shelf.read(digest).tobytes() == picture.tobytes()
    assert shelf.put(raw(Image.new("RGB", (30, 40)))) != shelf.put(raw(Image.new("RGB", (40, 30))))


def test_for_request_pictures_are_cut_to_its_size_and_the_mask_stays_hard(tmp_path: Path) -> None:
    shelf = InputShelf(tmp_path)
    wide = Image.new("RGB", (200, 100), "red")
    mask = Image.new("L", (200, 100))
    mask.paste(255, (100, 0, 200, 100))
    request = replace(REQUEST, width=64, height=64, image=shelf.put(raw(wide)), mask=shelf.put(raw(mask)))
    inputs = shelf.for_request(request)
    assert inputs.image is not None
    assert inputs.mask is not None
    assert inputs.control is None
    assert (inputs.image.width, inputs.image.height) == (inputs.mask.width, inputs.mask.height) == (64, 64)
    values = np.frombuffer(inputs.mask.pixels, np.uint8).reshape(64, 64, 3)
    assert set(values.ravel()) == {0, 255}
    assert (values[:, :32] == 0).all()
    assert (values[:, 32:] == 255).all()


@pytest.mark.parametrize(("size", "side_px"), [((900, 600), 512), ((100, 300), 100)], ids=["large", "small"])
def test_for_request_reference_is_the_middle_of_its_picture_whatever_is_drawn(
    tmp_path: Path, size: tuple[int, int], side_px: int
) -> None:
    shelf = InputShelf(tmp_path)
    picture = Image.new("RGB", size, "red")
    short, beyond = min(size), max(size) - min(size)
    left, top = (beyond // 2, 0) if size[0] > size[1] else (0, beyond // 2)
    picture.paste("blue", (left, top, left + short, top + short))
    seen = shelf.for_request(replace(REQUEST, width=64, height=128, reference=shelf.put(raw(picture)))).reference
    assert seen is not None
    assert (seen.width, seen.height) == (side_px, side_px)
    values = np.frombuffer(seen.pixels, np.uint8).reshape(side_px, side_px, 3)
    assert (values[2:-2, 2:-2] == (0, 0, 255)).all()


def test_for_request_picture_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not kept any more"):
        InputShelf(tmp_path).for_request(replace(REQUEST, image="a" * 64))


@pytest.mark.parametrize("name", ["../../etc/passwd", "a" * 63, "A" * 64, ""])
def test_read_name_that_is_no_digest_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError):
        InputShelf(tmp_path).read(name)


def test_sweep_removes_what_nobody_names_but_not_what_just_came(tmp_path: Path) -> None:
    shelf = InputShelf(tmp_path)
    old, named, fresh = (shelf.put(raw(Image.new("RGB", (8, 8), colour))) for colour in ("red", "green", "blue"))
    for path in tmp_path.rglob("*.png"):
        if path.stem != fresh:
            os.utime(path, (0, 0))
    assert shelf.sweep({named}) == 1
    assert {path.stem for path in tmp_path.rglob("*.png")} == {named, fresh}
    later = next(tmp_path.rglob(f"{fresh}.png")).stat().st_mtime + FRESH_S + 1
    assert shelf.sweep({named}, now=later) == 1
    assert old != named


def test_decode_mask_transparent_is_white_and_the_rest_black() -> None:
    picture = Image.new("RGBA", (20, 10), (255, 255, 255, 255))
    picture.paste((0, 0, 0, 0), (10, 0, 20, 10))
    opened = decode(png(picture), 100, mask=True).picture
    assert opened is not None
    values = np.frombuffer(opened.pixels, np.uint8).reshape(10, 20, 3)
    assert (values[:, :10] == 0).all()
    assert (values[:, 10:] == 255).all()
    whole = decode(png(Image.new("RGBA", (4, 4), "white")), 100, mask=True).picture
    assert whole is not None
    assert set(whole.pixels) == {255}


def test_decode_picture_is_turned_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = BytesIO()
    Image.new("RGB", (40, 20), "red").save(buffer, "JPEG", exif=exif)
    opened = decode(buffer.getvalue(), 100).picture
    assert opened is not None
    assert (opened.width, opened.height) == (20, 40)


def test_decode_animated_mask_is_refused() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    buffer = BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(AttachmentRefused, match="animated"):
        decode(buffer.getvalue(), 100, mask=True)


def test_control_map_canny_is_white_lines_on_black() -> None:
    picture = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(picture).rectangle((16, 16, 48, 48), fill="red")
    values = np.asarray(control_map(picture, "canny"))
    assert values.shape == (64, 64, 3)
    assert set(values.ravel()) == {0, 255}
    assert values[14:19, 32].any()
    assert not values[28:36, 28:36].any()


@pytest.mark.parametrize("paper", ["white", "black"])
def test_control_map_scribble_is_white_lines_whatever_the_paper(paper: str) -> None:
    picture = Image.new("RGB", (64, 64), paper)
    ImageDraw.Draw(picture).line((8, 8, 56, 56), fill="black" if paper == "white" else "white", width=3)
    values = np.asarray(control_map(picture, "scribble"))
    assert values[32, 32, 0] == 255
    assert values[5, 50, 0] == 0


def test_control_map_ready_made_or_for_an_annotator_is_left_alone_and_one_that_is_none_is_refused() -> None:
    picture = Image.effect_noise((16, 16), 50).convert("RGB")
    assert control_map(picture, "raw depth").tobytes() == picture.tobytes()
    assert control_map(picture, "depth").tobytes() == picture.tobytes()
    with pytest.raises(RequestError, match="no such control type any more"):
        control_map(picture, "lines")


def test_widen_keeps_the_picture_and_masks_what_is_new_with_a_little_of_its_edge(tmp_path: Path) -> None:
    shelf = InputShelf(tmp_path)
    picture = Image.effect_noise((100, 50), 80).convert("RGB")
    wide, where = shelf.widen(shelf.put(raw(picture)), "right", 50)
    assert (wide.width, wide.height) == (where.width, where.height) == (150, 50)
    assert shelf.read(wide.digest).crop((0, 0, 100, 50)).tobytes() == picture.tobytes()
    mask = np.asarray(shelf.read(where.digest))[..., 0]
    assert (mask[:, :98] == 0).all()
    assert (mask[:, 99:] == 255).all()


def test_widen_large_picture_is_made_smaller_first(tmp_path: Path) -> None:
    shelf = InputShelf(tmp_path)
    wide, _ = shelf.widen(shelf.put(raw(Image.new("RGB", (2048, 100)))), "all", 100)
    assert wide.width <= 2048


@pytest.mark.parametrize(("side", "amount"), [("inside", 50), ("all", 5), ("all", 101)])
def test_widen_what_cannot_be_is_refused(tmp_path: Path, side: str, amount: int) -> None:
    shelf = InputShelf(tmp_path)
    with pytest.raises(RequestError):
        shelf.widen(shelf.put(raw(Image.new("RGB", (8, 8)))), side, amount)
