"""Pictures mean what was asked: colours measured on pixels, in CIE Lab."""

from __future__ import annotations

from typing import Any

import numpy as np

from bot.catalogue.models import Catalogue
from bot.engine.diffusers_engine import DiffusersEngine
from bot.generation import RawPicture
from tests.unit.engine.fakes import Notes, request

COLOURS = {
    "red": (214, 40, 40), "green": (46, 160, 67), "blue": (37, 99, 235), "yellow": (250, 204, 21),
    "orange": (249, 115, 22), "purple": (147, 51, 234), "pink": (244, 114, 182), "white": (245, 245, 245),
    "black": (20, 20, 20),
}  # fmt: skip
ASKED = [
    ("red", "circle", "blue"), ("blue", "square", "yellow"), ("green", "triangle", "white"), ("yellow", "star", "black"),
    ("orange", "heart", "purple"), ("purple", "circle", "orange"), ("pink", "square", "green"), ("white", "triangle", "red"),
    ("black", "star", "pink"), ("red", "heart", "white"), ("blue", "circle", "pink"), ("green", "square", "black"),
    ("yellow", "triangle", "purple"), ("orange", "star", "blue"), ("purple", "heart", "yellow"), ("pink", "circle", "black"),
    ("white", "square", "green"), ("black", "triangle", "orange"), ("red", "star", "green"), ("blue", "heart", "red"),
]  # fmt: skip


def lab(rgb: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(..., 3) sRGB in 0..255 → CIE Lab under D65."""
    channels = np.asarray(rgb, dtype=float) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def named(patch: np.ndarray[Any, Any]) -> str:
    """Name the colour most of a patch's pixels are nearest to."""
    names = list(COLOURS)
    palette = lab(np.array([COLOURS[name] for name in names]))
    distance = np.linalg.norm(lab(patch.reshape(-1, 1, 3)) - palette[None], axis=-1)
    return names[int(np.bincount(distance.argmin(axis=1), minlength=len(names)).argmax())]


def middle_and_border(picture: RawPicture) -> tuple[str, str]:
    image = np.frombuffer(picture.pixels, dtype=np.uint8).reshape(picture.height, picture.width, 3)
    middle = image[52:76, 52:76]
    rim = np.concatenate([part.reshape(-1, 3) for part in (image[:8], image[-8:], image[:, :8], image[:, -8:])])
    return named(middle), named(rim)


def test_named_colours_are_their_own_nearest() -> None:
    for name, rgb in COLOURS.items():
        assert named(np.array([[rgb]])) == name


def test_generate_coloured_shapes_have_the_colours_asked_for(engine: DiffusersEngine, catalogue: Catalogue) -> None:
    spec = catalogue["pocket"]
    wrong: list[str] = []
    for seed, (colour, shape, ground) in enumerate(ASKED, start=100):
        prompt = f"a large {colour} {shape} on a {ground} background"
        asked = request(
            prompt, width=128, height=128, seed=seed, num_inference_steps=spec.steps, guidance_scale=spec.guidance
        )
        seen = middle_and_border(engine.generate(asked, Notes()).pictures[0])
        if seen != (colour, ground):
            wrong.append(f"{prompt}: {seen[0]} on {seen[1]}")
    assert len(ASKED) == 20
    assert len(wrong) <= 3, wrong
