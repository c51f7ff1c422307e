"""Selects on a result of many pictures, where Discord has no room for a button each. They outlive the process, as buttons do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

import discord
from discord import ui

from bot.ui.answers import guarded
from bot.ui.buttons import JOB
from bot.ui.house import House, house_of

BUTTONS_AT_MOST = 4
"""Above so many pictures a select stands in the place of a row of buttons."""
A_SELECT = 25
"""How many choices a select has, by Discord's rules."""

PAGE = r"(?::(?P<page>[2-9]))?"


class PictureSelect(ui.DynamicItem[ui.Select[Any]], template=rf"easel:v1:pictures:{JOB}{PAGE}"):
    """Base of the selects that choose one picture; a subclass names its action and says what a choice does."""

    action: ClassVar[str]
    label: ClassVar[str]

    def __init__(self, job_id: str, numbers: Sequence[int], page: int = 1) -> None:
        """`numbers` are the pictures, from 0; `page` counts from 1 where they take more than one select."""
        self.job_id = job_id
        options = [discord.SelectOption(label=f"{self.label} {n + 1}", value=str(n)) for n in numbers]
        more = f":{page}" if page > 1 else ""
        select: ui.Select[Any] = ui.Select(
            custom_id=f"easel:v1:{self.action}:{job_id}{more}", placeholder=self.label, options=options
        )
        super().__init__(select)

    @classmethod
    def over(cls, job_id: str, numbers: Sequence[int]) -> list[Self]:
        """Give as many selects as these pictures take."""
        return [
            cls(job_id, numbers[start : start + A_SELECT], start // A_SELECT + 1)
            for start in range(0, len(numbers), A_SELECT)
        ]

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Rebuild the select; the choice comes with the press."""
        return cls(match["job"], [], int(match["page"] or 1))

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Do it for the chosen picture; every error becomes an answer."""
        numbers = whole_numbers(chosen(interaction))
        await guarded(interaction, self.press(interaction, house_of(interaction), numbers[0] if numbers else -1))

    async def press(self, interaction: discord.Interaction[Any], house: House, n: int) -> None:
        """Do what the select says for picture `n` (from 0), which need not exist."""
        raise AssertionError(f"{type(self).__name__} does nothing")


def chosen(interaction: discord.Interaction[Any]) -> list[str]:
    """Read what was chosen in a select; who sends it is not to be trusted."""
    data: Any = interaction.data or {}
    return [str(value) for value in data.get("values") or []]


def whole_numbers(values: Iterable[str]) -> list[int]:
    """Read the whole numbers among some values, of at most four digits."""
    return [int(value) for value in values if value.isdecimal() and value.isascii() and len(value) <= 4]
