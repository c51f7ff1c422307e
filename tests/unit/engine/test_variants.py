"""Requests whose pictures each have something of their own, on the built-in model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from bot.catalogue.models_file import parse_catalogue
from bot.engine import drawings
from bot.engine.base import Order
from bot.engine.diffusers_engine import DiffusersEngine
from bot.errors import InvalidOutput, ModelError
from bot.generation import Axis, GenerationRequest, InputPictures, RawPicture, Variant
from tests.unit.engine.fakes import POCKET, Notes, request
from tests.unit.engine.ip_adapters import write_encoder, write_ip_adapter
from tests.unit.engine.orders import same
from tests.unit.engine.test_diffusers_engine import engine_of_two, pixels
from tests.unit.engine.test_general import general, traced

PROMPTS = ("a forest", "a red circle", "a blue star")


def listed(*prompts: str, **changes: object) -> GenerationRequest:
    return request(prompts[0], count=len(prompts), variants=tuple(map(Variant, prompts)), **changes)


def equals_each_alone(engine: DiffusersEngine, asked: GenerationRequest) -> None:
    drawn = engine.generate(asked, Notes()).pictures
    assert [picture.n for picture in drawn] == list(range(asked.count))
    for picture in drawn:
        alone = engine.generate(asked.alone(picture.n), Notes()).pictures[0]
        assert picture.seed == alone.seed
        same(picture, alone)


def test_list_draws_each_prompt_as_it_is_drawn_alone(engine: DiffusersEngine) -> None:
    equals_each_alone(engine, listed(*PROMPTS))


def test_variants_of_steps_guidance_sampler_and_seed_are_each_drawn_as_alone(engine: DiffusersEngine) -> None:
    variants = (
        Variant(seed=3, num_inference_steps=2), Variant(seed=3, guidance_scale=1.0), Variant(seed=3, sampler="Euler a"),
        Variant(seed=9), Variant(num_inference_steps=6, guidance_scale=9.0),
    )  # fmt: skip
    equals_each_alone(engine, request(count=5, variants=variants))


def test_list_shares_its_passes(engine: DiffusersEngine, rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    engine.generate(listed(*PROMPTS, "a hill"), Notes())
    assert max(rows) == 8  # four pictures, two rows each


def test_long_list_finishes_its_first_pictures_while_the_last_ones_wait(engine: DiffusersEngine) -> None:
    notes = Notes()
    engine.generate(listed(*(f"a star {n}" for n in range(10))), notes)
    finished = [[picture.n for picture in progress.finished] for progress in notes.progress]
    assert sorted(n for numbers in finished for n in numbers) == list(range(10))
    first = next(index for index, numbers in enumerate(finished) if numbers)
    assert first < len(finished) / 2
    assert [progress.step for progress in notes.progress] == sorted(progress.step for progress in notes.progress)
    assert notes.progress[-1].step == 4


def test_plain_request_finishes_at_once(engine: DiffusersEngine) -> None:
    notes = Notes()
    engine.generate(request(count=2), notes)
    assert not any(progress.finished for progress in notes.progress)


def test_list_by_a_whole_pipeline_calls_it_once_for_what_is_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    general(monkeypatch, model="one")
    engine = engine_of_two(tmp_path)
    calls = traced(engine, monkeypatch, "one")
    asked = listed("a forest", "a star", "a forest", model="one", num_inference_steps=2)
    drawn = engine.generate(asked, Notes()).pictures
    assert sorted(rows for _, rows in calls) == [2, 2, 4, 4]
    for picture in drawn:
        same(picture, engine.generate(asked.alone(picture.n), Notes()).pictures[0])


def broken(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Let these pictures come out black."""
    to_picture = drawings.to_picture

    def drawn(spec: Any, image: Any, n: int, seed: int, **more: Any) -> Any:
        return to_picture(spec, image * 0 if n in numbers else image, n, seed, **more)

    monkeypatch.setattr(drawings, "to_picture", drawn)


def test_list_goes_on_without_a_picture_that_came_out_broken(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, 1)
    drawn = engine.generate(listed(*PROMPTS), Notes()).pictures
    assert [picture.n for picture in drawn] == [0, 2]


