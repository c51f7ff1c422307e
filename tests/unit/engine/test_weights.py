from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.catalogue.models import Catalogue
from bot.catalogue.models_file import parse_catalogue
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.files.weights import ModelFiles
from bot.errors import GenerationCancelled, ModelError
from bot.generation import FetchProgress
from tests.unit.engine.fakes import POCKET, FakeHub, Notes, request

CATALOGUE = """
[models.tiny]
name = "Tiny"
source = "someone/tiny"
family = "sd15"
licence = "MIT"
"""


def files_for(cache: Path, text: str = CATALOGUE, token: str | None = None, **options: Any) -> ModelFiles:
    catalogue = parse_catalogue(text, origin="models.toml")
    return ModelFiles(catalogue, models_root=cache, cache_dir=cache / "hub", hf_token=token, **options)


def fetch(files: ModelFiles, model: str = "tiny") -> list[FetchProgress]:
    seen: list[FetchProgress] = []
    files.fetch(model, seen.append, lambda: False)
    return seen


def test_fetch_hub_model_is_counted_complete_and_local_afterwards(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("someone/tiny", POCKET)
    hub.repositories["someone/tiny"]["unet/diffusion_pytorch_model.bin"] = b"a pickle"
    files = files_for(tmp_path)
    assert not files.is_local("tiny")
    seen = fetch(files)
    assert files.is_local("tiny")
    weights = sum(file.stat().st_size for file in POCKET.rglob("*.safetensors"))
    assert seen[-1].done_bytes == seen[-1].total_bytes
    assert weights < (seen[-1].total_bytes or 0) < weights + 100_000
    assert [p.done_bytes for p in seen] == sorted(p.done_bytes for p in seen)
    folder, settings = files.locate("tiny")
    assert settings is None
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert not any("bin" in asked or "README" in asked or "contact" in asked for asked in hub.asked)


def test_fetch_twice_and_without_network_asks_nothing(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("someone/tiny", POCKET)
    files = files_for(tmp_path)
    fetch(files)
    hub.asked.clear()
    hub.close()
    again = files_for(tmp_path)
    assert again.is_local("tiny")
    assert fetch(again) == []
    catalogue = parse_catalogue(CATALOGUE, origin="models.toml")
    engine = DiffusersEngine(
        catalogue, models_root=tmp_path, cache_dir=tmp_path / "hub", device="cpu", dtype="auto", max_batch=1
    )
    result = engine.generate(request(model="tiny", num_inference_steps=1), Notes())
    assert len(result.pictures) == 1
    assert hub.asked == []


def test_fetch_gated_model_says_where_to_accept_and_what_to_set(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("someone/tiny", POCKET)
    hub.gated.add("someone/tiny")
    with pytest.raises(ModelError, match=r"accept the licence at https://huggingface.co/someone/tiny.*HF_TOKEN"):
        fetch(files_for(tmp_path))
    allowed = files_for(tmp_path, token=hub.token)
    fetch(allowed)
    assert allowed.is_local("tiny")


def test_fetch_missing_repository_names_it(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model someone/tiny on the Hub"):
        fetch(files_for(tmp_path))


def test_fetch_without_network_says_that_the_hub_is_out_of_reach(hub: FakeHub, tmp_path: Path) -> None:
    hub.close()
    with pytest.raises(ModelError, match=f"the Hub at {hub.url} cannot be reached"):
        fetch(files_for(tmp_path))


def test_fetch_hub_error_names_the_status(hub: FakeHub, tmp_path: Path) -> None:
    hub.broken = True
    with pytest.raises(ModelError, match="503"):
        fetch(files_for(tmp_path))


def test_fetch_repository_without_index_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["someone/tiny"] = {"config.json": b"{}"}
    with pytest.raises(ModelError, match="no diffusers model"):
        fetch(files_for(tmp_path))


def test_fetch_repository_with_pickles_only_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("someone/tiny", POCKET)
    files = hub.repositories["someone/tiny"]
    for name in [n for n in files if n.endswith(".safetensors")]:
        files[name.replace(".safetensors", ".bin")] = files.pop(name)
    with pytest.raises(ModelError, match=r"no \.safetensors weights"):
        fetch(files_for(tmp_path))
    assert not any(asked.endswith(".bin") for asked in hub.asked)


def test_fetch_full_disk_is_refused_before_any_weights(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("someone/tiny", POCKET)
    with pytest.raises(ModelError, match=r"needs 0\.008 GB on disk and 0\.001 GB are free; make room"):
        fetch(files_for(tmp_path, free_bytes=lambda _: 1_000_000))
    assert not any(asked.endswith(".safetensors") for asked in hub.asked)


def test_fetch_stopped_in_the_middle_is_not_local_and_can_be_resumed(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("someone/tiny", POCKET)
    stop, go_on = threading.Event(), threading.Event()
    chunks = 0

    def hold() -> None:
        nonlocal chunks
        chunks += 1
        if chunks > 12:
            stop.set()
            go_on.wait(20)

    hub.on_chunk = hold
    files = files_for(tmp_path)
    with pytest.raises(GenerationCancelled):
        files.fetch("tiny", lambda _: None, stop.is_set)
    assert not files.is_local("tiny")
    go_on.set()
    fetch(files)
    assert files.is_local("tiny")


def test_fetch_file_that_is_not_the_catalogues_is_refused_named_and_not_kept(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("someone/tiny", POCKET)
    name = "unet/diffusion_pytorch_model.safetensors"
    digest = hashlib.sha256((POCKET / name).read_bytes()).hexdigest()
    hub.repositories["someone/tiny"][name] += b"x"
    files = files_for(tmp_path, f'{CATALOGUE}\n[models.tiny.sha256]\n"{name}" = "{digest}"\n')
    with pytest.raises(ModelError, match=f"Tiny: .*{name} is not the file the models file means"):
        fetch(files)
    assert not files.is_local("tiny")
    hub.repositories["someone/tiny"][name] = (POCKET / name).read_bytes()
    fetch(files)
    assert files.locate("tiny")[0].is_dir()


def test_fetch_index_larger_than_any_is_refused_unread(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["someone/tiny"] = {"model_index.json": b" " * (2 << 20)}
    with pytest.raises(ModelError, match="larger than a list of parts"):
        fetch(files_for(tmp_path))


def test_fetch_variant_takes_only_its_weights(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("someone/tiny", POCKET)
    files = hub.repositories["someone/tiny"]
    plain = "unet/diffusion_pytorch_model.safetensors"
    files["unet/diffusion_pytorch_model.fp16.safetensors"] = files[plain]
    found = files_for(tmp_path, CATALOGUE + 'variant = "fp16"\n')
    fetch(found)
    folder, _ = found.locate("tiny")
    assert not (folder / plain).exists()
    catalogue = parse_catalogue(CATALOGUE + 'variant = "fp16"\n', origin="models.toml")
    engine = DiffusersEngine(
        catalogue, models_root=tmp_path, cache_dir=tmp_path / "hub", device="cpu", dtype="auto", max_batch=1
    )
    assert engine.generate(request(model="tiny", num_inference_steps=1), Notes()).pictures


def test_locate_model_that_is_not_here_says_how_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="models fetch tiny"):
        files_for(tmp_path).locate("tiny")


def test_fetch_unknown_model_lists_the_catalogue(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model 'huge'.*tiny"):
        fetch(files_for(tmp_path), "huge")


def test_is_local_own_folder_needs_no_fetch(catalogue: Catalogue, tmp_path: Path) -> None:
    spec = replace(catalogue["pocket"], id="mine", source=str(POCKET))
    files = ModelFiles(Catalogue((spec,), "mine"), models_root=tmp_path, cache_dir=tmp_path, hf_token=None)
    assert files.is_local("mine")
    assert files.locate("mine") == (POCKET, None)
