"""Control networks as files: folders and single files, of one kind and of several; what does not fit is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bot.catalogue.models_file import parse_catalogue
from bot.engine.base import Order
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.files.models import locate_parts
from bot.errors import ModelError
from bot.generation import InputPictures, RawPicture
from tests.unit.engine import tiny
from tests.unit.engine.fakes import Notes, request
from tests.unit.engine.orders import error_of
from tests.unit.engine.single_file import write_control_file
from tests.unit.engine.test_canvas import control_network, photo, raw
from tests.unit.engine.test_unions import calls_of, union_network

GIVEN = "0" * 64


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models of two families, and control networks of theirs."""
    root = tmp_path_factory.mktemp("models")
    for name in ("sd15", "sdxl"):
        tiny.pipeline(name).save_pretrained(root / name)
        control_network(name).save_pretrained(root / f"{name}-control")
    union_network(8).save_pretrained(root / "union")
    union_network(6).save_pretrained(root / "union-6")
    # As the published one has it: its configuration does not name the class of diffusers.
    config = json.loads((root / "union" / "config.json").read_text())
    (root / "union" / "config.json").write_text(json.dumps({**config, "_class_name": "ControlNetModel_Union"}))
    return root


def engine_for(models: Path, controls: str, family: str = "sdxl") -> DiffusersEngine:
    text = f'[models.tiny]\nname = "Tiny"\nsource = "{family}"\nfamily = "{family}"\nlicence = "MIT"\ncontrols = {controls}\n'
    catalogue = locate_parts(parse_catalogue(text, origin="models.toml"), models)
    return DiffusersEngine(
        catalogue, models_root=models, cache_dir=models / "hub", device="cpu", dtype="fp32", max_batch=4
    )


def order(kind: str, **changes: Any) -> Order:
    asked = request(model="tiny", num_inference_steps=2, sampler="Default", control=GIVEN, control_type=kind, **changes)
    return Order(asked, Notes(), None, InputPictures(control=raw(photo(10))))


def drawn(engine: DiffusersEngine, *orders: Order) -> list[RawPicture]:
    for one in orders:
        engine.admit(one)
    while engine.busy:
        engine.turn()
    return [one.future.result(0).pictures[0] for one in orders]


def test_union_named_once_serves_its_kinds_in_shared_calls_and_is_loaded_once(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_for(models, '{ union = "union", tile = "union" }')
    drawn(engine, order("canny"))
    loaded = engine.residents.use("tiny")
    assert len(loaded.controls) == 1
    rows = calls_of(loaded.control("pose"), monkeypatch)
    together = drawn(engine, order("canny"), order("raw depth"), order("tile"))
    assert 6 in rows
    assert len(loaded.controls) == 1
    assert len({one.pixels for one in together}) == 3


def test_union_of_six_kinds_refuses_tiles_by_name(models: Path) -> None:
    engine = engine_for(models, '{ union = "union-6", tile = "union-6" }')
    tiles = order("tile")
    engine.admit(tiles)
    while engine.busy:
        engine.turn()
    assert isinstance(error_of(tiles), ModelError)
    assert "follows no tile maps" in str(error_of(tiles))
    drawn(engine, order("raw pose"))


@pytest.mark.parametrize(
    ("family", "folder", "names"),
    [
        ("sd15", "sd15-control", "diffusers"),
        ("sd15", "sd15-control", "the authors'"),
        ("sdxl", "sdxl-control", "diffusers"),
        ("sdxl", "union", "diffusers"),
    ],
)
def test_single_file_of_a_control_network_draws_what_its_folder_does(
    models: Path, family: str, folder: str, names: str
) -> None:
    file = models / f"{folder}-{len(names)}.safetensors"
    if names == "diffusers":
        save_file(load_file(models / folder / "diffusion_pytorch_model.safetensors"), file)
    else:
        write_control_file(models / folder, file)
    kind = "union" if folder == "union" else "canny"
    of_folder, of_file = (
        drawn(engine_for(models, f'{{ {kind} = "{source}" }}', family), order("canny", seed=3))[0].pixels
        for source in (folder, file.name)
    )
    assert of_folder == of_file


@pytest.mark.parametrize("kind", ["of SDXL", "LLLite"])
def test_single_file_of_another_kind_is_refused_by_name(models: Path, tmp_path: Path, kind: str) -> None:
    if kind == "of SDXL":
        weights = load_file(models / "sdxl-control" / "diffusion_pytorch_model.safetensors")
    else:
        weights = {"lllite_unet.down.weight": torch.zeros(2, 2)}
    save_file(weights, tmp_path / "odd.safetensors")
    refused = order("canny")
    engine = engine_for(models, f'{{ canny = "{tmp_path / "odd.safetensors"}" }}', "sd15")
    engine.admit(refused)
    while engine.busy:
        engine.turn()
    assert isinstance(error_of(refused), ModelError)
    assert "odd.safetensors is no control network for Tiny" in str(error_of(refused))


def test_folder_with_the_fp16_set_alone_is_read(models: Path) -> None:
    plain, half = models / "sd15-control", models / "half"
    control_network("sd15").save_pretrained(half, variant="fp16")
    assert (half / "diffusion_pytorch_model.fp16.safetensors").is_file()
    one, other = (
        drawn(engine_for(models, f'{{ canny = "{source.name}" }}', "sd15"), order("canny", seed=3))[0].pixels
        for source in (plain, half)
    )
    assert one == other


def test_folder_without_diffusers_weights_is_refused_by_name(models: Path) -> None:
    (models / "odd").mkdir()
    (models / "odd" / "config.json").write_text("{}")
    save_file({"weight": torch.zeros(2)}, models / "odd" / "model.safetensors")
    refused = order("canny")
    engine = engine_for(models, '{ canny = "odd" }', "sd15")
    engine.admit(refused)
    while engine.busy:
        engine.turn()
    assert "has no diffusion_pytorch_model.safetensors" in str(error_of(refused))
