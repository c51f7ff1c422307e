"""Smaller weights: 8 bits by torchao, GGUF files; both draw what their weights say, and say what is missing."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from bot.catalogue.models_file import parse_catalogue
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.files.weights import ModelFiles
from bot.engine.loading import quantizing
from bot.engine.memory.host_copies import HostCopy, tensor_bytes
from bot.engine.memory.placing import part_sizes
from bot.errors import ConfigError, ModelError
from tests.unit.engine.fakes import POCKET, FakeHub, Notes, request
from tests.unit.engine.single_file import write_single_file
from tests.unit.engine.test_diffusers_engine import pixels

ENTRY = '[models.mine]\nname = "Mine"\nsource = "{source}"\nfamily = "sd15"\nlicence = "MIT"\n'
UNET = "unet/diffusion_pytorch_model.safetensors"


def engine_for(root: Path, source: str, more: str = "", **options: Any) -> DiffusersEngine:
    catalogue = parse_catalogue(ENTRY.format(source=source) + more, origin="models.toml")
    return DiffusersEngine(
        catalogue, models_root=root, cache_dir=root / "hub", device="cpu", dtype="auto", max_batch=2, **options
    )


def drawn(engine: DiffusersEngine) -> np.ndarray[Any, Any]:
    asked = request(model="mine", count=2)
    return np.stack([pixels(picture) for picture in engine.generate(asked, Notes()).pictures])


def folder_with(root: Path, weights: dict[str, np.ndarray[Any, Any]]) -> Path:
    """The built-in model with another denoiser."""
    shutil.copytree(POCKET, root)
    save_file(weights, root / UNET)
    return root


def _plain(tensor: Any) -> np.ndarray[Any, Any]:
    value = tensor.dequantize() if tensor_bytes(tensor) != tensor.numel() * tensor.element_size() else tensor
    return np.ascontiguousarray(value.detach().float().numpy())


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_generate_8_bit_weights_draw_as_the_numbers_they_stand_for(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("torchao")
    (tmp_path / "mine").symlink_to(POCKET)
    engine = engine_for(tmp_path, "mine", f'quantization = "{kind}"\n')
    small = drawn(engine)
    loaded = engine.residents.use("mine")
    unet: Any = loaded.pipe.unet
    layers = {name: part for name, part in unet.named_modules() if isinstance(part, torch.nn.Linear)}
    assert all(tensor_bytes(part.weight) < part.weight.numel() * 2 for part in layers.values())
    assert part_sizes(loaded.pipe)["unet"] < sum(p.numel() for p in unet.parameters()) * 3
    state = {name: _plain(value) for name, value in unet.state_dict().items()}
    own = folder_with(tmp_path / "own", state)
    assert np.abs(drawn(engine_for(own.parent, "own")) - small).max() <= 2
    plain = engine_for(tmp_path, "mine")
    difference = np.abs(drawn(plain) - small)
    assert difference.max() > 0
    assert difference.mean() < 8


def test_host_copy_8_bit_weights_leave_the_device_and_come_back(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    (tmp_path / "mine").symlink_to(POCKET)
    engine = engine_for(tmp_path, "mine", 'quantization = "int8"\n', ram_budget_bytes=1 << 30)
    before = drawn(engine)
    engine.residents.unload({"mine"})
    assert engine.residents.models_in_main_memory == {"mine"}
    assert np.array_equal(drawn(engine), before)
    assert engine.metrics.loads == 1


def test_host_copy_8_bit_weights_move_with_their_scales_and_stay_the_same_parameter() -> None:
    tools = pytest.importorskip("torchao.quantization")
    part = torch.nn.Linear(64, 64, bias=False).requires_grad_(False)
    tools.quantize_(part, tools.Int8WeightOnlyConfig(version=2))
    pipe = type("Pipe", (), {"components": {"unet": part}})
    weight, meant = part.weight, part.weight.dequantize()
    copy = HostCopy(pipe, pin=False)
    for _ in range(2):
        copy.to_host()
        copy.to_device("meta")
        assert part.weight is weight
        assert {weight.qdata.device.type, weight.scale.device.type} == {"meta"}
    copy.to_host()
    assert part.weight is weight
    assert torch.equal(weight.dequantize(), meant)


def write_gguf(weights: dict[str, np.ndarray[Any, Any]], target: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Write a denoiser as a GGUF file, its matrices in Q8_0; gives back the numbers that the file stands for."""
    import gguf

    writer = gguf.GGUFWriter(str(target), "sd1")
    meant: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in weights.items():
        if value.ndim == 2 and value.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            data = gguf.quants.quantize(value.astype(np.float32), kind)
            writer.add_tensor(name, data, raw_dtype=kind)
            meant[name] = gguf.quants.dequantize(data, kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(value, dtype=np.float32))
            meant[name] = value.astype(np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


def pocket_unet() -> dict[str, np.ndarray[Any, Any]]:
    import safetensors.torch

    loaded = safetensors.torch.load_file(POCKET / UNET)
    return {name: value.float().numpy() for name, value in loaded.items()}


GGUF = 'quantization = "gguf"\nbase = "base"\n'


@pytest.mark.parametrize("names", ["diffusers", "original"])
def test_generate_gguf_file_draws_as_the_numbers_it_stands_for(tmp_path: Path, names: str) -> None:
    pytest.importorskip("gguf")
    shutil.copytree(POCKET, tmp_path / "base", ignore=shutil.ignore_patterns("diffusion_pytorch_model*"))
    shutil.copytree(POCKET / "vae", tmp_path / "base" / "vae", dirs_exist_ok=True)
    own = pocket_unet()
    meant = write_gguf(own, tmp_path / "mine.gguf")
    if names == "original":
        write_single_file(POCKET, tmp_path / "whole.safetensors")
        whole = load_file(tmp_path / "whole.safetensors")
        write_gguf({n: v for n, v in whole.items() if n.startswith("model.diffusion_model.")}, tmp_path / "mine.gguf")
    assert any(not np.array_equal(meant[name], own[name]) for name in own)
    engine = engine_for(tmp_path, "mine.gguf", GGUF)
    small = drawn(engine)
    assert type(engine.residents.use("mine").pipe.unet.time_embedding.linear_1.weight).__name__ == "GGUFParameter"
    reference = folder_with(tmp_path / "own", meant)
    assert np.abs(drawn(engine_for(reference.parent, "own")) - small).max() <= 2


def test_host_copy_gguf_weights_leave_the_device_and_come_back(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "base").symlink_to(POCKET)
    write_gguf(pocket_unet(), tmp_path / "mine.gguf")
    engine = engine_for(tmp_path, "mine.gguf", GGUF, ram_budget_bytes=1 << 30)
    before = drawn(engine)
    engine.residents.unload({"mine"})
    assert np.array_equal(drawn(engine), before)
    assert (engine.metrics.loads, engine.metrics.returns) == (1, 1)


@pytest.mark.parametrize(("kind", "package"), [("int8", "torchao"), ("fp8", "torchao"), ("gguf", "gguf")])
def test_generate_quantization_without_its_package_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, package: str
) -> None:
    find = importlib.util.find_spec

    def without(name: str, *args: Any) -> Any:
        return None if name == package else find(name, *args)

    monkeypatch.setattr(quantizing.importlib.util, "find_spec", without)
    (tmp_path / "mine").symlink_to(POCKET)
    (tmp_path / "base").symlink_to(POCKET)
    (tmp_path / "mine.gguf").write_bytes(b"GGUF, not read")
    source = "mine.gguf" if kind == "gguf" else "mine"
    engine = engine_for(tmp_path, source, GGUF if kind == "gguf" else f'quantization = "{kind}"\n')
    with pytest.raises(ModelError, match=rf"needs the package {package}: .*requirements-extra\.txt"):
        engine.generate(request(model="mine"), Notes())


