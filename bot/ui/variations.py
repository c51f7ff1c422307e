"""*Vary*: more pictures like one of a result, near it or further away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import discord
from discord import ui

from bot.catalogue.models import VARIED, Catalogue
from bot.errors import JobNotFound
from bot.generation import InputRef, Job, PictureFile
from bot.prompts.again import options_of
from bot.ui.buttons import JOB, JobButton, PictureButton, draw, drawable_job
from bot.ui.house import House, age_restricted
from bot.ui.inputs import NOT_YET
from bot.ui.selects import BUTTONS_AT_MOST, PAGE, PictureSelect

SUBTLE, STRONG = 0.2, 0.6
"""How far towards another seed's noise."""
SUBTLE_STRENGTH, STRONG_STRENGTH = 0.35, 0.7
"""How far to leave the picture, where its noise is no longer known as one seed's."""


class VaryButton(PictureButton, template=rf"easel:v1:vary:{JOB}:(?P<n>[1-9]\d?)"):
    """*Vary n*: as many pictures again, all near this one."""

    action = "vary"
    label = "Vary"

    async def press(self, interaction: discord.Interaction[Any], house: House) -> None:
        """Queue the variations; the answer is a new message."""
        job = await drawable_job(interaction, house, self.job_id)
        await _vary(interaction, house, job, self.n, SUBTLE, SUBTLE_STRENGTH)


class VarySelect(PictureSelect, template=rf"easel:v1:varies:{JOB}{PAGE}"):
    """The same for many pictures."""

    action = "varies"
    label = "Vary"

    async def press(self, interaction: discord.Interaction[Any], house: House, n: int) -> None:
        """Queue the chosen picture's variations."""
        job = await drawable_job(interaction, house, self.job_id)
        await _vary(interaction, house, job, n, SUBTLE, SUBTLE_STRENGTH)


class VaryStrongButton(JobButton, template=rf"easel:v1:varymore:{JOB}"):
    """*Vary strong*, on what stayed near its beginning: further away from the seed or picture it was made of."""

    action = "varymore"
    label = "Vary strong"

    async def press(self, interaction: discord.Interaction[Any], house: House) -> None:
        """Queue the variations; the answer is a new message."""
        job = await drawable_job(interaction, house, self.job_id)
        options = replace(options_of(job.request), seed=None)
        if job.request.base_seed is not None:
            options = replace(options, variation=STRONG)
        else:
            options = replace(options, strength=STRONG_STRENGTH)
        await draw(interaction, house, house.service.prepare(options))


VARY_ITEMS: tuple[type[ui.DynamicItem[Any]], ...] = (VaryButton, VarySelect, VaryStrongButton)


def vary_items(job: Job, shown: Sequence[PictureFile]) -> list[ui.Item[Any]]:
    """Give what varies each of a result's pictures."""
    if job.request.axes or job.request.upscale:  # a sheet's pictures are no files of their own
        return []
    numbers = [file.n for file in shown]
    if len(numbers) > BUTTONS_AT_MOST:
        return [*VarySelect.over(job.id, numbers)]
    return [VaryButton(job.id, n, alone=job.request.count == 1) for n in numbers]


def stronger_items(job: Job) -> list[ui.Item[Any]]:
    """Give *Vary strong* on what stayed near its beginning, another seed's noise or a picture, whoever chose that."""
    request = job.request
    if request.axes or request.upscale or request.mask:
        return []
    by_seed = request.base_seed is not None and request.variation < STRONG
    by_picture = request.base_seed is None and bool(request.image) and request.strength < STRONG_STRENGTH
    return [VaryStrongButton(job.id)] if by_seed or by_picture else []


async def _vary(
    interaction: discord.Interaction[Any], house: House, job: Job, n: int, amount: float, strength: float
) -> None:
    """Vary picture `n` by its noise where that is one seed's, else by drawing from the picture itself."""
    if all(file.n != n for file in job.files):
        raise JobNotFound("There is no such picture any more.")
    picture = job.request.alone(n)
    # Of a list each picture is a request of its own; of one prompt there are as many variations as there were pictures.
    count = 1 if job.request.variants else job.request.count
    options = replace(options_of(picture), seed=None, count=count)
    if varies_by_seed(job, house.service.catalogue):
        options = replace(options, base_seed=picture.seed, variation=amount)
        await draw(interaction, house, house.service.prepare(options))
        return
    options = replace(options, base_seed=None, variation=None, strength=strength, mask=None)
    guess = InputRef(NOT_YET, job.request.width, job.request.height)
    known = house.service.prepare(replace(options, image=guess))

    async def complete() -> Any:
        ref = await house.service.take_result(job, n, age_restricted=age_restricted(interaction.channel))
        return replace(known, image=ref.digest)

    await draw(interaction, house, known, complete)


def varies_by_seed(job: Job, catalogue: Catalogue) -> bool:
    """Whether picture n of a request began with the noise of one seed, and its model can vary that."""
    spec = catalogue.get(job.request.model)
    return job.request.base_seed is None and spec is not None and spec.family in VARIED
