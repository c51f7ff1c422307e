from __future__ import annotations

from pathlib import Path

import pytest

from bot.config import read_environment, read_settings
from bot.errors import ConfigError


def test_read_settings_empty_environment_gives_the_defaults() -> None:
    settings = read_settings({})
    assert settings.data_dir == Path("data")
    assert settings.discord_api_url == "https://discord.com/api/v10"
    assert settings.max_attempts == 3


def test_read_settings_empty_value_is_not_set() -> None:
    assert read_settings({"DISCORD_TOKEN": "  ", "EASEL_MAX_BATCH": ""}).discord_token is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EASEL_MAX_BATCH", "zero"),
        ("EASEL_MAX_BATCH", "0"),
        ("EASEL_DEVICE", "gpu"),
        ("EASEL_DTYPE", "int8"),
        ("DISCORD_API_URL", "discord.com"),
        ("DISCORD_GATEWAY_URL", "https://gateway"),
        ("EASEL_ATTACHMENT_HOSTS", "http://x/"),
        ("EASEL_KEEP_DAYS", "-1"),
        ("EASEL_SYNC_GUILD", "my server"),
        ("EASEL_LOG_FORMAT", "xml"),
        ("EASEL_WATERMARK", "maybe"),
        ("EASEL_ADULT_PICTURES", "always"),
    ],
)
def test_read_settings_wrong_value_is_named_with_what_it_takes(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is '{value}'; it takes "):
        read_settings({name: value})


@pytest.mark.parametrize(("value", "on"), [("on", True), ("OFF", False), ("", False)])
def test_read_settings_switch_is_on_or_off(value: str, on: bool) -> None:
    assert read_settings({"EASEL_WATERMARK": value}).watermark is on


def test_read_settings_token_of_any_shape_is_accepted_and_never_shown() -> None:
    settings = read_settings({"DISCORD_TOKEN": "any shape"})
    assert settings.discord_token == "any shape"
    assert "any shape" not in repr(settings)


def test_read_environment_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("EASEL_DEVICE=cuda\nEASEL_MAX_BATCH=8\n")
    settings = read_environment({"EASEL_DEVICE": "cpu"}, dotenv)
    assert (settings.device, settings.max_batch) == ("cpu", 8)


def test_read_environment_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_environment({}, dotenv)
