from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.catalogue import Catalogue
from bot.config import read_settings
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.models import load_catalogue
from tests.unit.engine.fakes import ROOT, FakeHub


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
