from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from bot.catalogue.models_file import parse_catalogue
from bot.engine.devices import Device
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.files.weights import ModelFiles
from bot.engine.lanes import previews
from bot.engine.lanes.previews import fit_map
from bot.engine.memory import residents
from bot.engine.memory.plans import Mode, Plan
from bot.errors import ModelError
from tests.unit.engine.fakes import POCKET, FakeHub, Notes, request
from tests.unit.engine.single_file import write_single_file

ENTRY = '[models.mine]\nname = "Mine"\nsource = "{source}"\nfamily = "{family}"\nlicence = "MIT"\n'


def engine_for(root: Path, source: str, family: str = "sd15") -> tuple[DiffusersEngine, ModelFiles]:
    catalogue = parse_catalogue(ENTRY.format(source=source, family=family), origin="models.toml")
    engine = DiffusersEngine(
        catalogue, models_root=root, cache_dir=root / "hub", device="cpu", dtype="auto", max_batch=1
    )
    return engine, ModelFiles(catalogue, models_root=root, cache_dir=root / "hub", hf_token=None)


def settings_folder(target: Path) -> None:
    shutil.copytree(POCKET, target, ignore=shutil.ignore_patterns("*.safetensors"))


def test_generate_single_file_with_its_settings_beside_draws_the_same(engine: DiffusersEngine, tmp_path: Path) -> None:
    write_single_file(POCKET, tmp_path / "mine.safetensors")
    settings_folder(tmp_path / "mine")
    own, _ = engine_for(tmp_path, "mine.safetensors")
    drawn = own.generate(request(model="mine"), Notes()).pictures[0]
    assert drawn.pixels == engine.generate(request(), Notes()).pictures[0].pixels


def test_fetch_single_file_gets_its_familys_settings_once_and_no_weights(hub: FakeHub, tmp_path: Path) -> None:
    write_single_file(POCKET, tmp_path / "mine.safetensors")
    hub.add_folder("stable-diffusion-v1-5/stable-diffusion-v1-5", POCKET)
    own, files = engine_for(tmp_path, "mine.safetensors")
    assert not files.is_local("mine")
    with pytest.raises(ModelError, match="models fetch mine"):
        own.generate(request(model="mine"), Notes())
    files.fetch("mine", lambda _: None, lambda: False)
    assert files.is_local("mine")
    assert not any(asked.endswith(".safetensors") for asked in hub.asked)
    hub.close()
    assert own.generate(request(model="mine", num_inference_steps=1), Notes()).pictures


def test_generate_single_file_of_a_family_without_them_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"not read")
    own, _ = engine_for(tmp_path, "mine.safetensors", "qwen-image")
    with pytest.raises(ModelError, match="not 'qwen-image'; use the model's diffusers folder"):
        own.generate(request(model="mine"), Notes())


def test_generate_damaged_weights_are_one_sentence_naming_the_model(tmp_path: Path) -> None:
    shutil.copytree(POCKET, tmp_path / "own" / "model")
    (tmp_path / "own" / "model" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"torn")
    own, _ = engine_for(tmp_path, "own/model")
    with pytest.raises(ModelError, match=r"Mine: .*own/model/unet/.*safetensors is cut off") as caught:
        own.generate(request(model="mine"), Notes())
    assert "\n" not in str(caught.value)


def test_generate_folder_with_code_of_its_own_does_not_run_it(tmp_path: Path) -> None:
    folder = tmp_path / "own" / "model"
    shutil.copytree(POCKET, folder)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index["unet"] = ["evil", "Evil"]
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    ran = tmp_path / "ran"
    for name in ("evil.py", "unet/evil.py"):
        (folder / name).write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n", encoding="utf-8")
    own, _ = engine_for(tmp_path, "own/model")
    with pytest.raises(ModelError, match="code of a model's own is never run"):
        own.generate(request(model="mine"), Notes())
    assert not ran.exists()


def test_generate_safety_checker_of_the_model_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "own" / "model"
    shutil.copytree(POCKET, folder)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    own, _ = engine_for(tmp_path, "own/model")
    assert own.generate(request(model="mine", num_inference_steps=1), Notes()).pictures


def test_generate_family_that_overflows_in_fp16_is_loaded_in_another_dtype(tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(POCKET)
    own, _ = engine_for(tmp_path, "mine", "flux")
    own._device = Device("cpu", "an old card", "fp16", None, dtype_asked=False, computes_bf16=False)
    result = own.generate(request(model="mine", num_inference_steps=1), Notes())
    loaded = own.residents.use("mine")
    assert result.dtype == "fp32"
    assert {part.dtype for part in (loaded.pipe.unet, loaded.pipe.vae, loaded.pipe.text_encoder)} == {torch.float32}


def test_fit_map_shows_the_colours_of_what_the_vae_encoded() -> None:
    vae = AutoencoderKL.from_pretrained(POCKET, subfolder="vae", use_safetensors=True, dtype=torch.float32)
    with torch.no_grad():
        fitted = fit_map(vae)
        assert fitted.shape == (5, 3)
        for colour in ((0.8, -0.6, -0.6), (-0.6, 0.4, 0.9), (0.9, 0.9, 0.9)):
            picture = torch.tensor(colour).reshape(1, 3, 1, 1).expand(1, 3, 64, 64)
            latents = vae.encode(picture).latent_dist.mode() * vae.config.scaling_factor
            flat = latents[0].permute(1, 2, 0)
            shown = torch.cat([flat, torch.ones_like(flat[..., :1])], dim=-1) @ fitted
            assert (shown.mean(dim=(0, 1)) - torch.tensor(colour)).abs().max() < 0.35


def test_fit_map_half_precision_vae_is_left_as_it_is_and_gives_the_same() -> None:
    vae: Any = AutoencoderKL.from_pretrained(POCKET, subfolder="vae", use_safetensors=True, dtype=torch.float32)
    whole = fit_map(vae)
    half = fit_map(vae.to(torch.float16))
    assert vae.dtype == torch.float16
    assert (half.dtype, half.device.type) == (torch.float32, "cpu")
    # Rounding the weights to fp16 is all that differs.
    assert (half - whole).abs().max() < 0.02


def test_generate_larger_vae_is_looked_into_before_it_is_placed_and_not_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").symlink_to(POCKET)
    own, _ = engine_for(tmp_path, "mine")
    order: list[str] = []
    encode: Any = AutoencoderKL.encode

    def note_encode(*args: Any, **kwargs: Any) -> Any:
        order.append("encode")
        return encode(*args, **kwargs)

    def note_place(*args: Any) -> Plan:
        order.append("place")
        return Plan(Mode.WHOLE)

    monkeypatch.setattr(previews, "TINY_VAE_PARAMETERS", 0)
    monkeypatch.setattr(AutoencoderKL, "encode", note_encode)
    monkeypatch.setattr(residents, "place_pipeline", note_place)
    notes = Notes(every=1)
    own.generate(request(model="mine"), notes)
    assert order == ["encode", "place"]
    assert any(progress.preview is not None for progress in notes.progress)


def test_previewer_vae_that_cannot_be_fitted_has_no_previews_and_the_picture_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").symlink_to(POCKET)
    own, _ = engine_for(tmp_path, "mine")

    def fail(*args: Any) -> None:
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(previews, "TINY_VAE_PARAMETERS", 0)
    monkeypatch.setattr(previews, "fit_map", fail)
    notes = Notes(every=1)
    assert own.generate(request(model="mine"), notes).pictures
    assert notes.progress
    assert all(progress.preview is None for progress in notes.progress)
