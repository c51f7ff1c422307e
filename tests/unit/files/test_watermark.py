"""The watermark: invisible, there again after what the documentation says it survives, and never where it was not put."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from bot.files.watermark import detect, embed
from bot.generation import RawPicture

IDENTITY = 0xDEADBEEF


def scene(width: int, height: int, seed: int = 1, contrast: float = 64.0) -> RawPicture:
    """Noise with the spectrum of a photograph; at the default contrast a few per cent of it is cut off."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.normal(size=(height, width, 3)), axes=(0, 1))
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    spectrum /= np.maximum(radius, 1 / max(width, height))[..., None] ** 1.3
    pixels = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1))
    pixels = (pixels - pixels.mean((0, 1))) / pixels.std((0, 1)) * contrast + 128
    return RawPicture(0, seed, width, height, np.clip(pixels, 0, 255).astype(np.uint8).tobytes())


def image_of(picture: RawPicture) -> Image.Image:
    return Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)


def picture_of(image: Image.Image) -> RawPicture:
    return RawPicture(0, 0, image.width, image.height, image.convert("RGB").tobytes())


def again(kind: str, quality: int) -> Callable[[Image.Image], Image.Image]:
    def encode(image: Image.Image) -> Image.Image:
        out = BytesIO()
        image.save(out, kind, quality=quality)
        return Image.open(out)

    return encode


def scaled(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)))


SURVIVED = {
    "untouched": lambda image: image, "jpeg 90": again("JPEG", 90), "jpeg 75": again("JPEG", 75),
    "webp 90": again("WEBP", 90), "half": scaled(0.5), "three quarters": scaled(0.75), "double": scaled(2.0),
}  # fmt: skip
SIZES = {"128": (128, 128), "256x384": (256, 384)}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_detect_after_what_it_survives_gives_the_identity(size: tuple[int, int]) -> None:
    marked = image_of(embed(scene(*size), IDENTITY))
    found = {name: detect(picture_of(change(marked))) for name, change in SURVIVED.items()}
    assert found == dict.fromkeys(SURVIVED, IDENTITY)


def test_embed_changes_no_pixel_by_much() -> None:
    before = scene(256, 256)
    difference = np.frombuffer(embed(before, IDENTITY).pixels, np.uint8).astype(float) - np.frombuffer(
        before.pixels, np.uint8
    )
    assert 46.0 < 10 * np.log10(255**2 / (difference**2).mean()) < 48.0
    assert abs(difference).max() <= 8


def test_embed_twice_gives_the_same_pixels() -> None:
    assert embed(scene(128, 192), IDENTITY) == embed(scene(128, 192), IDENTITY)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (200, 80, 40)], ids=["white", "black", "brown"])
def test_detect_in_a_flat_picture_gives_the_identity(colour: tuple[int, int, int]) -> None:
    flat = picture_of(Image.new("RGB", (256, 256), colour))
    assert detect(embed(flat, IDENTITY)) == IDENTITY


def test_detect_in_unmarked_pictures_is_none() -> None:
    assert [detect(scene(128, 128, seed)) for seed in range(20)] == [None] * 20


def test_detect_after_a_crop_is_none_as_documented() -> None:
    marked = image_of(embed(scene(256, 256), IDENTITY))
    assert detect(picture_of(marked.crop((8, 8, 256, 256)))) is None


def test_embed_small_picture_stays_as_it_is() -> None:
    small = scene(127, 300)
    assert embed(small, IDENTITY) is small
    assert detect(picture_of(Image.new("RGB", (20, 20)))) is None
