"""Starts that cannot be: an exit code, one sentence that says what to do, no traceback, nothing harmed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from bot.exits import EXIT_DATABASE, EXIT_IN_USE
from tests.loopback.conftest import Raise
from tests.loopback.stage import Stage, shown

pytestmark = pytest.mark.asyncio(loop_scope="session")

NO_MODEL = """
[models.mine]
name = "Mine"
source = "{folder}"
family = "sd15"
licence = "MIT"
"""


async def refused(stage: Stage, code: int) -> str:
    """Wait for the end with this code; what was written, without what discord.py says about voice."""
    assert await stage.bot.exited(timeout_s=60) == code, stage.bot.logs
    return "\n".join(line for line in stage.bot.logs.splitlines() if "voice will NOT" not in line)


async def test_start_with_a_token_discord_refuses_ends_with_3_and_says_so(set_up: Raise) -> None:
    wrong = "MTEwMDAwMDAwMDAwMDAwMDEwMA.wrong1.a-token-that-discord-does-not-know-x"
    stage = await set_up({"DISCORD_TOKEN": wrong}, wait=False)
    said = await refused(stage, 3)
    assert "Discord refuses DISCORD_TOKEN" in said
    assert wrong not in said
    assert stage.discord.gateway.identified_at == []


async def test_gateway_that_refuses_the_token_ends_the_start_with_3(set_up: Raise) -> None:
    stage = await set_up(start=False)
    stage.discord.gateway.refuse_identify_with = 4004
    await stage.bot.start()
    assert "Discord refuses DISCORD_TOKEN" in await refused(stage, 3)


async def test_gateway_that_refuses_the_intents_ends_the_start_with_4(set_up: Raise) -> None:
    stage = await set_up(start=False)
    stage.discord.gateway.refuse_identify_with = 4014
    await stage.bot.start()
    assert "intents" in await refused(stage, 4)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        pytest.param({"DISCORD_TOKEN": ""}, "DISCORD_TOKEN is not set", id="no token"),
        pytest.param({"EASEL_DEVICE": "tpu"}, "EASEL_DEVICE is 'tpu'; it takes auto, cuda, mps or cpu", id="device"),
        pytest.param({"EASEL_MAX_BATCH": "many"}, "EASEL_MAX_BATCH is 'many'", id="number"),
        pytest.param({"EASEL_MODEL": "nothing"}, "nothing", id="model"),
        pytest.param({"EASEL_MODELS_FILE": "/nowhere/models.toml"}, "/nowhere/models.toml", id="models file"),
        pytest.param(
            {"EASEL_C2PA_CERT": "/nowhere/cert.pem", "EASEL_C2PA_KEY": "/nowhere/key.pem"},
            "EASEL_C2PA_CERT (/nowhere/cert.pem) cannot be read",
            id="certificate",
        ),
    ],
)
async def test_start_with_a_wrong_setting_ends_with_1_and_names_it(
    set_up: Raise, environment: dict[str, str], words: str
) -> None:
    stage = await set_up(environment, wait=False)
    said = await refused(stage, 1)
    assert words in said
    assert len(said.strip().splitlines()) == 1


async def test_server_to_register_in_that_the_bot_is_not_in_ends_with_1_and_is_named(set_up: Raise) -> None:
    stage = await set_up({"EASEL_SYNC_GUILD": "123456789"}, start=False)
    stage.discord.inject("GET", "/applications/*/guilds/123456789/commands", status=403, code=50001, times=None)
    await stage.bot.start()
    said = await refused(stage, 1)
    assert "EASEL_SYNC_GUILD is 123456789, a server the bot is not in" in said
    assert "Traceback" not in said


async def test_commands_that_discord_fails_to_read_at_first_are_registered_in_the_same_start(set_up: Raise) -> None:
    stage = await set_up(start=False)
    fault = stage.discord.inject("GET", "/applications/*/commands", status=503, times=1)
    await stage.bot.start()
    await stage.bot.ready()
    assert fault.hits == 1
    assert stage.discord.command_calls("PUT") == 1
    await stage.draw("ada", steps=1)


async def test_discord_that_cannot_be_reached_at_first_is_found_by_the_same_start(set_up: Raise) -> None:
    stage = await set_up(start=False)
    fault = stage.discord.inject("GET", "/users/@me", reset=True, times=None)
    await stage.bot.start()
    async with asyncio.timeout(30):
        while "Discord cannot be reached" not in stage.bot.logs:
            await asyncio.sleep(0.1)
    fault.lift()
    await stage.bot.ready()
    assert "Unclosed" not in stage.bot.logs
    await stage.draw("ada", steps=1)


async def test_model_folder_that_is_not_one_fails_the_request_with_a_sentence(set_up: Raise, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    models = tmp_path / "models.toml"
    models.write_text(NO_MODEL.format(folder=tmp_path / "empty"))
    stage = await set_up({"EASEL_MODELS_FILE": str(models)})
    asked = await stage.imagine("ada")
    await asked.wait_for(lambda one: "Again" in (one.message.buttons if one.message else {}), timeout_s=30)
    assert stage.status_of(asked) == "failed"
    assert "model_index.json" in shown(asked.text)
    assert "mine" in asked.text.lower()


async def test_second_instance_on_one_data_folder_ends_with_6_and_the_first_goes_on(
    stage: Stage, set_up: Raise
) -> None:
    second = await set_up({"EASEL_DATA_DIR": str(stage.bot.data_dir / "data")}, wait=False)
    said = await refused(second, EXIT_IN_USE)
    assert f"Another Easel (process {stage.bot.pid}) already uses the data folder" in said
    assert len(said.strip().splitlines()) == 1
    await stage.draw("ada", steps=4)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"this is no database at all" + data[26:], id="not a database"),
        pytest.param(lambda data: data[:4096] + b"\xff" * (len(data) - 4096), id="damaged inside"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut off"),
    ],
)
async def test_damaged_database_ends_the_start_with_7_and_is_left_as_it_is(
    stage: Stage, set_up: Raise, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    whole = (stage.bot.data_dir / "data" / "easel.db").read_bytes()
    path = data_dir / "easel.db"
    path.write_bytes(damage(whole))
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    other = await set_up({"EASEL_DATA_DIR": str(data_dir)}, wait=False)
    said = await refused(other, EXIT_DATABASE)
    assert "easel.db" in said
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
