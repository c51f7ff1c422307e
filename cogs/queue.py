"""`/queue` and `/cancel`: what waits, and taking it back."""

from __future__ import annotations

from typing import Any, cast

import discord
from discord import app_commands, ui
from discord.app_commands import Choice
from discord.ext import commands

from bot.errors import JobNotFound, RequestError
from bot.generation import Job
from bot.prompts.text import inert, plain
from bot.ui import words
from bot.ui.buttons import CancelButton
from bot.ui.choices import matching
from bot.ui.house import House, actor_of
from bot.ui.view import sealed

SHOWN = 8
ALL = "all"


class Queue(commands.Cog):
    """Look at the queue and leave it."""

    def __init__(self, house: House) -> None:
        self.house = house

    @app_commands.command(description="See what is drawn now and where your requests stand")
    async def queue(self, interaction: discord.Interaction[Any]) -> None:
        """Answer with the running requests, the number waiting and the member's own places."""
        overview = self.house.service.overview(interaction.user.id)
        running = [_running_line(job, interaction.user.id) for job in overview.running]
        head = "\n".join(running) if running else "Nothing is being drawn."
        count = "nobody waits" if not overview.waiting else f"{overview.waiting} waiting"
        items: list[ui.Item[Any]] = [ui.TextDisplay(f"{head}\n-# {count}")]
        for job, place in overview.mine[:SHOWN]:
            eta = "" if place.eta_s is None else f" · about {words.duration(place.eta_s)}"
            text = f"**{words.ordinal(place.position)} in line**{eta}\n{inert(words.subject(job.request), 120)}"
            items.append(ui.Section(ui.TextDisplay(text), accessory=cast(Any, CancelButton(job.id))))
        if len(overview.mine) > SHOWN:
            items.append(ui.TextDisplay(f"-# and {len(overview.mine) - SHOWN} more of yours"))
        await interaction.response.send_message(view=sealed(ui.Container(*items)), ephemeral=True)

    @app_commands.command(description="Cancel your waiting or running requests")
    @app_commands.describe(request="Which one; left out: your newest")
    async def cancel(self, interaction: discord.Interaction[Any], request: str | None = None) -> None:
        """Cancel one request, or all of the member's."""
        mine = self._mine(interaction.user.id)
        if not mine:
            raise RequestError("You have nothing waiting or running.")
        named = mine[-1].id if request is None else request
        chosen = [job.id for job in mine] if named == ALL else [named]
        await interaction.response.defer(ephemeral=True)
        done: list[Job] = []
        for job_id in chosen:
            try:
                done.append(await self.house.service.cancel(job_id, actor_of(interaction)))
            except RequestError:
                if len(chosen) == 1:
                    raise
        if not done:
            raise JobNotFound("They were finished before they could be cancelled.")
        names = "\n".join(f"- {inert(words.subject(job.request), 120)}" for job in done[:SHOWN])
        await interaction.followup.send(f"Cancelled:\n{names}", ephemeral=True)

    @cancel.autocomplete("request")
    async def complete_request(self, interaction: discord.Interaction[Any], typed: str) -> list[Choice[str]]:
        """Offer the member's own unfinished requests."""
        mine = self._mine(interaction.user.id)
        every = [(f"All {len(mine)} of them", ALL)] if len(mine) > 1 else []
        return matching(typed, [*every, *((plain(words.subject(job.request), 90) or job.id, job.id) for job in mine)])

    def _mine(self, user_id: int) -> list[Job]:
        overview = self.house.service.overview(user_id)
        running = [job for job in overview.running if job.origin.user_id == user_id]
        waiting = [job for job, _ in overview.mine]
        return sorted([*running, *waiting], key=lambda job: job.created_at)


def _running_line(job: Job, user_id: int) -> str:
    if job.request.private and job.origin.user_id != user_id:
        return "**Now** · a private request"
    return f"**Now** · {inert(words.subject(job.request), 120)} · for <@{job.origin.user_id}>"


async def setup(bot: commands.Bot) -> None:
    """Load the cog."""
    await bot.add_cog(Queue(bot.house))  # type: ignore[attr-defined]  # EaselClient carries it
