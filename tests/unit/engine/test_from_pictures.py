"""What drawing from a picture does, measured on the pixels of the built-in model."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bot.engine.base import Order
from bot.engine.diffusers_engine import DiffusersEngine
from bot.errors import ModelError
from bot.files.control_maps import canny
from bot.generation import InputPictures, RawPicture
from tests.unit.engine.fakes import Notes, request
from tests.unit.engine.orders import error_of
from tests.unit.engine.test_diffusers_engine import pixels

SIDE = 128
GIVEN = "0" * 64
RED, BLUE, GREEN, WHITE = (214, 40, 40), (37, 99, 235), (46, 160, 67), (245, 245, 245)


def raw(image: Image.Image) -> RawPicture:
    rgb = image.convert("RGB")
    return RawPicture(0, 0, rgb.width, rgb.height, rgb.tobytes())


def disc(colour: tuple[int, int, int], ground: tuple[int, int, int] = WHITE) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), ground)
    ImageDraw.Draw(image).ellipse((34, 34, 94, 94), fill=colour)
    return image


def drawn(engine: DiffusersEngine, prompt: str, inputs: InputPictures, **changes: object) -> np.ndarray:
    values = {
        "width": SIDE,
        "height": SIDE,
        "num_inference_steps": 20,
        "guidance_scale": 4.0,
        "sampler": "DDIM",
        **changes,
    }
    asked = request(prompt, **values)  # type: ignore[arg-type]
    (picture,) = engine.generate(asked, Notes(), inputs).pictures
    return pixels(picture).astype(float)


def as_floats(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=float)


def nearest(image: np.ndarray, colours: dict[str, tuple[int, int, int]]) -> np.ndarray:
    names = np.array(list(colours))
    distances = [np.abs(image - np.array(colour)).sum(-1) for colour in colours.values()]
    return names[np.argmin(distances, 0)]


def test_image_to_image_lightly_keeps_the_layout_and_strongly_follows_the_prompt(engine: DiffusersEngine) -> None:
    given = Image.new("RGB", (SIDE, SIDE), WHITE)
    ImageDraw.Draw(given).ellipse((14, 38, 66, 90), fill=RED)  # left of the middle, where the prompt's square would be
    inputs = InputPictures(image=raw(given))
    prompt = "a blue square on a green background"
    colours = {"thing": BLUE, "red": RED, "ground": GREEN, "white": WHITE}
    light, strong = (
        nearest(drawn(engine, prompt, inputs, image=GIVEN, strength=strength, seed=2), colours)
        for strength in (0.3, 0.9)
    )
    assert (light[:, 90:] == "white").mean() > 0.9
    assert (strong[:12] == "ground").mean() > 0.9
    assert (strong[58:70, 58:70] == "thing").mean() > 0.9
    across = np.arange(SIDE)
    left, middle = (
        across[None].repeat(SIDE, 0)[(image == "thing") | (image == "red")].mean() for image in (light, strong)
    )
    assert abs(left - 40) < 10
    assert abs(middle - 64) < 10


@pytest.mark.parametrize("weights", ["its inpainting weights", "the model itself"])
def test_inpainted_square_changes_inside_the_mask_and_nowhere_outside(
    engine: DiffusersEngine, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if weights == "the model itself":
        monkeypatch.setattr("bot.engine.drawings.INPAINTING_SUFFIX", "+none")
    given = disc(RED)
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (24, 24, 104, 104))
    inputs = InputPictures(image=raw(given), mask=raw(mask))
    picture = drawn(
        engine, "a blue circle on a white background", inputs, image=GIVEN, mask=GIVEN, strength=1.0, seed=3
    )
    inside = np.asarray(mask) > 127
    difference = np.abs(picture - as_floats(given))
    assert difference[~inside].mean() < 1
    assert difference[inside].mean() > 20
    model = engine.metrics.models
    assert any(numbers.model == ("pocket+inpainting" if weights.startswith("its") else "pocket") for numbers in model)


def test_control_map_fixes_the_shape_while_the_prompt_changes_its_colour(engine: DiffusersEngine) -> None:
    inputs = InputPictures(control=raw(canny(disc(RED))))
    truth = np.asarray(disc((0, 0, 0)).convert("L")) < 127
    for name, colour in {"red": RED, "blue": BLUE}.items():
        picture = drawn(
            engine, f"a {name} circle on a white background", inputs, control=GIVEN, control_type="canny", seed=5
        )
        shape = nearest(picture, {name: colour, "white": WHITE}) == name
        overlap = (shape & truth).sum() / (shape | truth).sum()
        assert overlap > 0.8, f"{name}: {overlap:.2f}"


def test_control_that_the_catalogue_has_no_more_fails_with_its_name(engine: DiffusersEngine) -> None:
    order = Order(
        request(control=GIVEN, control_type="depth"),
        Notes(),
        None,
        InputPictures(control=raw(disc(RED).resize((64, 64)))),
    )
    engine.admit(order)
    while engine.busy:
        engine.turn()
    assert isinstance(error_of(order), ModelError)
    assert "depth control" in str(error_of(order))