def test_list_of_which_nothing_came_out_fails(engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, 0, 1, 2)
    with pytest.raises(InvalidOutput, match="black picture"):
        engine.generate(listed(*PROMPTS), Notes())


def test_sheet_with_a_broken_picture_fails(engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, 1)
    variants, axes = (Variant(seed=1), Variant(seed=2)), (Axis("seed", ("1", "2")),)
    with pytest.raises(InvalidOutput):
        engine.generate(request(count=2, variants=variants, axes=axes), Notes())


def test_list_from_a_picture_begins_each_from_it(engine: DiffusersEngine) -> None:
    inputs = InputPictures(RawPicture(0, 0, 64, 64, bytes((200, 40, 40)) * 64 * 64))
    asked = listed(*PROMPTS[:2], image="0" * 64, strength=0.5)
    for picture in engine.generate(asked, Notes(), inputs).pictures:
        same(picture, engine.generate(asked.alone(picture.n), Notes(), inputs).pictures[0])


def test_choices_each_picture_is_drawn_from_its_own(engine: DiffusersEngine) -> None:
    chosen = ("a red circle on a white background", "a blue square on a white background")
    asked = request("a {red circle|blue square} on a white background", count=2, prompts=chosen, seed=5)
    both = engine.generate(asked, Notes()).pictures
    for n, prompt in enumerate(chosen):
        (alone,) = engine.generate(request(prompt, seed=5 + n), Notes()).pictures
        assert np.abs(pixels(both[n]) - pixels(alone)).max() <= 2
    assert np.abs(pixels(both[0]) - pixels(both[1])).mean() > 5


def test_list_of_which_some_are_done_draws_the_others_as_it_would_have(engine: DiffusersEngine) -> None:
    asked, notes = listed("a", "b", "c", "d"), Notes()
    whole = engine.generate(asked, Notes()).pictures
    order = Order(asked, notes, done=frozenset({0, 2}))
    engine.admit(order)
    while not order.over:
        engine.turn()
    result = order.future.result(0)
    assert [picture.n for picture in result.pictures] == [1, 3]
    for picture in result.pictures:
        same(picture, whole[picture.n])
    steps = [progress.step for progress in notes.progress]
    assert steps[0] >= 2  # of four: half of the pictures are done
    assert steps[-1] == notes.progress[-1].steps
    finished = [progress for progress in notes.progress if progress.finished]
    assert {(progress.device, progress.dtype) for progress in finished} == {(result.device, result.dtype)}
    assert result.device


def two_that_differ(folder: Path, more: Mapping[str, str] = {}, **options: Any) -> DiffusersEngine:
    """Make an engine of two models, of which the second has another denoiser and VAE; `more` is for their tables."""
    other = folder / "other"
    shutil.copytree(POCKET, other)
    for part, name in (("unet", "conv_out.weight"), ("vae", "quant_conv.weight")):
        (file,) = (other / part).glob("*.safetensors")
        tensors = load_file(file)
        save_file({**tensors, name: tensors[name] * 0.7}, file)
    text = "".join(
        f'[models.{name}]\nname = "{name}"\nsource = "{source.as_posix()}"\nfamily = "sd15"\nlicence = "MIT"\n{more.get(name, "")}'
        for name, source in (("one", POCKET), ("two", other))
    )
    return DiffusersEngine(
        parse_catalogue(text, origin="models.toml"), models_root=folder, cache_dir=folder, device="cpu", dtype="auto",
        max_batch=4, **options,
    )  # fmt: skip


def over_models(**changes: object) -> GenerationRequest:
    """A sheet of two models, two cells of each."""
    variants = tuple(Variant(seed=seed, model=model) for seed in (3, 4) for model in (None, "two"))
    axes = (Axis("model", ("one", "two")), Axis("seed", ("3", "4")))
    return request(model="one", count=4, variants=variants, axes=axes, **changes)


