"""Models and VAEs that lie in the data directory: found, told by their headers, drawn with."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from bot.catalogue.models import Catalogue
from bot.config import read_settings
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.files.checkpoints import find_checkpoints
from bot.engine.files.models import load_catalogue
from bot.errors import ConfigError, ModelError
from bot.generation import GenerationOptions
from bot.limits import resolve
from tests.unit.engine.fakes import POCKET, Notes, request
from tests.unit.engine.single_file import write_single_file
from tests.unit.engine.test_diffusers_engine import pixels
from tests.unit.engine.test_drafts import theirs
from tests.unit.engine.test_loading import settings_folder

ENTRY = f'[models.pocket]\nname = "Pocket"\nsource = "{POCKET.as_posix()}"\nfamily = "sd15"\nlicence = "MIT"\nbase_px = 64\n'


def catalogue_of(folder: Path, more: str = "", **settings: str) -> Catalogue:
    (folder / "models.toml").write_text(ENTRY + more)
    environment = {
        "EASEL_MODELS_FILE": str(folder / "models.toml"),
        "EASEL_DATA_DIR": str(folder),
        "EASEL_DEVICE": "cpu",
    }
    return load_catalogue(read_settings({**environment, **settings}))


def engine_of(catalogue: Catalogue, folder: Path) -> DiffusersEngine:
    return DiffusersEngine(catalogue, models_root=folder, cache_dir=folder, device="cpu", dtype="auto", max_batch=2)


def header(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.zeros(1) for name in names}, path)


UNET = "model.diffusion_model."
CONV = f"{UNET}input_blocks.0.0.weight"
READS = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def checkpoint(path: Path, width: int, encoder: str, *more: str, channels: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {CONV: torch.zeros(2, channels, 1, 1), READS: torch.zeros(2, width), encoder: torch.zeros(1)}
    save_file({**state, **{name: torch.zeros(1) for name in more}}, path)


SD15, SD21, SDXL = "cond_stage_model.transformer.x", "cond_stage_model.model.x", "conditioner.embedders.1.x"


def test_checkpoints_become_models_with_what_suits_their_family(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    checkpoint(folder / "Dream Shaper (8).safetensors", 768, SD15)
    checkpoint(folder / "two" / "v2.safetensors", 1024, SD21)
    checkpoint(folder / "xl.v1.safetensors", 2048, SDXL)
    header(folder / "three.safetensors", f"{UNET}joint_blocks.0.x_block.attn2.qkv.weight", "text_encoders.clip_l.a.b")
    header(folder / "schnell.safetensors", f"{UNET}double_blocks.0.img_attn.qkv.weight", "text_encoders.t5.a.b")
    shutil.copytree(POCKET, folder / "small")
    catalogue = catalogue_of(tmp_path)
    families = {spec.id: (spec.family, spec.words_width) for spec in catalogue.models}
    assert families == {
        "pocket": ("sd15", 128), "Dream-Shaper-8": ("sd15", 768), "schnell": ("flux", None), "small": ("sd15", 128),
        "three": ("sd3", None), "v2": ("sd21", 1024), "xl.v1": ("sdxl", 2048),
    }  # fmt: skip
    asked = resolve(GenerationOptions("a cat", model="xl.v1"), catalogue, new_seed=lambda: 1)
    assert (asked.width, asked.num_inference_steps, asked.sampler) == (1024, 30, "DPM++ 2M Karras")
    assert catalogue_of(tmp_path, EASEL_MODEL="xl.v1").default == "xl.v1"
    with pytest.raises(ConfigError, match="default model 'none' is not in"):
        catalogue_of(tmp_path, EASEL_MODEL="none")
    assert find_checkpoints(catalogue, tmp_path).left_out == ()


def test_checkpoints_that_cannot_be_told_are_left_out_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "checkpoints"
    checkpoint(folder / "pocket.safetensors", 768, SD15)
    checkpoint(folder / "inpainting.safetensors", 768, SD15, channels=9)
    checkpoint(folder / "refiner.safetensors", 1280, SDXL)
    checkpoint(folder / "noob.safetensors", 2048, SDXL, "v_pred")
    checkpoint(folder / "unet.safetensors", 768, "unknown")
    checkpoint(tmp_path / "outside.safetensors", 768, SD15)
    os.symlink(tmp_path / "outside.safetensors", folder / "link.safetensors")
    header(folder / "dev.safetensors", f"{UNET}double_blocks.0.a.b", f"{UNET}guidance_in.a.b", "text_encoders.t5.a.b")
    header(folder / "alone.safetensors", f"{UNET}double_blocks.0.a.b")
    header(folder / "lora.safetensors", "lora_unet_x.lora_down.weight")
    (folder / "old.ckpt").write_bytes(b"\x80\x02never read")
    (folder / "renamed.safetensors").write_bytes(b"\x80\x04never read")
    (folder / "other").mkdir()
    (folder / "other" / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    catalogue = catalogue_of(tmp_path)
    assert [spec.id for spec in catalogue.models] == ["pocket"]
    said = {Path(line.split(" is left out")[0]).name: line for line in caplog.messages if " is left out: it " in line}
    for name, words in {
        "pocket.safetensors": "another model's", "inpainting.safetensors": "for inpainting", "refiner.safetensors": "refiner",
        "noob.safetensors": "predict v", "unet.safetensors": "without its text encoders", "link.safetensors": "leads out",
        "dev.safetensors": "settings are known", "alone.safetensors": "denoiser alone", "lora.safetensors": "no checkpoint",
        "old.ckpt": "pickle", "renamed.safetensors": "pickle", "other": "KandinskyPipeline",
    }.items():  # fmt: skip
        assert words in said[name], name


def test_checkpoint_with_an_annotators_name_is_left_out(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoints" / "eyes.safetensors", 768, SD15)
    table = '\n[annotators.eyes]\nkind = "caption"\nname = "Eyes"\nsource = "a/b"\nlicence = "MIT"\n'
    catalogue = catalogue_of(tmp_path, table)
    assert catalogue.get("eyes") is None
    assert "would have the id eyes" in find_checkpoints(catalogue, tmp_path).left_out[0]


def test_checkpoint_file_and_folder_draw_what_the_model_draws(engine: DiffusersEngine, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    write_single_file(POCKET, folder / "mine.safetensors")
    settings_folder(folder / "mine")
    shutil.copytree(POCKET, folder / "whole")
    catalogue = catalogue_of(tmp_path)
    assert [spec.id for spec in catalogue.models] == ["pocket", "mine", "whole"]
    own = engine_of(catalogue, tmp_path)
    expected = engine.generate(request(), Notes()).pictures[0].pixels
    for model in ("mine", "whole"):
        assert own.generate(request(model=model), Notes()).pictures[0].pixels == expected
    own.close()


@pytest.fixture
def vae(tmp_path: Path) -> Any:
    """The built-in model's VAE, changed so that one sees it, in the data directory: a folder, and a file with the original names."""
    made: Any = AutoencoderKL.from_pretrained(POCKET / "vae")
    with torch.no_grad():
        made.decoder.conv_out.bias += 0.4
    made.save_pretrained(tmp_path / "vaes" / "bright")
    write_single_file(POCKET, tmp_path / "whole.safetensors")
    start = "first_stage_model."
    state = {
        n.removeprefix(start): t for n, t in load_file(tmp_path / "whole.safetensors").items() if n.startswith(start)
    }
    state["decoder.conv_out.bias"] = made.decoder.conv_out.bias.detach().clone()
    save_file(state, tmp_path / "vaes" / "brightfile.safetensors")
    return made


