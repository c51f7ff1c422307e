"""Annotators: found, fetched, looked through, loaded, and dropped for the next."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bot.catalogue.annotators import AnnotatorSpec
from bot.catalogue.models import Catalogue
from bot.catalogue.models_file import parse_catalogue
from bot.engine.devices import Device
from bot.engine.files.annotator_files import annotators_here, is_whole, wanted_annotator_files
from bot.engine.files.weights import ModelFiles
from bot.engine.looking.annotators import MOST_KEPT, Annotators, load_annotator
from bot.errors import ModelError, OutOfMemory
from bot.generation import FetchProgress, RawPicture
from tests.unit.engine.fakes import ROOT, FakeHub
from tests.unit.engine.tiny_annotators import save_blip, save_depth, save_git

CAPTIONER = ROOT / "models" / "pocket-extras" / "captioner"
CPU = Device("cpu", "a processor", "fp32", None)
PICTURE = RawPicture(0, 0, 48, 40, bytes(range(240)) * 24)


def eyes(source: str = "someone/eyes", kind: str = "caption", **changes: Any) -> AnnotatorSpec:
    return AnnotatorSpec("eyes", kind, "Eyes", source, "MIT", **changes)


def files_for(root: Path, *specs: AnnotatorSpec, **options: Any) -> ModelFiles:
    model = parse_catalogue(
        '[models.tiny]\nname = "Tiny"\nsource = "here"\nfamily = "sd15"\nlicence = "MIT"\n', origin="m.toml"
    ).models
    catalogue = Catalogue(model, "tiny", annotators=specs)
    return ModelFiles(catalogue, models_root=root, cache_dir=root / "hub", hf_token=None, **options)


def copied(tmp_path: Path) -> Path:
    return shutil.copytree(CAPTIONER, tmp_path / "eyes")


def test_fetch_annotator_is_counted_complete_and_found_without_a_network(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("someone/eyes", CAPTIONER)
    hub.repositories["someone/eyes"] |= {"pytorch_model.bin": b"a pickle", "README.md": b"x", "onnx/model.onnx": b"x"}
    files = files_for(tmp_path, eyes())
    assert not files.is_local("eyes")
    seen: list[FetchProgress] = []
    files.fetch("eyes", seen.append, lambda: False)
    assert seen[-1].done_bytes == seen[-1].total_bytes
    assert not any(asked.endswith((".bin", ".md", ".onnx")) for asked in hub.asked)
    assert hub.asked[-1].endswith("config.json")
    hub.close()
    again = files_for(tmp_path, eyes())
    assert again.is_local("eyes")
    assert load_annotator(eyes(), again.locate_annotator("eyes"), CPU).size_bytes > 1_000_000


def test_fetch_annotator_whose_weights_went_is_done_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("someone/eyes", CAPTIONER)
    files = files_for(tmp_path, eyes())
    files.fetch("eyes", lambda _: None, lambda: False)
    (files.locate_annotator("eyes") / "model.safetensors").unlink()
    assert not files.is_local("eyes")
    with pytest.raises(ModelError, match="not been downloaded yet"):
        files.locate_annotator("eyes")
    files.fetch("eyes", lambda _: None, lambda: False)
    assert files.locate_annotator("eyes").is_dir()


@pytest.mark.parametrize(
    ("names", "whole"),
    [
        (["model.safetensors", "config.json"], True),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json"], True),
        (["model-00001-of-00002.safetensors", "config.json"], False),
        (["model.safetensors"], False),
        (["adapter_model.safetensors", "config.json"], False),
    ],
    ids=["one file", "all shards", "a shard lacks", "no settings", "other weights"],
)
def test_is_whole_wants_the_settings_and_all_weights(tmp_path: Path, names: list[str], whole: bool) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert is_whole(tmp_path) == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda there: there.pop("config.json"), r"no model of transformers, it has no config\.json"),
        (lambda there: there.pop("model.safetensors"), r"no \.safetensors weights; others are refused"),
        (lambda there: there.update({"config.json": b"[]"}), "cannot be read"),
        (lambda there: there.update({"config.json": b"{}"}), "names no kind of model"),
    ],
    ids=["no settings", "pickles alone", "no object", "no kind"],
)
def test_fetch_annotator_that_is_none_is_refused_before_its_weights(
    hub: FakeHub, tmp_path: Path, change: Callable[[dict[str, bytes]], object], words: str
) -> None:
    hub.add_folder("someone/eyes", CAPTIONER)
    change(hub.repositories["someone/eyes"])
    with pytest.raises(ModelError, match=words):
        files_for(tmp_path, eyes()).fetch("eyes", lambda _: None, lambda: False)
    assert not any("safetensors" in asked for asked in hub.asked)


def test_fetch_annotator_without_a_network_says_what_to_do(hub: FakeHub, tmp_path: Path) -> None:
    hub.close()
    files = files_for(tmp_path, eyes())
    with pytest.raises(ModelError, match="Eyes has not been downloaded yet; run `python -m bot models fetch eyes`"):
        files.locate_annotator("eyes")
    with pytest.raises(ModelError, match="cannot be reached; connect it"):
        files.fetch("eyes", lambda _: None, lambda: False)


def test_wanted_annotator_files_takes_one_set_of_weights_and_the_settings_last() -> None:
    names = [
        "config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.fp16.safetensors", "vocab.txt", "merges.txt",
        "spiece.model", "pytorch_model.bin", "README.md", "onnx/model.safetensors", "../x.json", "tokenizer.json", "modeling_eyes.py",
    ]  # fmt: skip
    chosen = wanted_annotator_files(names, '{"model_type": "blip"}')
    assert chosen == [
        "merges.txt",
        "spiece.model",
        "tokenizer.json",
        "vocab.txt",
        "model.safetensors",
        "config.json",
    ]
    names.remove("model.safetensors")
    assert "model-00001-of-00002.safetensors" in wanted_annotator_files(names, '{"model_type": "blip"}')


def test_locate_annotator_checksum_that_differs_is_refused(tmp_path: Path) -> None:
    copied(tmp_path)
    right = hashlib.sha256((CAPTIONER / "model.safetensors").read_bytes()).hexdigest()
    assert files_for(tmp_path, eyes("./eyes", sha256={"model.safetensors": right})).locate_annotator("eyes").is_dir()
    with pytest.raises(ModelError, match="not the file the models file means"):
        files_for(tmp_path, eyes("./eyes", sha256={"model.safetensors": "00" * 32})).locate_annotator("eyes")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("./nowhere", "there is no folder"),
        ("eyes.bin", "is a pickle"),
        ("./empty", r"no folder of a transformers model: it has no config\.json"),
        ("./pickled", r"has no \.safetensors weights, or not all"),
    ],
)
def test_locate_annotator_folder_that_is_none_says_so(tmp_path: Path, source: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(ModelError, match=words):
        files_for(tmp_path, eyes(source)).locate_annotator("eyes")


@pytest.mark.parametrize(
    ("save", "kind"), [(save_blip, "caption"), (save_git, "caption"), (save_depth, "depth")], ids=["blip", "git", "depth"]
)  # fmt: skip
def test_load_annotator_architectures_of_the_hub_look_at_a_picture(
    tmp_path: Path, save: Callable[[Path], Path], kind: str
) -> None:
    loaded = load_annotator(eyes(kind=kind), save(tmp_path / "eyes"), CPU)
    pixels = loaded.look_at(PICTURE)
    assert pixels.shape[:2] == (1, 3)
    assert (loaded.tokenizer is not None) == (kind == "caption")
    assert not loaded.network.training
    assert (
        loaded.network(pixel_values=pixels) if kind == "depth" else loaded.network.generate(pixel_values=pixels).numel()
    )


def test_load_annotator_kind_that_writes_no_captions_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Eyes is of the kind 'depth_anything'; for caption there are blip, git"):
        load_annotator(eyes(), save_depth(tmp_path / "eyes"), CPU)


def edited(folder: Path, name: str, **changes: Any) -> Path:
    settings = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**settings, **changes}))
    return folder


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: edited(folder, "preprocessor_config.json", size={"height": 100_000, "width": 128}), "more than 4096 px"),
        (lambda folder: edited(folder, "preprocessor_config.json", image_mean=[float("nan")] * 3), "more than 4096 px"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("[" * 100_000), "cannot be read"),
        (lambda folder: edited(folder, "config.json", num_layers=100_000), "more than 1000 layers"),
        (lambda folder: edited(folder, "config.json", model_type=3), "names no kind of model"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"PK\x03\x04" + b"x" * 60), "is a pickle in a zip archive"),
        (lambda folder: (folder / "model.safetensors").write_bytes((CAPTIONER / "model.safetensors").read_bytes()[:-9]), "cut off"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded from"),
    ],
    ids=["huge", "nan", "deep", "layers", "kind", "pickle", "cut off", "tokenizer"],
)  # fmt: skip
def test_load_annotator_spoilt_folder_is_named(tmp_path: Path, spoil: Callable[[Path], object], words: str) -> None:
    folder = copied(tmp_path)
    spoil(folder)
    with pytest.raises(ModelError, match=words) as caught:
        load_annotator(eyes(), folder, CPU)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_load_annotator_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(tmp_path)
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "crossattention" in name)
    save_file(
        {name: weight for name, weight in weights.items() if name != lost},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ModelError, match="lacks weights of its network"):
        load_annotator(eyes(), folder, CPU)


def test_load_annotator_code_of_its_own_is_never_run(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    auto = {"AutoModelForImageTextToText": "evil.Evil", "AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    edited(folder, "config.json", auto_map=auto)
    edited(folder, "tokenizer_config.json", auto_map=auto)
    edited(folder, "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Evil"})
    with contextlib.suppress(ModelError):
        load_annotator(eyes(), folder, CPU)
    assert not (tmp_path / "ran").exists()


def test_load_annotator_without_room_is_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def no_room(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", no_room)
    with pytest.raises(OutOfMemory):
        load_annotator(eyes(), CAPTIONER, CPU)


def test_annotators_keeps_those_used_last_until_relieved(tmp_path: Path) -> None:
    specs = [AnnotatorSpec(f"eyes-{n}", "caption", "Eyes", str(CAPTIONER), "MIT") for n in range(MOST_KEPT + 1)]
    kept = Annotators(files_for(tmp_path, *specs))
    first = kept.load(specs[0], CPU)
    assert kept.load(specs[0], CPU) is first
    for spec in specs[1:MOST_KEPT]:
        kept.load(spec, CPU)
    kept.find(specs[0].id)  # used again, so another one leaves
    kept.load(specs[MOST_KEPT], CPU)
    assert kept.find(specs[0].id) is first
    assert kept.find(specs[1].id) is None
    kept.relieve()
    assert kept.find(specs[0].id) is None


def test_annotators_here_names_what_can_be_loaded_and_why_the_others_cannot(tmp_path: Path) -> None:
    copied(tmp_path)
    edited(tmp_path / "eyes", "config.json", num_layers=100_000)
    good = AnnotatorSpec("good", "caption", "Good", str(CAPTIONER), "MIT")
    specs = (good, eyes("./eyes"), AnnotatorSpec("far", "depth", "Far", str(CAPTIONER), "MIT"))
    files = files_for(tmp_path, *specs)
    there, problems = annotators_here(Catalogue((), "tiny", annotators=specs), files, "caption")
    assert there == ["good"]
    assert len(problems) == 1
    assert "1000 layers" in problems[0]
