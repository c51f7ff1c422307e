"""Views that discord.py sends and forgets, and texts that run nothing."""

from __future__ import annotations

import re
from typing import Any

from discord import ui

from bot.prompts.text import legible

_FENCE = re.compile("`(?=`)")


def sealed(*items: ui.Item[Any]) -> ui.LayoutView:
    """Wrap items in a view that discord.py sends and forgets."""
    view = ui.LayoutView(timeout=None)
    for item in items:
        view.add_item(item)
    view.stop()
    return view


def fenced(text: str, limit: int) -> str:
    """Show at most `limit` characters as typed, in a code block; only what would end it, or garble it, is broken."""
    return "```\n" + _FENCE.sub("`\u200b", legible(text))[:limit] + "\n```"