def test_vae_of_a_table_is_drawn_with_as_the_pipeline_would(tmp_path: Path, vae: Any) -> None:
    pipe: Any = StableDiffusionPipeline.from_pretrained(POCKET, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    plain = theirs(pipe, request())
    pipe.vae = vae
    expected = theirs(pipe, request())
    assert np.abs(expected - plain).mean() > 20
    for named in ("bright", "brightfile", "vaes/brightfile.safetensors", str(tmp_path / "vaes" / "bright")):
        own = engine_of(catalogue_of(tmp_path, f'vae = "{named}"\n'), tmp_path)
        drawn = own.generate(request(), Notes()).pictures[0]
        assert np.abs(pixels(drawn) - expected).max() <= 2, named
        own.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [("none", "there is no VAE"), ("old.pt", "others are refused unread"), ("wide", "other latents than the model"),
     ("torn.safetensors", "torn.safetensors is cut off")],
)  # fmt: skip
def test_vae_that_does_not_go_is_named(tmp_path: Path, name: str, words: str) -> None:
    folder = tmp_path / "vaes"
    folder.mkdir()
    (folder / "old.pt").write_bytes(b"\x80\x02never read")
    (folder / "torn.safetensors").write_bytes(b"torn")
    config = {
        key: value for key, value in AutoencoderKL.load_config(POCKET / "vae").items() if not str(key).startswith("_")
    }
    AutoencoderKL(**{**config, "latent_channels": 8}).save_pretrained(folder / "wide")
    own = engine_of(catalogue_of(tmp_path, f'vae = "{name}"\n'), tmp_path)
    with pytest.raises(ModelError, match=words):
        own.generate(request(), Notes())
