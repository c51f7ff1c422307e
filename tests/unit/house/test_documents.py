"""Every setting, command and option stands in the documents, and the documents name nothing that does not exist."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import discord
import pytest

from bot.catalogue.models_file import parse_catalogue
from bot.config import Settings
from tests.support import registered_commands

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ENV_EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
NAMES = [item.metadata["name"] for item in fields(Settings)]


@pytest.mark.parametrize("name", NAMES)
def test_setting_is_in_the_readme_and_the_example(name: str) -> None:
    assert f"`{name}`" in README
    assert re.search(rf"^#? ?{name}=", ENV_EXAMPLE, re.MULTILINE)


def test_documents_name_no_setting_that_does_not_exist() -> None:
    named = set(re.findall(r"`((?:EASEL|DISCORD|HF)_[A-Z_]+)`", README))
    named |= set(re.findall(r"^#? ?([A-Z_]+)=", ENV_EXAMPLE, re.MULTILINE))
    assert named <= set(NAMES)


async def test_commands_and_options_are_in_the_readme() -> None:
    for command in await registered_commands():
        if command["type"] == discord.AppCommandType.chat_input.value:
            assert f"`/{command['name']}" in README, command["name"]
            for option in command["options"]:
                assert f"`{option['name']}`" in README, f"/{command['name']} {option['name']}"
        else:
            assert f"*{command['name']}*" in README


def test_models_are_in_the_readme() -> None:
    catalogue = parse_catalogue((ROOT / "models.toml").read_text(encoding="utf-8"), origin="models.toml")
    for spec in catalogue.models:
        assert f"`{spec.id}`" in README


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:|#)([^)#]+)", README))))
def test_readme_links_to_files_that_exist(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`(make [a-z-]+)`", README))))
def test_readme_names_make_targets_that_exist(command: str) -> None:
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
