"""Models from the Hub, seen by members: a download with its progress while others draw, and a gated one's sentence."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback.conftest import Raise
from tests.loopback.stage import Stage, pictures, shown
from tests.unit.engine.fakes import POCKET, FakeHub

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODELS = f"""
default = "pocket"

[models.pocket]
name = "Pocket"
source = "{POCKET}"
family = "sd15"
licence = "MIT"
sizes = {{ "1:1" = [64, 64] }}
min_side = 48
max_side = 128
sampler = "DDIM"
samplers = ["DDIM"]

[models.tiny]
name = "Tiny"
source = "someone/tiny"
family = "sd15"
licence = "MIT"
sizes = {{ "1:1" = [64, 64] }}
min_side = 48
max_side = 128

[models.locked]
name = "Locked"
source = "someone/locked"
family = "sd15"
licence = "of its own"
sizes = {{ "1:1" = [64, 64] }}
min_side = 48
max_side = 128
gated = true
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    hub.add_folder("someone/tiny", POCKET)
    hub.add_folder("someone/locked", POCKET)
    hub.gated.add("someone/locked")
    yield hub
    hub.close()


async def with_models(set_up: Raise, hub: FakeHub, folder: Path) -> Stage:
    models = folder / "models.toml"
    models.write_text(MODELS)
    return await set_up({"EASEL_MODELS_FILE": str(models), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"})


async def test_model_from_the_hub_shows_its_download_and_lets_others_go_first(
    set_up: Raise, hub: FakeHub, tmp_path: Path
) -> None:
    some, all_of_it = threading.Event(), threading.Event()
    chunks = 0

    def slow() -> None:
        nonlocal chunks
        chunks += 1
        if chunks > 5:
            some.set()
            all_of_it.wait(60)

    hub.on_chunk = slow
    stage = await with_models(set_up, hub, tmp_path)
    first = await stage.imagine("ada", model="tiny", steps=4)
    await first.wait_for(lambda one: re.search(r"fetching \d+ of \d+ MB", one.text), timeout_s=30)
    assert some.is_set()
    overtaking = await stage.draw("bob", steps=4)
    assert pictures(overtaking)
    assert stage.status_of(first) == "queued"
    all_of_it.set()
    message = await stage.drawn(first)
    assert "Tiny" in message.text
    assert any("later ones start at once" in version.text for version in message.versions)

    asked = len(hub.asked)
    await stage.draw("bob", model="tiny", steps=4)
    assert len(hub.asked) == asked

    refused = await stage.imagine("eve", model="locked")
    await refused.wait_for(lambda one: "HF_TOKEN" in one.text, timeout_s=30)
    assert "accept the licence at https://huggingface.co/someone/locked" in shown(refused.text)
    assert stage.status_of(refused) == "failed"
    assert hub.token not in stage.bot.all_logs
    await stage.draw("eve", steps=4)
