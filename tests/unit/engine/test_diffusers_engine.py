from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bot.catalogue.models import Catalogue
from bot.catalogue.models_file import parse_catalogue
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.general import call_options
from bot.errors import GenerationCancelled, GenerationError, InvalidOutput, ModelError, OutOfMemory, RequestError
from bot.generation import RawPicture
from tests.unit.engine.fakes import POCKET, ROOT, Notes, request


def pixels(picture: RawPicture) -> np.ndarray[Any, Any]:
    shape = (picture.height, picture.width, 3)
    return np.frombuffer(picture.pixels, dtype=np.uint8).reshape(shape).astype(int)


def pipe_of(engine: DiffusersEngine) -> Any:
    engine.generate(request(num_inference_steps=1), Notes())
    return engine.residents.use("pocket").pipe


def test_start_on_cpu_draws_in_fp32(engine: DiffusersEngine) -> None:
    info = engine.start()
    assert (info.device, info.dtype) == ("cpu", "fp32")
    assert info.device_name


def test_start_missing_device_says_what_to_set(catalogue: Catalogue, tmp_path: Path) -> None:
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    engine = DiffusersEngine(catalogue, models_root=ROOT, cache_dir=tmp_path, device=missing, dtype="auto", max_batch=1)
    with pytest.raises(GenerationError, match=f"EASEL_DEVICE is {missing}.*EASEL_DEVICE=auto"):
        engine.start()


def test_generate_same_seed_twice_gives_the_same_bytes(engine: DiffusersEngine) -> None:
    asked = request(sampler="Euler a")
    first, second = (engine.generate(asked, Notes()).pictures for _ in range(2))
    assert first == second


def test_generate_other_seed_gives_another_picture(engine: DiffusersEngine) -> None:
    first, second = (engine.generate(request(seed=seed), Notes()).pictures[0] for seed in (7, 8))
    assert first.pixels != second.pixels


@pytest.mark.parametrize("sampler", ["DDIM", "Euler a"])
def test_generate_picture_of_a_batch_equals_the_one_alone(engine: DiffusersEngine, sampler: str) -> None:
    # Six make a full batch of four and one of two.
    together = engine.generate(request(count=6, sampler=sampler), Notes()).pictures
    assert [(p.n, p.seed) for p in together] == [(n, 7 + n) for n in range(6)]
    for n in (0, 3, 5):
        alone = engine.generate(request(seed=7 + n, sampler=sampler), Notes()).pictures[0]
        assert np.abs(pixels(alone) - pixels(together[n])).max() <= 2


def test_generate_progress_counts_the_steps_asked_for_over_all_pictures(engine: DiffusersEngine) -> None:
    notes = Notes()
    result = engine.generate(request(count=5), notes)
    assert [(p.step, p.steps) for p in notes.progress] == [(step, 4) for step in range(1, 5)]
    assert 0 < result.denoise_s < result.total_s


def test_generate_two_evaluations_a_step_are_counted_as_asked(engine: DiffusersEngine) -> None:
    notes = Notes()
    engine.generate(request(sampler="Heun"), notes)
    steps = [p.step for p in notes.progress]
    assert steps == sorted(steps)
    assert set(steps) == {1, 2, 3, 4}


def test_generate_previews_come_when_wanted_and_grow_towards_the_picture(engine: DiffusersEngine) -> None:
    notes = Notes(every=2)
    picture = engine.generate(request(num_inference_steps=8), notes).pictures[0]
    previews = [p.preview for p in notes.progress]
    assert [preview is not None for preview in previews] == [False, True] * 4
    shown = [p for p in previews if p is not None]
    assert all((p.width, p.height) == (64, 64) for p in shown)
    errors = [float(np.abs(pixels(p) - pixels(picture)).mean()) for p in shown]
    assert errors[-1] < 2
    assert errors[0] > errors[-1]


@pytest.mark.parametrize("sampler", ["DDIM", "Euler", "Euler a", "DPM++ 2M Karras", "DPM++ 2M SDE", "UniPC", "Heun"])
def test_generate_previews_with_every_sampler_show_the_scene(engine: DiffusersEngine, sampler: str) -> None:
    notes = Notes(every=1)
    # With fewer steps only some samplers get from pure noise to a picture: pocket begins with no signal at all.
    asked = request(num_inference_steps=20, width=128, height=128, sampler=sampler)
    picture = engine.generate(asked, notes).pictures[0]
    third = notes.progress[len(notes.progress) * 3 // 4].preview
    assert third is not None
    assert float(np.abs(pixels(third) - pixels(picture)).mean()) < 40


def test_generate_cancelled_stops_within_a_step_and_the_next_one_works(engine: DiffusersEngine) -> None:
    notes = Notes(cancel_after=2)
    with pytest.raises(GenerationCancelled):
        engine.generate(request(num_inference_steps=20), notes)
    assert len(notes.progress) == 2
    assert engine.generate(request(), Notes()).pictures


def test_generate_out_of_memory_halves_the_batch_and_draws_the_same(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.residents.unload_all_but("pocket")  # what other tests have left there would go first
    unet = pipe_of(engine).unet
    forward = unet.forward
    rows: list[int] = []

    def tight(sample: Any, *args: Any, **kwargs: Any) -> Any:
        rows.append(sample.shape[0])
        if sample.shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(unet, "forward", tight)
    notes = Notes()
    pictures = engine.generate(request(count=4), notes).pictures
    assert [p.n for p in pictures] == [0, 1, 2, 3]
    assert rows[:3] == [8, 4, 2]
    assert (notes.progress[-1].step, notes.progress[-1].steps) == (4, 4)
    monkeypatch.undo()
    assert np.abs(pixels(pictures[3]) - pixels(engine.generate(request(seed=10), Notes()).pictures[0])).max() <= 2


def test_generate_out_of_memory_alone_says_what_to_ask_for(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(pipe_of(engine).unet, "forward", full)
    with pytest.raises(OutOfMemory, match=r"Pocket has no room for 64×64.*smaller size"):
        engine.generate(request(), Notes())
    monkeypatch.undo()
    assert engine.generate(request(), Notes()).pictures


@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "broken picture"), (-1e9, "black picture")], ids=["not a number", "black"]
)
def test_generate_broken_output_is_no_picture(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch, value: float, words: str
) -> None:
    vae = pipe_of(engine).vae
    decode = vae.decode

    def broken(*args: Any, **kwargs: Any) -> Any:
        return tuple(torch.full_like(part, value) for part in decode(*args, **kwargs))

    monkeypatch.setattr(vae, "decode", broken)
    with pytest.raises(InvalidOutput, match=words):
        engine.generate(request(num_inference_steps=1), Notes())


