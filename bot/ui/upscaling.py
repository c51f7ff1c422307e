"""*Upscale*: the buttons under a result, the stronger choices under what came of them, and pictures that people send."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import discord
from discord import ui

from bot.errors import JobNotFound
from bot.generation import DETAIL, GenerationRequest, InputRef, Job, PictureFile, UpscaleOptions
from bot.limits import told_by
from bot.prompts.upscaling import may_upscale, options_of_upscale, redraws, source_size
from bot.ui.buttons import JOB, JobButton, PictureButton, draw, drawable_job
from bot.ui.house import House, age_restricted
from bot.ui.inputs import MAX_BYTES, NOT_YET, check_file
from bot.ui.media import Media
from bot.ui.selects import BUTTONS_AT_MOST, PAGE, PictureSelect

AT_ONCE = 2
"""How many times a press enlarges; more is chosen on what came of it."""
SPOILER = "SPOILER_"


class UpscaleButton(PictureButton, template=rf"easel:v1:upscale:{JOB}:(?P<n>[1-9]\d?)"):
    """*Upscale*, or *Upscale n* where there are several: one picture, 2×, at once."""

    action = "upscale"
    label = "Upscale"

    async def press(self, interaction: discord.Interaction[Any], house: House) -> None:
        """Queue the picture's enlargement; the answer is a new message."""
        await _upscale_result(interaction, house, self.job_id, self.n)


class UpscaleSelect(PictureSelect, template=rf"easel:v1:upscales:{JOB}{PAGE}"):
    """The same for many pictures."""

    action = "upscales"
    label = "Upscale"

    async def press(self, interaction: discord.Interaction[Any], house: House, n: int) -> None:
        """Queue the chosen picture's enlargement."""
        await _upscale_result(interaction, house, self.job_id, n)


class StrongerButton(JobButton, template=rf"easel:v1:stronger:{JOB}:(?P<how>4|detail)"):
    """*4×* and *Detail*, on a picture that is enlarged: the same picture again, larger or with its details redrawn."""

    action = "stronger"
    label = "Detail"

    def __init__(self, job_id: str, how: str) -> None:
        """`how` is "4" or "detail"."""
        self.how = how
        super().__init__(job_id, label="4×" if how == "4" else None, more=f":{how}")

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Rebuild the button from its id alone."""
        return cls(match["job"], match["how"])

    async def press(self, interaction: discord.Interaction[Any], house: House) -> None:
        """Queue it; the answer is a new message."""
        job = await drawable_job(interaction, house, self.job_id)
        if not job.request.upscale:
            raise JobNotFound("This picture is not an upscaled one; use its own Upscale button.")
        options = options_of_upscale(job.request)
        options = replace(options, factor=4) if self.how == "4" else replace(options, mode=DETAIL)
        await draw(interaction, house, house.service.prepare_upscale(options))


UPSCALE_ITEMS: tuple[type[ui.DynamicItem[Any]], ...] = (UpscaleButton, UpscaleSelect, StrongerButton)


def upscale_items(job: Job, shown: Sequence[PictureFile]) -> list[ui.Item[Any]]:
    """Give what enlarges a result's pictures: none where all are too large for it, or a sheet compares them."""
    items: list[ui.Item[Any]] = []
    if job.request.upscale:
        items = [StrongerButton(job.id, how) for how in _stronger(job.request)]
    elif not job.request.axes:
        numbers = [file.n for file in shown if may_upscale(file.width, file.height, AT_ONCE)]
        if len(numbers) > BUTTONS_AT_MOST:
            items = [*UpscaleSelect.over(job.id, numbers)]
        else:
            items = [UpscaleButton(job.id, n, alone=job.request.count == 1) for n in numbers]
    return items


def _stronger(request: GenerationRequest) -> list[str]:
    larger = request.upscale < 4 and may_upscale(*source_size(request), 4)
    return [*(["4"] if larger else []), *([] if redraws(request) else ["detail"])]


async def _upscale_result(interaction: discord.Interaction[Any], house: House, job_id: str, n: int) -> None:
    """Queue a picture of ours to be enlarged, by the words it was drawn with."""
    job = await drawable_job(interaction, house, job_id)
    file = next((file for file in job.files if file.n == n), None)
    if file is None:
        raise JobNotFound("This picture is not kept any more; draw it again.")
    if job.request.axes:
        raise JobNotFound("This is a sheet of several pictures; draw the one that you want, and upscale that.")
    request = job.request.alone(n)
    known = house.service.prepare_upscale(
        UpscaleOptions(
            InputRef(NOT_YET, file.width, file.height), AT_ONCE, prompt=request.prompt,
            negative_prompt=request.negative_prompt, model=request.model, private=request.private, spoiler=request.spoiler,
        )
    )  # fmt: skip

    async def complete() -> GenerationRequest:
        ref = await house.service.take_result(job, n, age_restricted=age_restricted(interaction.channel))
        return replace(known, image=ref.digest)

    await draw(interaction, house, known, complete)


async def upscale_file(
    interaction: discord.Interaction[Any], house: House, file: Media, options: UpscaleOptions
) -> None:
    """Check what can be checked at once, acknowledge, take a picture in whole, queue it to be enlarged.

    `options.image` is the size as far as it is known; what made the picture is read out of its file.
    """
    check_file(file)
    options = replace(options, spoiler=file.name.startswith(SPOILER))
    known = house.service.prepare_upscale(options)
    house.service.check_room(interaction.user.id)

    async def complete() -> GenerationRequest:
        data = await house.fetch(file.url, MAX_BYTES)
        ref = await house.service.take_input(data, age_restricted=age_restricted(interaction.channel), whole=True)
        prompt, negative, model = told_by(await house.service.read_info(data), house.service.catalogue)
        whole = replace(options, image=ref, prompt=prompt, negative_prompt=negative, model=model)
        return replace(house.service.prepare_upscale(whole), seed=known.seed)

    await draw(interaction, house, known, complete)
