from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.store.jobs import JobStore
from tests.unit.store.support import opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "easel.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[JobStore]:
    store = await opened(path)
    yield store
    await store.close()
