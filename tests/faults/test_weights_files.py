"""Fault 42: pickles are refused unread, under any name; what a `.safetensors` file or a model's folder says is checked first."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.catalogue.models import Catalogue, ModelSpec
from bot.catalogue.models_file import parse_catalogue
from bot.engine.files import checksums, headers
from bot.engine.files.headers import read_header
from bot.engine.files.sources import find_source, index_components
from bot.engine.files.vetting import vet
from bot.engine.files.weights import ModelFiles
from bot.errors import ModelError

POCKET = Path(__file__).resolve().parents[2] / "models" / "pocket"
ENTRY = '[models.mine]\nname = "Mine"\nsource = "{source}"\nfamily = "sd15"\nlicence = "MIT"\n'


def catalogue(source: str, more: str = "") -> Catalogue:
    return parse_catalogue(ENTRY.format(source=source) + more, origin="models.toml")


@pytest.fixture
def spec() -> ModelSpec:
    return catalogue("own/model")["mine"]


class Bomb:
    """Writes a file as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def pickled(ran: Path) -> bytes:
    return pickle.dumps(Bomb(ran), protocol=2)


def zipped(ran: Path) -> bytes:
    """As torch.save writes it since 1.6."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled(ran))
    return buffer.getvalue()


def tensors_file(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(shape: object = (2, 3), offsets: object = (0, 24), dtype: object = "F32", **more: object) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}}


# --- pickles ---


@pytest.mark.fault(42)
@pytest.mark.parametrize("name", ["m.ckpt", "m.pt", "m.pth", "m.bin", "m.pkl", "m.pickle", "M.CKPT"])
def test_fault_42_pickle_named_as_a_source_refused_unread(spec: ModelSpec, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickled(tmp_path / "ran"))
    (tmp_path / name).chmod(0)
    with pytest.raises(ModelError, match="refused unread"):
        find_source(replace(spec, source=name), tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.fault(42)
@pytest.mark.parametrize("make", [pickled, zipped], ids=["pickle", "torch.save"])
def test_fault_42_pickle_renamed_safetensors_refused_unread(
    spec: ModelSpec, tmp_path: Path, make: Callable[[Path], bytes]
) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(make(tmp_path / "ran"))
    with pytest.raises(ModelError, match=r"Mine: .*mine\.safetensors is a pickle .*refused unread"):
        vet(spec, path, None)
    assert not (tmp_path / "ran").exists()


@pytest.mark.fault(42)
def test_fault_42_index_of_shards_that_names_a_pickle_refused_unread(spec: ModelSpec, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(POCKET, folder)
    (folder / "unet" / "part.bin").write_bytes(pickled(tmp_path / "ran"))
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "part.bin"}}))
    with pytest.raises(ModelError, match=r"names the pickle 'part\.bin', which is refused unread"):
        vet(spec, folder, None)


# --- what a header may say ---

WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut off"),
    "seven bytes": (bytes(7), "cut off"),
    "words": (b"hello, I am a model, believe me", "no safetensors file"),
    "length beyond the file": (tensors_file(one(), bytes(24), length=5000), "cut off inside its header"),
    "largest length": (tensors_file(one(), bytes(24), length=2**64 - 1), "no safetensors file"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
    "web page": (b"<!doctype html><html><body>404</body></html>", "a web page"),
    "gguf": (b"GGUF" + bytes(60), "GGUF"),
    "no json": (tensors_file(b"{nothing}"), "no JSON"),
    "not utf-8": (tensors_file(b'{"\xff": 1}'), "no JSON"),
    "deep": (tensors_file(b'{"a":' * 100_000), "no JSON"),
    "twice": (tensors_file(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}'), "twice"),
    "metadata numbers": (tensors_file({"__metadata__": {"a": 1}}), "metadata"),
    "metadata list": (tensors_file({"__metadata__": ["a"]}), "metadata"),
    "tensor is text": (tensors_file({"a": "b"}), "does not describe"),
    "more keys": (tensors_file(one(code="x"), bytes(24)), "does not describe"),
    "unknown dtype": (tensors_file(one(dtype="PICKLE"), bytes(24)), "number format"),
    "dtype is a list": (tensors_file(one(dtype=["F32"]), bytes(24)), "number format"),
    "shape too large": (tensors_file(one(shape=(2**62, 2**62)), bytes(24)), "does not fit its size"),
    "shape too small": (tensors_file(one(shape=(1, 3)), bytes(24)), "does not fit its size"),
    "negative": (tensors_file(one(shape=(-2, -3)), bytes(24)), "shape that is none"),
    "fraction": (tensors_file(one(shape=(2.0, 3)), bytes(24)), "shape that is none"),
    "true": (tensors_file(one(shape=(True, 6)), bytes(24)), "shape that is none"),
    "many dimensions": (tensors_file(one(shape=[1] * 17, offsets=(0, 4)), bytes(4)), "shape that is none"),
    "long number": (tensors_file(b'{"a":{"dtype":"F32","shape":[' + b"9" * 9000 + b'],"data_offsets":[0,4]}}', bytes(4)), "shape that is none"),
    "outside": (tensors_file(one(offsets=(0, 24)), bytes(23)), "lies outside"),
    "backwards": (tensors_file(one(offsets=(24, 0)), bytes(24)), "lies outside"),
    "overlap": (tensors_file({**one(), "b": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}, bytes(24)), "overlap"),
    "gap": (tensors_file(one(offsets=(8, 32)), bytes(32)), "belong to no tensor"),
    "something behind": (tensors_file(one(), bytes(24) + b"PK\x03\x04 a program"), "belong to no tensor"),
}  # fmt: skip


@pytest.mark.fault(42)
@pytest.mark.parametrize(("data", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_fault_42_header_that_does_not_fit_its_file_refused_in_a_sentence(
    spec: ModelSpec, tmp_path: Path, data: bytes, sentence: str
) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=sentence) as caught:
        vet(spec, path, None)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.fault(42)
def test_fault_42_header_longer_than_the_limit_refused_unread(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(tensors_file({"__metadata__": {"words": "x" * 5000}}))
    monkeypatch.setattr(headers, "MAX_HEADER_BYTES", 4000)
    with pytest.raises(ModelError, match="has a header of 0 MiB"):
        vet(spec, path, None)


@pytest.mark.fault(42)
def test_fault_42_header_with_too_many_entries_refused(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(tensors_file({str(n): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(30)}))
    monkeypatch.setattr(headers, "MAX_ENTRIES", 20)
    with pytest.raises(ModelError, match="more than 20 tensors"):
        vet(spec, path, None)


def test_read_header_of_a_sound_file_gives_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "sound.safetensors"
    path.write_bytes(tensors_file({"__metadata__": {"format": "pt"}, **one(dtype="BF16", offsets=(0, 12))}, bytes(12)))
    found = read_header(path)
    assert found.metadata == {"format": "pt"}
    assert found.tensors == {"a": headers.Tensor("BF16", (2, 3), 12)}


def test_vet_built_in_model_passes(spec: ModelSpec) -> None:
    vet(spec, POCKET, None)


# --- what a folder may name ---


def change(folder: Path, name: str, **values: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "own code": (lambda f: change(f, "model_index.json", unet=["evil", "Evil"]), "never run"),
    "any module": (lambda f: change(f, "model_index.json", unet=["subprocess", "Popen"]), "never run"),
    "private module": (lambda f: change(f, "model_index.json", unet=["__builtins__", "eval"]), "never run"),
    "pipeline of its own": (lambda f: change(f, "model_index.json", _class_name=["pipeline", "Mine"]), "names no pipeline"),
    "part elsewhere": (lambda f: change(f, "model_index.json", **{"../../x": ["diffusers", "UNet"]}), "it names a part"),
    "deep index": (lambda f: (f / "model_index.json").write_text("[" * 100_000), "nested too deeply"),
    "huge index": (lambda f: (f / "model_index.json").write_text(" " * ((1 << 20) + 1)), "larger than 1 MiB"),
    "huge settings": (lambda f: (f / "unet" / "config.json").write_text(" " * (2 << 20)), "at most 1 are read"),
    "many layers": (lambda f: change(f, "text_encoder/config.json", num_hidden_layers=200_000), "more than 1000 layers"),
    "many layers inside": (lambda f: change(f, "text_encoder/config.json", text_config={"num_layers": 1e9}), "1000 layers"),
    "many blocks": (lambda f: change(f, "unet/config.json", down_block_types=["DownBlock2D"] * 5000), "1000 layers"),
    "settings are words": (lambda f: (f / "unet" / "config.json").write_text("words"), "cannot be read"),
    "shards elsewhere": (
        lambda f: (f / "vae" / "m.safetensors.index.json").write_text('{"weight_map": {"a": "../../x.safetensors"}}'),
        "no .safetensors file beside it",
    ),
    "shard missing": (
        lambda f: (f / "vae" / "m.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}'),
        "is missing",
    ),
    "shards are a list": (lambda f: (f / "vae" / "m.safetensors.index.json").write_text('{"weight_map": []}'), "lists no files"),
    "torn weights": (lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"torn"), "cut off"),
}  # fmt: skip


@pytest.mark.fault(42)
@pytest.mark.parametrize(("harm", "sentence"), FOLDERS.values(), ids=FOLDERS.keys())
def test_fault_42_folder_that_names_code_or_files_elsewhere_refused(
    spec: ModelSpec, tmp_path: Path, harm: Callable[[Path], object], sentence: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(POCKET, folder)
    harm(folder)
    with pytest.raises(ModelError, match=sentence):
        vet(spec, folder, None)


@pytest.mark.fault(42)
def test_fault_42_settings_beside_a_single_file_that_name_code_refused(spec: ModelSpec, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(tensors_file(one(), bytes(24)))
    settings = tmp_path / "mine"
    shutil.copytree(POCKET, settings, ignore=shutil.ignore_patterns("*.safetensors"))
    vet(spec, path, settings)
    change(settings, "model_index.json", scheduler=["evil", "Evil"])
    with pytest.raises(ModelError, match="never run"):
        vet(spec, path, settings)


@pytest.mark.fault(42)
def test_fault_42_folder_is_looked_through_before_it_is_loaded(spec: ModelSpec, tmp_path: Path) -> None:
    from bot.engine.devices import Device
    from bot.engine.loading.pipelines import load_pipeline

    path = tmp_path / "mine.safetensors"
    path.write_bytes(pickled(tmp_path / "ran"))
    with pytest.raises(ModelError, match="refused unread"):
        load_pipeline(spec, path, None, Device("cpu", "cpu", "fp32", None))


# --- checksums ---


def files_for(root: Path, more: str, source: str = "mine.safetensors") -> ModelFiles:
    return ModelFiles(catalogue(source, more), models_root=root, cache_dir=root / "hub", hf_token=None)


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A single file with its settings beside it."""
    path = tmp_path / "mine.safetensors"
    path.write_bytes(tensors_file(one(), bytes(24)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return path


def test_locate_file_with_its_checksum_is_hashed_once(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    digest = checksums.sha256_of(single)
    real = checksums.sha256_of
    monkeypatch.setattr(checksums, "sha256_of", lambda path: hashed.append(path) or real(path))
    for _ in range(2):  # a second start, too
        assert files_for(single.parent, f'sha256 = "{digest.upper()}"\n').locate("mine")[0] == single
    assert len(hashed) == 1


def test_locate_file_that_changed_since_is_compared_again_and_refused(single: Path) -> None:
    files = files_for(single.parent, f'sha256 = "{checksums.sha256_of(single)}"\n')
    files.locate("mine")
    single.write_bytes(tensors_file(one(shape=(3, 2)), bytes(24)))
    with pytest.raises(ModelError, match=r"Mine: .*mine\.safetensors is not the file the models file means"):
        files.locate("mine")
    with pytest.raises(ModelError, match="not the file"):
        files.locate("mine")


def test_locate_folder_with_a_wrong_or_missing_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "model").symlink_to(POCKET)
    name = "unet/diffusion_pytorch_model.safetensors"
    right = checksums.sha256_of(POCKET / name)
    good = files_for(tmp_path, f'[models.mine.sha256]\n"{name}" = "{right}"\n', "own/model")
    assert good.locate("mine")[1] is None
    wrong = files_for(tmp_path, f'[models.mine.sha256]\n"{name}" = "{"0" * 64}"\n', "own/model")
    with pytest.raises(ModelError, match=f"{name} is not the file"):
        wrong.locate("mine")
    missing = files_for(tmp_path, f'[models.mine.sha256]\n"unet/x.safetensors" = "{right}"\n', "own/model")
    with pytest.raises(ModelError, match=r"unet/x\.safetensors has a checksum .* cannot be read"):
        missing.locate("mine")


def test_checksums_damaged_notebook_is_done_without(single: Path) -> None:
    (single.parent / "hub").mkdir()
    (single.parent / "hub" / "checksums.json").write_bytes(b"\xff[")
    files = files_for(single.parent, f'sha256 = "{checksums.sha256_of(single)}"\n')
    assert files.locate("mine")[0] == single


def test_index_components_deep_index_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        index_components("[" * 100_000)
