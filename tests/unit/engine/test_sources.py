from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bot.catalogue.models import Catalogue, ModelSpec
from bot.engine.files.sources import (
    Kind,
    check_local,
    find_source,
    folder_problem,
    lacks_weights,
    wanted_files,
    wanted_settings,
)
from bot.errors import ModelError
from tests.unit.engine.fakes import POCKET, ROOT


@pytest.fixture
def spec(catalogue: Catalogue) -> ModelSpec:
    return catalogue["pocket"]


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("models/pocket", Kind.FOLDER),
        ("someone/model-1.5", Kind.HUB),
        ("./models/other", Kind.FOLDER),
        ("models/a/b", Kind.FOLDER),
        ("/srv/models/mine", Kind.FOLDER),
        ("models/mine.safetensors", Kind.FILE),
        ("MINE.SAFETENSORS", Kind.FILE),
    ],
)
def test_find_source_tells_the_kinds_apart(spec: ModelSpec, source: str, kind: Kind) -> None:
    found = find_source(replace(spec, source=source), ROOT)
    assert found.kind is kind
    assert (found.path is None) == (kind is Kind.HUB)


@pytest.mark.parametrize("name", ["m.ckpt", "m.pt", "m.bin", "m.PTH", "m.pkl"])
def test_find_source_pickle_is_refused_unread(spec: ModelSpec, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="refused unread"):
        find_source(replace(spec, source=name), tmp_path)


def test_check_local_folder_that_is_not_there_is_named(spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"Pocket: there is no folder {tmp_path}/a/b/c"):
        check_local(spec, find_source(replace(spec, source="a/b/c"), tmp_path))


def test_check_local_folder_without_index_is_no_model(spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "my" / "model").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"my/model is no diffusers model folder: it has no model_index\.json"):
        check_local(spec, find_source(replace(spec, source="my/model"), tmp_path))


def test_check_local_file_that_is_not_there_is_named(spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no file .*mine\.safetensors"):
        check_local(spec, find_source(replace(spec, source="mine.safetensors"), tmp_path))


def test_folder_problem_whole_model_has_none() -> None:
    assert folder_problem(POCKET) is None


def test_folder_problem_missing_part_and_pickled_part_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(POCKET, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert "'unet' has only pickled weights" in (folder_problem(folder) or "")
    shutil.rmtree(folder / "vae")
    weights.with_suffix(".bin").rename(weights)
    assert "'vae' is missing" in (folder_problem(folder) or "")
    (folder / "model_index.json").write_text("[]", encoding="utf-8")
    assert "cannot be read" in (folder_problem(folder) or "")


NAMES = [
    "README.md", "model_index.json", "v1-5.safetensors", "v1-5.ckpt", "../secret.json", "unet/../../x.json",
    "unet/config.json", "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
    "text_encoder_3/model-00001-of-00002.safetensors", "text_encoder_3/model-00002-of-00002.safetensors",
    "text_encoder_3/model.fp16-00001-of-00002.safetensors", "text_encoder_3/model.fp16-00002-of-00002.safetensors",
    "text_encoder_3/model.safetensors.index.json", "vae/diffusion_pytorch_model.safetensors",
    "tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/spiece.model", "safety_checker/model.safetensors",
]  # fmt: skip
PARTS = ["unet", "text_encoder_3", "vae", "tokenizer"]


def test_wanted_files_takes_one_set_of_weights_a_part_and_the_index_last() -> None:
    plain = wanted_files(NAMES, PARTS, None)
    assert [name for name in plain if name.endswith(".safetensors")] == [
        "text_encoder_3/model-00001-of-00002.safetensors", "text_encoder_3/model-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    assert plain[-1] == "model_index.json"
    assert {"tokenizer/merges.txt", "tokenizer/spiece.model", "unet/config.json"} <= set(plain)
    assert not any(".." in name or name.endswith((".bin", ".ckpt", ".md")) for name in plain)


def test_wanted_files_variant_falls_back_to_plain_weights_by_part() -> None:
    half = [name for name in wanted_files(NAMES, PARTS, "fp16") if name.endswith(".safetensors")]
    assert half == [
        "text_encoder_3/model.fp16-00001-of-00002.safetensors", "text_encoder_3/model.fp16-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip


def test_wanted_settings_has_no_weights() -> None:
    names = wanted_settings(NAMES, PARTS)
    assert "unet/config.json" in names
    assert not any(name.endswith(".safetensors") for name in names)


def test_built_in_model_is_what_its_index_says() -> None:
    index = json.loads((POCKET / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "StableDiffusionPipeline"


@pytest.mark.parametrize(
    ("files", "lacking"),
    [
        ((), False),
        (("unet/config.json",), True),
        (("unet/config.json", "unet/model.safetensors"), False),
        (("unet/config.json", "unet/model-00001-of-00002.safetensors"), True),
        (("unet/config.json", "unet/model-00001-of-00002.safetensors", "unet/model-00002-of-00002.safetensors"), False),
        (("unet/config.json", "unet/model-00001-of-00002.safetensors", "unet/model.fp16.safetensors"), False),
        (("tokenizer/config.json", "scheduler/scheduler_config.json"), False),
    ],
    ids=["nothing", "settings", "weights", "a shard", "all shards", "another set", "no model"],
)
def test_lacks_weights_tells_settings_and_torn_downloads(tmp_path: Path, files: tuple[str, ...], lacking: bool) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert lacks_weights(tmp_path) is lacking
    assert not lacks_weights(tmp_path, without=("unet",))
