"""What a member does with a picture whose depth or people are to be followed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.app import Machine, start_machine
from bot.config import read_settings
from tests.simcord.conftest import World
from tests.simcord.test_commands import last_answer
from tests.simcord.test_pictures import disc, job_of
from tests.support import texts
from tests.unit.engine.fakes import ROOT
from tests.unit.engine.tiny_annotators import save_depth, save_detector

STAR = "a blue star on a yellow background"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """The built-in model with control networks for depth, pose and tiles, and annotators with random weights for two of three kinds."""
    save_depth(tmp_path / "near")
    save_detector(tmp_path / "people")
    text = (ROOT / "models.toml").read_text(encoding="utf-8")
    pocket = text[text.index("[models.pocket]") : text.index("[models.sd15]")].replace('"models/', f'"{ROOT}/models/')
    edges = ROOT / "models" / "pocket-extras" / "controlnet-edges"
    pocket = pocket.replace(
        "controls = {", f'controls = {{ depth = "{edges}", pose = "{edges}", tile = "someone/tiles",'
    )
    for kind, name in (("depth", "near"), ("people", "people")):
        pocket += f'[annotators.{name}]\nkind = "{kind}"\nname = "{name}"\nsource = "{name}"\nlicence = "MIT"\n'
    (tmp_path / "models.toml").write_text(pocket, encoding="utf-8")
    environment = {
        "EASEL_DATA_DIR": str(tmp_path), "EASEL_DEVICE": "cpu", "EASEL_MODELS_FILE": str(tmp_path / "models.toml"),
    }  # fmt: skip
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = start_machine(read_settings(environment))
    started.gpu.ready.result(timeout=120)
    yield started
    started.gpu.stop(timeout_s=10)


async def test_imagine_depth_of_any_picture_is_followed_shown_in_info_and_repeated(world: World) -> None:
    asked: dict[str, Any] = {"control": ("disc.png", disc(256, 256)), "control_type": "depth", "steps": 2, "seed": 5}
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=STAR, **asked))
    answer = await world.bob.click(message.message, label="Info")
    assert "**Control** depth, scale 1" in "\n".join(texts(answer.response.components))
    first = await job_of(world, message)
    again = await job_of(world, await world.drawn(await world.bob.click(message.message, label="Again")))
    assert (again.request.control, again.request.control_type) == (first.request.control, "depth")
    asked = {**asked, "control_type": "raw depth"}
    plain = await job_of(
        world, await world.drawn(await world.ada.slash(world.channel, "imagine", prompt=STAR, **asked))
    )
    files = [await world.easel.service.read_picture(job.files[0]) for job in (first, plain)]
    assert files[0] != files[1]


async def test_imagine_pose_without_an_annotator_is_refused_in_one_private_sentence(world: World) -> None:
    asked: dict[str, Any] = {"control": ("disc.png", disc()), "control_type": "pose"}
    answer = last_answer(await world.ada.slash(world.channel, "imagine", prompt=STAR, **asked))
    assert answer.ephemeral
    assert "no annotator of the kind “pose”. Send a ready-made one as “raw pose”" in answer.content


async def test_imagine_control_network_that_cannot_be_had_says_so_on_the_card(world: World) -> None:
    asked: dict[str, Any] = {"control": ("disc.png", disc(256, 256)), "control_type": "tile", "steps": 2}
    result = await world.ada.slash(world.channel, "imagine", prompt=STAR, **asked)

    def failed() -> Any:
        shown = "\n".join(texts(result.response.components)) if result.response is not None else ""
        return shown if "models fetch pocket+tile" in shown else None

    shown = await world.until(failed, "the sentence")
    assert "Pocket's tile control is not on this machine and the Hub at" in shown
