"""What several test folders share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import discord

from bot.client import EXTENSIONS, EaselClient


@dataclass(frozen=True)
class NoHouse:
    """Enough of a house for cogs to be loaded, and nothing behind it."""

    service: Any = None
    delivery: Any = None
    fetch: Any = None
    clock: Any = None


async def registered_commands() -> list[dict[str, Any]]:
    """Give the payloads the cogs would register."""
    client = EaselClient()
    client.house = NoHouse()  # type: ignore[assignment]
    for extension in EXTENSIONS:
        await client.load_extension(extension)
    payloads = [command.to_dict(client.tree) for command in client.tree.get_commands()]
    await client.close()
    return payloads


def texts(components: list[dict[str, Any]]) -> list[str]:
    """Collect the text of every text display, outside in."""
    found: list[str] = []
    for component in components:
        if component["type"] == discord.ComponentType.text_display.value:
            found.append(component["content"])
        found += texts(component.get("components") or [])
        if "accessory" in component:
            found += texts([component["accessory"]])
    return found


def labels(components: list[dict[str, Any]]) -> list[str]:
    """Collect the labels of all buttons, outside in."""
    found: list[str] = []
    for component in components:
        if component["type"] == discord.ComponentType.button.value:
            found.append(component["label"])
        found += labels(component.get("components") or [])
        if "accessory" in component:
            found += labels([component["accessory"]])
    return found


def components(payload: list[dict[str, Any]]) -> int:
    """Count components as Discord does: all of them, also those inside others."""
    inner = [
        [*(part.get("components") or []), *([part["accessory"]] if "accessory" in part else [])] for part in payload
    ]
    return len(payload) + sum(map(components, inner))