def test_styles_and_weights_of_variants_are_each_drawn_as_alone(engine: DiffusersEngine) -> None:
    variants = (
        Variant(), Variant(wrap="pixels of {prompt}", style="pixel-art"), Variant(more_negative="a red circle", wrap=""),
        Variant(loras=(("chalk", 1.0),)), Variant(loras=(("chalk", 0.0),)),
    )  # fmt: skip
    asked = request(count=5, seed=3, variants=tuple(replace(one, seed=3) for one in variants), wrap="{prompt}, neon")
    equals_each_alone(engine, asked)
    drawn = [picture.pixels for picture in engine.generate(asked, Notes()).pictures]
    assert drawn[0] == drawn[4]
    assert len(set(drawn)) == 4


@pytest.mark.parametrize("budget_bytes", [None, 1], ids=["room for both", "room for one"])
def test_sheet_over_models_is_drawn_by_one_after_the_other_as_each_cell_alone(
    tmp_path: Path, budget_bytes: int | None
) -> None:
    engine = two_that_differ(tmp_path, budget_bytes=budget_bytes)
    notes = Notes()
    drawn = engine.generate(over_models(), notes).pictures
    assert [picture.n for picture in drawn] == [0, 1, 2, 3]
    assert [load.model for load in notes.loads] == ["one", "one", "two", "two"]
    finished = [picture.n for progress in notes.progress for picture in progress.finished]
    assert [{*finished[:2]}, {*finished[2:]}] == [{0, 2}, {1, 3}]
    steps = [progress.step for progress in notes.progress]
    assert steps == sorted(steps)
    assert (steps[-1], notes.progress[-1].steps) == (4, 4)
    assert drawn[0].pixels != drawn[1].pixels
    for picture in drawn:
        same(picture, engine.generate(over_models().alone(picture.n), Notes()).pictures[0])


def test_sheet_over_a_model_in_lanes_and_one_by_its_pipeline_has_all_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    general(monkeypatch, model="two")
    engine = two_that_differ(tmp_path)
    calls = traced(engine, monkeypatch, "two")
    drawn = engine.generate(over_models(), Notes()).pictures
    assert calls
    for picture in drawn:
        same(picture, engine.generate(over_models().alone(picture.n), Notes()).pictures[0])


def test_sheet_over_models_from_a_picture_encodes_it_for_each(tmp_path: Path) -> None:
    engine = two_that_differ(tmp_path)
    inputs = InputPictures(RawPicture(0, 0, 64, 64, bytes((200, 40, 40)) * 64 * 64))
    asked = over_models(image="0" * 64, strength=0.5)
    for picture in engine.generate(asked, Notes(), inputs).pictures:
        same(picture, engine.generate(asked.alone(picture.n), Notes(), inputs).pictures[0])


def test_sheet_over_models_with_a_reference_reads_it_by_each_ones_adapter(tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(POCKET / "unet")
    write_encoder(tmp_path / "image_encoder")
    more: dict[str, str] = {}
    for seed, name in enumerate(("one", "two")):
        file = write_ip_adapter(unet, tmp_path / f"{name}.safetensors", seed=seed)
        more[name] = f'ip_adapter = "{file.as_posix()}"\n'
    engine = two_that_differ(tmp_path, more)
    inputs = InputPictures(reference=RawPicture(0, 0, 64, 64, bytes((200, 40, 40)) * 64 * 64))
    asked = over_models(reference="0" * 64)
    for picture in engine.generate(asked, Notes(), inputs).pictures:
        same(picture, engine.generate(asked.alone(picture.n), Notes(), inputs).pictures[0])


def test_sheet_over_models_of_which_one_is_gone_fails_by_its_name_before_it_is_begun(tmp_path: Path) -> None:
    engine, notes = engine_of_two(tmp_path), Notes()
    asked = over_models()
    asked = replace(asked, variants=(*asked.variants[:3], Variant(seed=4, model="gone")))
    with pytest.raises(ModelError, match="'gone' is not in the catalogue any more"):
        engine.generate(asked, notes)
    assert not notes.loads


def test_sheet_over_models_of_which_the_second_fails_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = two_that_differ(tmp_path)
    broken(monkeypatch, 1)
    with pytest.raises(InvalidOutput):
        engine.generate(over_models(), Notes())
    assert not engine.busy
    engine.generate(request(model="two"), Notes())