def test_generate_guidance_of_one_skips_the_unconditional_rows(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = pipe_of(engine).unet
    forward = unet.forward
    rows: list[int] = []

    def counted(sample: Any, *args: Any, **kwargs: Any) -> Any:
        rows.append(sample.shape[0])
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(unet, "forward", counted)
    engine.generate(request(guidance_scale=1.0), Notes())
    assert set(rows) == {1}


def test_generate_negative_prompt_changes_the_picture(engine: DiffusersEngine) -> None:
    plain, without = (engine.generate(request(negative_prompt=text), Notes()).pictures[0] for text in ("", "a sunset"))
    assert plain.pixels != without.pixels


def test_generate_unknown_sampler_lists_those_there_are(engine: DiffusersEngine) -> None:
    with pytest.raises(RequestError, match=r"'Turbo'.*Euler a"):
        engine.generate(request(sampler="Turbo"), Notes())


def test_generate_model_no_longer_in_the_catalogue_is_named(engine: DiffusersEngine) -> None:
    with pytest.raises(ModelError, match="'gone'"):
        engine.generate(request(model="gone"), Notes())


@pytest.mark.parametrize("aspect", ["1:1", "3:2", "2:3", "4:3", "3:4", "16:9", "9:16"])
def test_generate_every_aspect_of_the_built_in_model_has_its_size(
    engine: DiffusersEngine, catalogue: Catalogue, aspect: str
) -> None:
    width, height = catalogue["pocket"].sizes[aspect]
    picture = engine.generate(request(width=width, height=height, num_inference_steps=1), Notes()).pictures[0]
    assert (picture.width, picture.height) == (width, height)
    assert len(picture.pixels) == width * height * 3


def engine_of_two(folder: Path, **options: Any) -> DiffusersEngine:
    entry = '[models.{id}]\nname = "{id}"\nsource = "{source}"\nfamily = "sd15"\nlicence = "MIT"\n'
    text = "".join(entry.format(id=name, source=POCKET.as_posix()) for name in ("one", "two"))
    return DiffusersEngine(
        parse_catalogue(text, origin="models.toml"), models_root=folder, cache_dir=folder, device="cpu", dtype="auto",
        max_batch=4, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("budget_bytes", "loads"),
    [(None, ["one", "two"]), (1, ["one", "two", "one"])],
    ids=["room for both", "room for one"],
)
def test_generate_keeps_models_in_memory_as_long_as_they_fit(
    tmp_path: Path, budget_bytes: int | None, loads: list[str]
) -> None:
    engine = engine_of_two(tmp_path, budget_bytes=budget_bytes)
    notes = Notes()
    for model in ("one", "one", "two", "one"):
        engine.generate(request(model=model, num_inference_steps=1), notes)
    size = sum(file.stat().st_size for file in POCKET.rglob("*.safetensors"))
    assert [(p.model, p.done_bytes, p.total_bytes) for p in notes.loads] == [
        (model, done, size) for model in loads for done in (0, size)
    ]


class _Config:
    def __init__(self, guidance_embeds: bool) -> None:
        self.config = self
        self.guidance_embeds = guidance_embeds


class _TrueGuidance:
    transformer = _Config(guidance_embeds=False)

    def __call__(self, prompt: Any, negative_prompt: Any, true_cfg_scale: Any, guidance_scale: Any, width: Any) -> None:
        return None


class _EmbeddedGuidance(_TrueGuidance):
    transformer = _Config(guidance_embeds=True)


class _NoNegative:
    def __call__(self, prompt: Any, guidance_scale: Any, height: Any) -> None:
        return None


def test_call_options_true_guidance_gets_a_negative_to_guide_from(catalogue: Catalogue) -> None:
    options = call_options(_TrueGuidance(), catalogue["qwen-image"], request(), 2)
    assert options == {
        "prompt": ["a sunset over a beach"] * 2, "negative_prompt": [" "] * 2, "true_cfg_scale": 4.0, "width": 64,
    }  # fmt: skip


def test_call_options_embedded_guidance_goes_into_the_model(catalogue: Catalogue) -> None:
    options = call_options(_EmbeddedGuidance(), catalogue["sd15"], request(negative_prompt="rain"), 1)
    assert options["guidance_scale"] == 4.0
    assert options["negative_prompt"] == ["rain"]
    assert "true_cfg_scale" not in options


def test_call_options_pipeline_without_negative_prompt_gets_none(catalogue: Catalogue) -> None:
    options = call_options(_NoNegative(), catalogue["sd15"], request(negative_prompt="rain"), 1)
    assert set(options) == {"prompt", "guidance_scale", "height"}