def test_generate_gguf_for_a_denoiser_diffusers_reads_none_of_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    shutil.copytree(POCKET, tmp_path / "base")
    index = json.loads((POCKET / "model_index.json").read_text(encoding="utf-8"))
    index["unet"] = ["diffusers", "UVit2DModel"]
    (tmp_path / "base" / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    (tmp_path / "mine.gguf").write_bytes(b"GGUF, not read")
    engine = engine_for(tmp_path, "mine.gguf", GGUF)
    with pytest.raises(ModelError, match="reads no GGUF files for a UVit2DModel"):
        engine.generate(request(model="mine"), Notes())


def test_generate_damaged_gguf_file_is_one_sentence_naming_the_model(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "base").symlink_to(POCKET)
    (tmp_path / "mine.gguf").write_bytes(b"GGUF, torn")
    with pytest.raises(ModelError, match=r"Mine cannot be loaded from .*mine\.gguf: "):
        engine_for(tmp_path, "mine.gguf", GGUF).generate(request(model="mine"), Notes())


@pytest.mark.parametrize(
    ("source", "more", "said"),
    [
        ("a/b", 'quantization = "int4"', "quantization is one of int8, fp8, gguf"),
        ("a/b", 'quantization = "gguf"', "go together"),
        ("x.gguf", "", "go together"),
        ("x.gguf", 'quantization = "gguf"', "base names the model with the other parts"),
        ("a/b", 'base = "c/d"', "base is for a source that ends in .gguf"),
    ],
)
def test_parse_catalogue_quantization_that_cannot_be_is_refused(source: str, more: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_catalogue(ENTRY.format(source=source) + more, origin="models.toml")


def test_fetch_gguf_base_comes_without_its_denoiser_and_is_no_whole_model(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("someone/pocket", POCKET)
    (tmp_path / "mine.gguf").write_bytes(b"x" * 100)
    text = ENTRY.format(source="mine.gguf") + 'quantization = "gguf"\nbase = "someone/pocket"\n'
    text += ENTRY.format(source="someone/pocket").replace("models.mine", "models.whole")
    files = ModelFiles(
        parse_catalogue(text, origin="models.toml"), models_root=tmp_path, cache_dir=tmp_path / "hub", hf_token=None
    )
    assert not files.is_local("mine")
    with pytest.raises(ModelError, match=r"needs the other parts, of someone/pocket.*models fetch mine"):
        files.locate("mine")
    files.fetch("mine", lambda _: None, lambda: False)
    assert files.is_local("mine")
    assert files.locate("mine")[0] == tmp_path / "mine.gguf"
    assert any("vae/diffusion_pytorch_model.safetensors" in asked for asked in hub.asked)
    assert not any(UNET in asked for asked in hub.asked)
    assert not files.is_local("whole")
    files.fetch("whole", lambda _: None, lambda: False)
    assert files.is_local("whole")
