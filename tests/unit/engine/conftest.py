from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.catalogue.models import Catalogue
from bot.config import read_settings
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.files.models import load_catalogue
from tests.unit.engine.fakes import ROOT, FakeHub, Notes, request


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return load_catalogue(read_settings({"EASEL_MODELS_FILE": str(ROOT / "models.toml"), "EASEL_DEVICE": "cpu"}))


@pytest.fixture(scope="session")
def engine(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiffusersEngine]:
    cache: Path = tmp_path_factory.mktemp("hub")
    engine = DiffusersEngine(
        catalogue, models_root=ROOT, cache_dir=cache, device="cpu", dtype="auto", max_batch=4
    )  # fmt: skip
    yield engine
    engine.close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    hub = FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    yield hub
    hub.close()


@pytest.fixture
def unet(engine: DiffusersEngine) -> Any:
    engine.generate(request(num_inference_steps=1), Notes())
    return engine.residents.use("pocket").pipe.unet


@pytest.fixture
def rows(unet: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every denoiser call from here on."""
    seen: list[int] = []
    forward = unet.forward

    def counted(sample: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(sample.shape[0])
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(unet, "forward", counted)
    return seen
