"""31 to 35: the GPU has no room, fails for good, gives rubbish, never comes back; the model is missing."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.stages import ENDS_WITHIN_S, START_S, Victims, VictimStage, victim_of
from tests.loopback import Invocation, LoopbackDiscord
from tests.loopback.stage import job_of, pictures, shown

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = """
[models.pocket]
name = "Pocket"
source = "{repository}/models/pocket"
family = "sd15"
licence = "MIT"
base_px = 64
min_side = 64

[models.gone]
name = "Gone"
source = "{folder}/gone"
family = "sd15"
licence = "MIT"

[models.misfit]
name = "Misfit"
source = "{folder}/misfit"
family = "sdxl"
licence = "MIT"
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pocket(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VictimStage]:
    """The real engine on the built-in model, beside two models that are none."""
    folder = tmp_path_factory.mktemp("pocket")
    models = folder / "models.toml"
    models.write_text(MODELS.format(repository=REPOSITORY, folder=folder))
    (folder / "misfit").mkdir()
    index = {"_class_name": "StableDiffusionXLPipeline", "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "misfit" / "model_index.json").write_text(json.dumps(index))
    async with LoopbackDiscord() as discord:
        stage = victim_of(discord, folder, {"VICTIM_ENGINE": "pocket", "EASEL_MODELS_FILE": str(models)})
        try:
            await stage.start()
            await stage.draw("eve", steps=1)  # so that torch is there and the model loaded
            yield stage
        finally:
            await stage.bot.kill()
        stage.check()


async def failed(stage: VictimStage, one: Invocation) -> str:
    """Wait until the request has failed; what its member reads, without any picture."""
    await one.wait_for(lambda one: one.message and "Again" in one.message.buttons, timeout_s=ENDS_WITHIN_S)
    assert one.message is not None
    assert not any(pictures(version) for version in one.message.versions)
    assert stage.status_of(one) == "failed"
    return shown(one.text)


@pytest.mark.fault(31)
async def test_fault_31_no_room_for_two_is_tried_with_one_and_no_room_at_all_fails_with_words(
    pocket: VictimStage,
) -> None:
    notes = pocket.traps / "no-room-for"
    halved = await pocket.imagine("ada", prompt="memory-alone a house", steps=4, count=2)
    await pocket.drawn(halved)
    assert notes.read_text().split() == ["2"]
    assert (pocket.traps / "freed").exists()
    words = await failed(pocket, await pocket.imagine("bob", prompt="memory a house", steps=4))
    assert "has no room for 64×64" in words
    assert "smaller size" in words
    await pocket.draw("eve", steps=2)


@pytest.mark.fault(33)
@pytest.mark.parametrize(("word", "said"), [("nan", "gave a broken picture"), ("black", "gave a black picture")])
async def test_fault_33_output_that_is_no_picture_is_not_shown_as_a_success(
    pocket: VictimStage, word: str, said: str
) -> None:
    bad = await pocket.imagine("ada", prompt=f"{word} a house", steps=2)
    assert said in await failed(pocket, bad)
    await pocket.draw("eve", steps=2)
    folder = pocket.bot.data_dir / "data" / "pictures"
    (job,) = (job for job, _, asked in pocket.jobs() if asked == bad.interaction.id)
    assert list(folder.rglob(f"*{job}*.png")) == []


@pytest.mark.fault(35)
@pytest.mark.parametrize(
    ("model", "said"), [("gone", "Gone: there is no folder"), ("misfit", "Misfit: .* its part 'vae' is missing")]
)
async def test_fault_35_model_that_is_missing_or_does_not_fit_is_named(
    pocket: VictimStage, model: str, said: str
) -> None:
    words = await failed(pocket, await pocket.imagine("ada", prompt="a house", model=model))
    assert re.search(said, words), words
    await pocket.draw("eve", steps=2)


@pytest.mark.fault(35)
async def test_fault_35_lora_that_is_missing_is_named_before_anything_is_queued(pocket: VictimStage) -> None:
    before = len(pocket.jobs())
    asked = await (await pocket.imagine("ada", prompt="a house", lora="nonesuch:0.5")).answered()
    assert "There is no LoRA 'nonesuch'" in asked.private_text
    assert len(pocket.jobs()) == before
    await pocket.draw("eve", steps=2)


@pytest.mark.fault(32)
async def test_fault_32_device_that_fails_for_good_restarts_the_process_and_the_requests_are_drawn_once(
    victims: Victims,
) -> None:
    stage = await victims()
    pid = stage.bot.pid
    beside = await stage.waiting(await stage.imagine("bob", prompt="slow a boat", steps=30))
    asked = await stage.imagine("ada", prompt="lost-once a house", steps=4)
    for one in (asked, beside):
        message = await stage.drawn(one)
        assert stage.showing(job_of(message)) == [message]
    assert (stage.bot.pid, stage.bot.returncode) == (pid, None)
    assert "the device is lost" in stage.bot.logs
    assert "a new one takes up its requests" in stage.bot.logs
    assert len(stage.discord.gateway.identified_at) == 2
    assert await stage.bot.terminate() == 0


@pytest.mark.fault(34)
async def test_fault_34_step_that_hangs_costs_its_own_request_and_the_next_is_drawn(victims: Victims) -> None:
    stage = await victims({"VICTIM_DRAIN_S": "2"})
    stuck = await stage.imagine("ada", prompt="stuck-once a house", steps=4)
    assert "did not answer" in await failed(stage, stuck)
    behind = await stage.imagine("bob", prompt="a boat", steps=2)
    if "restarting" in (await behind.answered()).private_text or "starts anew" in behind.private_text:
        await stage.bot.ready(timeout_s=START_S)
    await stage.discord.bell.until(
        lambda: len(stage.discord.gateway.identified_at) == 2 and stage.discord.gateway.connected, timeout_s=START_S
    )
    await stage.draw("eve", steps=2)
