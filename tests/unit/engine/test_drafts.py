"""`quality=draft`: the model's few-step weights and a tiny VAE, as diffusers' own pipeline draws with them."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from bot.catalogue.models import Catalogue, with_variants
from bot.catalogue.models_file import parse_catalogue
from bot.config import read_settings
from bot.engine.base import Order
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.drawings import Drawing
from bot.engine.files.models import load_catalogue
from bot.engine.general import GeneralRoom
from bot.engine.loading.drafts import lora_file
from bot.errors import ConfigError, ModelError, RequestError
from bot.generation import GenerationOptions, GenerationRequest
from bot.limits import resolve
from tests.unit.engine.fakes import POCKET, Notes, request
from tests.unit.engine.test_diffusers_engine import pixels

ENTRY = f"""
[models.pocket]
name = "Pocket"
source = "{POCKET.as_posix()}"
family = "sd15"
licence = "MIT"
sizes = {{ "1:1" = [64, 64] }}
sampler = "DDIM"
samplers = ["DDIM", "Euler"]
"""
DRAFT = 'draft_lora = "few-steps"\ntiny_vae = "tiny-vae"\ndraft_steps = 3\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few-step weights and a tiny VAE for the built-in model, by chance: what they draw is noise, but always the same."""
    root = tmp_path_factory.mktemp("drafts")
    torch.manual_seed(0)
    pipe = reference_pipe()
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "conv1"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(root / "few-steps", unet_lora_layers=get_peft_model_state_dict(pipe.unet))
    AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    ).save_pretrained(root / "tiny-vae")  # fmt: skip
    (root / "models.toml").write_text(ENTRY + DRAFT)
    return root


