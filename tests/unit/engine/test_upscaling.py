"""Enlarging in the engine: a tile a turn beside others, details redrawn in lanes, cancelled and short of memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from bot.catalogue.models import Catalogue
from bot.engine.base import Order
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.upscaling.mosaic import Tiles, details_on
from bot.engine.upscaling.upscalers import Upscaler
from bot.errors import GenerationCancelled, InvalidOutput, ModelError, OutOfMemory, RequestError
from bot.generation import InputPictures, InputRef, RawPicture, UpscaleOptions
from bot.prompts.upscaling import resolve_upscale
from tests.unit.engine.fakes import Notes
from tests.unit.engine.orders import Cancellable, admitted, error_of
from tests.unit.engine.test_diffusers_engine import pixels
from tools.pocket.upscaler import pair


@pytest.fixture
def given() -> RawPicture:
    return raw(np.array(Image.fromarray(pair(3)[0]).resize((300, 200))))


@pytest.fixture(autouse=True)
def small_tiles(engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine._upscales, "_tile_px", 128)


def raw(image: np.ndarray) -> RawPicture:
    return RawPicture(0, 0, image.shape[1], image.shape[0], image.tobytes())


def order(catalogue: Catalogue, given: RawPicture, listener: Any = None, **options: Any) -> Order:
    ref = InputRef("a" * 64, given.width, given.height)
    asked = resolve_upscale(UpscaleOptions(ref, **options), catalogue, new_seed=lambda: 5)
    return Order(asked, listener or Notes(), None, InputPictures(image=given))


def to_the_end(engine: DiffusersEngine, *orders: Order) -> list[RawPicture]:
    for one in orders:
        engine.admit(one)
    while engine.busy:
        engine.turn()
    return [one.future.result(0).pictures[0] for one in orders]


def distance(one: np.ndarray, other: Any) -> float:
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


def reduced(picture: RawPicture, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(pixels(picture).astype(np.uint8)).resize(size, Image.Resampling.BOX)


@pytest.mark.parametrize("factor", [2, 4])
def test_upscale_plain_has_the_size_and_the_picture_and_tells_its_tiles(
    engine: DiffusersEngine, catalogue: Catalogue, given: RawPicture, factor: int
) -> None:
    notes = Notes()
    one = order(catalogue, given, notes, factor=factor, prompt="shapes")
    (made,) = to_the_end(engine, one)
    assert (made.width, made.height) == (300 * factor, 200 * factor)
    assert distance(pixels(given), reduced(made, (300, 200))) < 6
    assert [(said.step, said.steps) for said in notes.progress] == [(n, 2) for n in (1, 2)]
    result = one.future.result(0)
    assert (result.dtype, result.denoise_s > 0, result.total_s >= result.denoise_s) == ("fp32", True, True)
    assert any(numbers.model == "upscaler/pocket-4x" for numbers in engine.metrics.models)


def test_upscale_takes_turns_with_pictures_in_the_making(
    engine: DiffusersEngine, catalogue: Catalogue, given: RawPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    enlarge = Upscaler.enlarge

    def noted(self: Upscaler, part: Any, factor: int) -> Any:
        done.append("tile")
        return enlarge(self, part, factor)

    monkeypatch.setattr(Upscaler, "enlarge", noted)
    monkeypatch.setattr("bot.engine.turnstile.FAIR_WITHIN_S", 0.0)
    drawing = admitted(engine, "a forest", member=1, num_inference_steps=12)
    one = order(catalogue, given)
    engine.admit(replace(one, member=2))
    steps_then: list[int] = []
    while engine.busy:
        before = len(done)
        engine.turn()
        if len(done) > before:
            steps_then.append(len(drawing.listener.progress))
    assert len(done) == 6
    assert steps_then[0] < 12
    assert drawing.future.result(0).pictures


@torch.inference_mode()
def test_upscale_detail_redraws_in_tiles_that_share_passes_and_keeps_the_layout(
    engine: DiffusersEngine, catalogue: Catalogue, given: RawPicture, rows: list[int]
) -> None:
    notes = Notes()
    asked = {"factor": 2, "mode": "detail", "prompt": "shapes", "model": "pocket"}
    plain, detailed = to_the_end(engine, order(catalogue, given, factor=2), order(catalogue, given, notes, **asked))
    assert (detailed.width, detailed.height) == (600, 400)
    assert 0.01 < distance(pixels(plain), pixels(detailed)) < 4
    assert distance(pixels(given), reduced(detailed, (300, 200))) < 6
    assert max(rows) == 8  # four tiles, each with its unguided row
    assert (notes.progress[0].step, notes.progress[-1].step, notes.progress[-1].steps) == (1, 8, 8)
    steps = [said.step for said in notes.progress]
    assert steps == sorted(set(steps))
    assert all(said.preview is None for said in notes.progress)


def test_upscale_detail_has_no_seams_where_nothing_changes(given: RawPicture) -> None:
    image = pixels(given).astype(np.uint8)
    tiles = Tiles(image, (128, 128), 8, 64)
    assert tiles.count == 6
    for n in range(tiles.count):
        tiles.put(n, pixels(tiles.before(n)) / 255)
    assert distance(pixels(tiles.picture(0)), image) == 0


def test_upscale_detail_draws_nothing_new_into_a_tile(engine: DiffusersEngine, catalogue: Catalogue) -> None:
    """With the words of the whole picture in each tile, a model at strength 0.3 would draw a star in every one."""
    image = Image.new("RGB", (128, 128), "#facc15")
    ImageDraw.Draw(image).ellipse((44, 44, 84, 84), fill="#2563eb")
    words = "a blue star on a yellow background"
    given = raw(np.asarray(image))
    asked = {"factor": 4, "mode": "detail", "prompt": words, "model": "pocket"}
    plain, detailed = to_the_end(engine, order(catalogue, given, factor=4), order(catalogue, given, **asked))
    changed = np.abs(pixels(plain) - pixels(detailed))[:100]
    assert changed.mean() < 2
    assert changed.max() < 60  # a star would be 200 away from its ground; what is left is the VAE's at the border


def test_details_on_takes_texture_and_neither_tint_nor_anything_new() -> None:
    rng = np.random.default_rng(2)
    before = np.full((128, 128, 3), 0.5, dtype=np.float32)
    texture = (0.02 * rng.standard_normal((128, 128, 1))).astype(np.float32)
    assert np.abs(details_on(before, before + texture) - before - texture).max() < 0.02
    assert np.abs(details_on(before, before + 0.03) - before).max() < 1e-3
    thing = before.copy()
    thing[40:80, 40:80] = 1.0
    assert np.abs(details_on(before, thing) - before).max() < 1e-3


@pytest.mark.parametrize("size", [(20, 30), (100, 300), (301, 65)])
def test_tiles_of_a_picture_smaller_than_one_are_padded_and_cut_again(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    tiles = Tiles(image, (128, 128), 8, 64)
    assert all(side % 8 == 0 and 64 <= side <= 128 for side in tiles.side)
    for n in range(tiles.count):
        tiles.put(n, pixels(tiles.before(n)) / 255)
    assert np.array_equal(pixels(tiles.picture(0)), image)


def test_upscale_cancelled_between_tiles_ends_there(
    engine: DiffusersEngine, catalogue: Catalogue, given: RawPicture
) -> None:
    for options in ({"factor": 4}, {"factor": 2, "mode": "detail"}):
        listener = Cancellable()
        one = order(catalogue, given, listener, **options)
        engine.admit(one)
        while not listener.progress:
            engine.turn()
        listener.gone = True
        engine.turn()
        assert isinstance(error_of(one), GenerationCancelled)
        assert not engine.busy
        assert not engine._upscales._runs


def test_upscale_short_of_memory_goes_on_in_smaller_tiles_and_then_says_so(
    engine: DiffusersEngine, catalogue: Catalogue, given: RawPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    enlarge, most = Upscaler.enlarge, 64

    def limited(self: Upscaler, part: Any, factor: int) -> Any:
        if max(part.shape[:2]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return enlarge(self, part, factor)

    monkeypatch.setattr(Upscaler, "enlarge", limited)
    (made,) = to_the_end(engine, order(catalogue, given, factor=2))
    assert distance(pixels(given), reduced(made, (300, 200))) < 6
    assert engine._upscales._tile_px == 64
    most = 8
    one = order(catalogue, given, factor=2)
    with pytest.raises(OutOfMemory, match="pocket-4x has no room for 600×400"):
        to_the_end(engine, one)


def test_upscale_whose_parts_are_gone_fails_with_a_sentence(
    engine: DiffusersEngine, catalogue: Catalogue, given: RawPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = order(catalogue, given)
    gone = Order(replace(one.request, model="upscaler/gone"), Notes(), None, one.inputs)
    other = Order(replace(one.request, width=10, height=10), Notes(), None, one.inputs)
    for wrong, kind in ((gone, ModelError), (other, RequestError)):
        with pytest.raises(kind):
            to_the_end(engine, wrong)
    monkeypatch.setattr(Upscaler, "enlarge", lambda self, part, factor: part.repeat(2, 2, 1) * float("nan"))
    with pytest.raises(InvalidOutput, match="not a number"):
        to_the_end(engine, order(catalogue, given))
    monkeypatch.setattr(Upscaler, "enlarge", lambda self, part, factor: part.repeat(2, 2, 1) * 0)
    with pytest.raises(InvalidOutput, match="black picture"):
        to_the_end(engine, order(catalogue, given))
    assert not engine.busy


def test_upscale_black_picture_stays_black(engine: DiffusersEngine, catalogue: Catalogue) -> None:
    black = raw(np.zeros((40, 40, 3), dtype=np.uint8))
    (made,) = to_the_end(engine, order(catalogue, black))
    assert pixels(made).max() < 30