def reference_pipe() -> Any:
    pipe = StableDiffusionPipeline.from_pretrained(POCKET, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def catalogue_of(folder: Path, text: str = ENTRY + DRAFT) -> Catalogue:
    (folder / "models.toml").write_text(text)
    return load_catalogue(read_settings({"EASEL_MODELS_FILE": str(folder / "models.toml"), "EASEL_DEVICE": "cpu"}))


def engine_of(catalogue: Catalogue, folder: Path) -> DiffusersEngine:
    return DiffusersEngine(catalogue, models_root=folder, cache_dir=folder, device="cpu", dtype="auto", max_batch=4)


def theirs(pipe: Any, asked: GenerationRequest) -> np.ndarray[Any, Any]:
    images = pipe(
        asked.prompt, width=asked.width, height=asked.height, num_inference_steps=asked.num_inference_steps,
        guidance_scale=asked.guidance_scale, generator=torch.Generator().manual_seed(asked.seed), output_type="np",
    ).images  # fmt: skip
    return (images[0] * 255).round().astype(int)


def test_draft_beside_a_standard_request_each_equal_their_pipeline(folder: Path) -> None:
    engine = engine_of(catalogue_of(folder), folder)
    asked = [
        request("a red circle", num_inference_steps=3, guidance_scale=1.0, quality="draft", seed=1),
        request("a red circle", num_inference_steps=3, seed=1),
    ]
    orders = [Order(one, Notes(every=1), one.quality) for one in asked]
    for order in orders:
        engine.admit(order)
    while engine.busy:
        engine.turn()
    drawn = [order.future.result(0).pictures[0] for order in orders]
    pipe = reference_pipe()
    assert np.abs(pixels(drawn[1]) - theirs(pipe, asked[1])).max() <= 2
    pipe.load_lora_weights(folder / "few-steps")
    pipe.vae = AutoencoderTiny.from_pretrained(folder / "tiny-vae")
    assert np.abs(pixels(drawn[0]) - theirs(pipe, asked[0])).max() <= 2
    assert np.abs(pixels(drawn[0]) - pixels(drawn[1])).max() > 10
    notes: Any = orders[0].listener
    assert {load.model for load in notes.loads} == {"pocket"}
    assert all(progress.preview is not None for progress in notes.progress)
    numbers = {one.model: one for one in engine.metrics.models}
    assert (numbers["pocket+draft"].rows, numbers["pocket"].rows) == (3, 6)
    engine.close()


def test_draft_whose_weights_are_another_familys_fails_with_their_name(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "few-steps").mkdir()
    layers = {f"transformer.blocks.0.to_q.lora_{half}.weight": torch.zeros(2, 2) for half in "AB"}
    save_file(layers, tmp_path / "few-steps" / "pytorch_lora_weights.safetensors")
    engine = engine_of(catalogue_of(tmp_path, ENTRY + 'draft_lora = "few-steps"\n'), tmp_path)
    with pytest.raises(ModelError, match=r"few-steps (have nothing for|do not suit) Pocket"):
        engine.generate(request(quality="draft", guidance_scale=1.0), Notes())
    engine.close()


def test_draft_of_a_model_that_has_none_any_more_is_refused(folder: Path) -> None:
    engine = engine_of(catalogue_of(folder, ENTRY), folder)
    with pytest.raises(RequestError, match="draws no drafts here any more"):
        engine.generate(request(quality="draft"), Notes())


def test_load_catalogue_offers_drafts_only_where_their_files_are(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue = catalogue_of(folder)
    draft = catalogue["pocket"].draft
    assert draft is not None
    assert (draft.lora, draft.tiny_vae) == (str(folder / "few-steps"), str(folder / "tiny-vae"))
    assert [spec.id for spec in with_variants(catalogue).models] == ["pocket", "pocket+draft"]
    with caplog.at_level(logging.INFO):
        without = catalogue_of(folder, ENTRY + DRAFT.replace("tiny-vae", "nowhere"))
    assert without["pocket"].draft is None
    assert any("no drafts of pocket" in line and "nowhere" in line for line in caplog.messages)
    assert with_variants(without) == without


def test_resolve_draft_takes_the_drafts_defaults_and_keeps_what_was_asked_for(folder: Path) -> None:
    catalogue = catalogue_of(folder, ENTRY + DRAFT + 'draft_sampler = "LCM"\nguidance_end = 0.5\n')
    options = GenerationOptions("a cat", quality="Draft")
    drawn = resolve(options, catalogue, new_seed=lambda: 1)
    assert (drawn.quality, drawn.num_inference_steps, drawn.guidance_scale, drawn.sampler) == ("draft", 3, 1.0, "LCM")
    assert (drawn.model, drawn.guidance_end) == ("pocket", 1.0)
    more = resolve(replace(options, steps=6, sampler="Euler"), catalogue, new_seed=lambda: 1)
    assert (more.num_inference_steps, more.sampler) == (6, "Euler")
    plain = resolve(replace(options, quality="standard"), catalogue, new_seed=lambda: 1)
    assert plain == resolve(replace(options, quality=None), catalogue, new_seed=lambda: 1)
    assert (plain.quality, plain.num_inference_steps, plain.sampler, plain.guidance_end) == (
        "standard",
        30,
        "DDIM",
        0.5,
    )


@pytest.mark.parametrize(
    ("text", "quality", "words"),
    [
        (ENTRY, "draft", "Pocket draws no drafts; leave the quality out"),
        (ENTRY + DRAFT, "best", "no quality 'best'. It takes standard or draft"),
    ],
)
def test_resolve_quality_that_there_is_not_is_refused(folder: Path, text: str, quality: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        resolve(GenerationOptions("a cat", quality=quality), catalogue_of(folder, text), new_seed=lambda: 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("draft_steps = 4", "draft_steps is for drafts, which need draft_lora"),
        ('draft_lora = "x"\ndraft_steps = 0', "draft_steps goes from 1"),
        ('draft_lora = "x"\ndraft_guidance = 50', "draft_guidance goes from 0"),
        ("guidance_end = 0", "above 0 and at most 1"),
        ("guidance_end = 1.5", "above 0 and at most 1"),
    ],
)
def test_parse_catalogue_draft_that_cannot_be_is_named(line: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_catalogue(f"{ENTRY}{line}\n", origin="m.toml")


def test_parse_catalogue_guidance_end_of_a_family_that_is_told_its_guidance_is_refused() -> None:
    with pytest.raises(ConfigError, match="guidance_end is for the families sd15"):
        parse_catalogue(ENTRY.replace('"sd15"', '"flux"') + "guidance_end = 0.5\n", origin="m.toml")


def test_lora_file_takes_one_safetensors_file_and_no_pickle(folder: Path, tmp_path: Path) -> None:
    spec = catalogue_of(folder)["pocket"]
    file = folder / "few-steps" / "pytorch_lora_weights.safetensors"
    assert lora_file(spec, file) == lora_file(spec, file.parent) == (file.parent, file.name)
    (tmp_path / "weights.bin").write_bytes(b"")
    for path in (tmp_path, tmp_path / "weights.bin"):
        with pytest.raises(ModelError, match=r"not one \.safetensors file"):
            lora_file(spec, path)
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(file, tmp_path / name)
    with pytest.raises(ModelError, match=r"not one \.safetensors file"):
        lora_file(spec, tmp_path)


def test_general_room_a_draft_does_not_share_a_call_with_a_standard_request(folder: Path) -> None:
    catalogue = with_variants(catalogue_of(folder))
    room = GeneralRoom(4)
    for number, quality in enumerate(("standard", "draft", "draft")):
        asked = request("a cat", quality=quality, guidance_scale=1.0)
        spec = catalogue["pocket+draft" if quality == "draft" else "pocket"]
        room.wait(Drawing(Order(asked, Notes()), spec, asked, number, 0.0, [0]), [0])
    loaded: Any = SimpleNamespace()
    assert [run.rows for run in room.riders(lambda _: loaded)] == [1, 2, 2]
