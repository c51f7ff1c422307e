"""*Vary region*: a grid over a picture of a result, so that a part of it is redrawn without an editor.

All that was chosen stands in the custom ids, so a choice that was begun before a restart goes on after it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import discord
from discord import ui

from bot.catalogue.models import Catalogue
from bot.errors import RequestError
from bot.generation import STANDARD, GenerationOptions, GenerationRequest, InputRef, Job, PictureFile
from bot.prompts.again import options_of
from bot.prompts.regions import Squares, grid_over, spelled, squares_of
from bot.ui.answers import guarded
from bot.ui.buttons import JOB, JobButton, drawable_job
from bot.ui.forms import part_form, read_part_form
from bot.ui.house import House, age_restricted, house_of
from bot.ui.inputs import NOT_YET
from bot.ui.selects import A_SELECT, chosen, whole_numbers
from bot.ui.submit import drawn_as
from bot.ui.view import sealed

N = r"(?P<n>[1-9]\d?)"
PART = rf"{JOB}:{N}:(?P<squares>[0-9a-f]{{1,7}})"
PART_FORM_ID = re.compile(rf"easel:v1:partform:{PART}")

FILE_NAME = "region.jpg"
NOTHING = Squares()
_SAYS = "-# Choose squares, or a region; *Redraw…* then asks what to draw there. Outside of them no pixel changes."


class RegionButton(JobButton, template=rf"easel:v1:region:{JOB}"):
    """*Vary region*: answers with the first picture under its grid."""

    action = "region"
    label = "Vary region"

    async def press(self, interaction: discord.Interaction[Any], house: House) -> None:
        """Answer to the one who pressed, and to nobody else."""
        job = await drawable_job(interaction, house, self.job_id)
        _check_model(job, house)
        first = next((file.n for file in _visible(interaction, house, job)), 0)
        file = _usable(interaction, house, job, first)
        await interaction.response.defer(ephemeral=True, thinking=True)
        shown = discord.File(io.BytesIO(await house.service.regions.shown(file, NOTHING)), FILE_NAME)
        view = part_view(job, _visible(interaction, house, job), file, NOTHING)
        await interaction.followup.send(view=view, file=shown, ephemeral=True)


class PartSelect(ui.DynamicItem[ui.Select[Any]], template=rf"easel:v1:(?P<how>squares|part|picture|further):{PART}"):
    """The selects under the grid: of squares, of ready-made regions, and of pictures where there are several."""

    def __init__(
        self, how: str, job_id: str, n: int, squares: Squares, options: Sequence[discord.SelectOption],
        placeholder: str = "", most: int = 1,
    ) -> None:  # fmt: skip
        """`how` is "squares", "part", "picture" or "further" (pictures); `squares` are those chosen so far, `most` how many choices it takes."""
        self.how, self.job_id, self.n, self.squares = how, job_id, n, squares
        select: ui.Select[Any] = ui.Select(
            custom_id=f"easel:v1:{how}:{_spelled(job_id, n, squares)}", placeholder=placeholder, options=list(options),
            min_values=0 if how == "squares" else 1, max_values=most,
        )  # fmt: skip
        super().__init__(select)

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Rebuild the select; the choice comes with the press."""
        return cls(match["how"], *_read(match), [])

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Show what is chosen now; every error becomes an answer."""
        await guarded(interaction, self._choose(interaction, house_of(interaction)))

    async def _choose(self, interaction: discord.Interaction[Any], house: House) -> None:
        job = await drawable_job(interaction, house, self.job_id)
        values = chosen(interaction)
        numbers = whole_numbers(values)
        n = (numbers or [-1])[0] if self.how in ("picture", "further") else self.n
        file = _usable(interaction, house, job, n, self.squares)
        grid, squares = grid_over(file.width, file.height), self.squares
        if self.how == "squares":
            squares = Squares(number for number in numbers if number < grid.count)
        elif self.how == "part":
            squares = grid.regions().get("".join(values[:1]), squares)
        await interaction.response.defer()
        shown = discord.File(io.BytesIO(await house.service.regions.shown(file, squares)), FILE_NAME)
        view = part_view(job, _visible(interaction, house, job), file, squares)
        await interaction.edit_original_response(view=view, attachments=[shown])


class RedrawButton(ui.DynamicItem[ui.Button[Any]], template=rf"easel:v1:redraw:{PART}"):
    """*Redraw…*: the form that asks what to draw in the chosen squares."""

    def __init__(self, job_id: str, n: int, squares: Squares) -> None:
        self.job_id, self.n, self.squares = job_id, n, squares
        button: ui.Button[Any] = ui.Button(
            label="Redraw…", style=discord.ButtonStyle.primary,
            custom_id=f"easel:v1:redraw:{_spelled(job_id, n, squares)}",
        )  # fmt: skip
        super().__init__(button)

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Rebuild the button from its id alone."""
        return cls(*_read(match))

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Open the form; every error becomes an answer."""
        await guarded(interaction, self._open(interaction, house_of(interaction)))

    async def _open(self, interaction: discord.Interaction[Any], house: House) -> None:
        job = await drawable_job(interaction, house, self.job_id)
        _check_model(job, house)
        _usable(interaction, house, job, self.n, self.squares)
        if not self.squares:
            raise RequestError("Choose at least one square first, or a region; then press Redraw… again.")
        form_id = f"easel:v1:partform:{_spelled(job.id, self.n, self.squares)}"
        await interaction.response.send_modal(part_form(form_id, job.request.alone(self.n)))


REGION_ITEMS: tuple[type[ui.DynamicItem[Any]], ...] = (RegionButton, PartSelect, RedrawButton)


def may_redraw(job: Job, catalogue: Catalogue) -> bool:
    """Whether a part of a result's pictures can be redrawn: of a sheet or an enlarged picture none is."""
    spec = catalogue.get(job.request.model)
    return spec is not None and spec.from_pictures and not job.request.axes and not job.request.upscale


def part_view(job: Job, files: Sequence[PictureFile], file: PictureFile, squares: Squares) -> ui.LayoutView:
    """Show one of `files` under its grid, attached as FILE_NAME, with what chooses a part of it; `squares` are chosen."""
    grid = grid_over(file.width, file.height)
    names = ", ".join(grid.name(square) for square in sorted(squares))
    said = f"**Redraw {names}**" if squares else "**Redraw a part**"
    seen = discord.MediaGalleryItem(
        f"attachment://{FILE_NAME}", spoiler=job.request.spoiler,
        description=f"picture {file.n + 1} under a grid of {grid.columns} columns, A to {grid.name(grid.columns - 1)[0]}, and {grid.rows} rows",
    )  # fmt: skip
    options = [
        discord.SelectOption(label=grid.name(square), value=str(square), default=square in squares)
        for square in range(grid.count)
    ]
    regions = [
        discord.SelectOption(label=name, value=name, default=region == squares)
        for name, region in grid.regions().items()
    ]
    selects = [
        *_pictures(job.id, [one.n for one in files], file.n, squares),
        PartSelect("squares", job.id, file.n, squares, options, "Squares", grid.count),
        PartSelect("part", job.id, file.n, squares, regions, "Or a region"),
    ]
    rows = [ui.ActionRow[Any](item) for item in (*selects, RedrawButton(job.id, file.n, squares))]
    return sealed(ui.Container(ui.TextDisplay(f"{said}\n{_SAYS}"), ui.MediaGallery(seen), *rows))


async def part_submitted(interaction: discord.Interaction[Any], match: re.Match[str]) -> None:
    """Queue what the form says: the picture, and the mask of its chosen squares. A refusal hands the typed prompt back."""
    house = house_of(interaction)
    job_id, n, squares = _read(match)
    job = await drawable_job(interaction, house, job_id)
    file = _usable(interaction, house, job, n, squares)

    async def complete(known: GenerationRequest) -> GenerationRequest:
        picture = await house.service.take_result(job, n, age_restricted=age_restricted(interaction.channel))
        mask = await house.service.regions.mask(file, squares)
        return replace(known, image=picture.digest, mask=mask.digest)

    await drawn_as(interaction, house, lambda data: read_part_form(data, redrawn(job.request.alone(n), file)), complete)


def redrawn(request: GenerationRequest, file: PictureFile) -> GenerationOptions:
    """Give the options that redraw a part of a picture: as it was drawn, but for a new seed, and what goes with its beginning."""
    own = replace(
        options_of(request), image=InputRef(NOT_YET, file.width, file.height), mask=InputRef(NOT_YET, file.width, file.height),
        strength=None, control=None, control_type=None, control_scale=None, base_seed=None, variation=None, tiling=False,
        seed=None, count=None,
    )  # fmt: skip
    if request.quality == STANDARD:
        return own
    # Drafts take no mask; their steps, guidance and sampler are not the model's own.
    return replace(own, quality=None, steps=None, guidance=None, sampler=None)


def _pictures(job_id: str, numbers: Sequence[int], n: int, squares: Squares) -> list[PartSelect]:
    """Give the selects of the picture, where there are several."""
    if len(numbers) < 2:
        return []
    options = [
        discord.SelectOption(label=f"Picture {number + 1}", value=str(number), default=number == n)
        for number in numbers
    ]
    halves = (("picture", options[:A_SELECT]), ("further", options[A_SELECT:]))
    return [PartSelect(how, job_id, n, squares, half, "Picture") for how, half in halves if half]


def _visible(interaction: discord.Interaction[Any], house: House, job: Job) -> list[PictureFile]:
    return house.service.regions.visible(job, age_restricted=age_restricted(interaction.channel))


def _usable(
    interaction: discord.Interaction[Any], house: House, job: Job, n: int, squares: Squares = NOTHING
) -> PictureFile:
    """Find a picture to redraw a part of. Raises JobNotFound, ModerationRefused, RequestError where it has no such squares."""
    file = house.service.regions.usable(job, n, age_restricted=age_restricted(interaction.channel))
    if squares and max(squares) >= grid_over(file.width, file.height).count:
        raise RequestError("These squares are of another version of the bot; press Vary region again.")
    return file


def _check_model(job: Job, house: House) -> None:
    if not may_redraw(job, house.service.catalogue):
        name = house.service.catalogue.name_of(job.request.model)
        raise RequestError(f"{name} redraws no part of this; draw it with another model, or use /imagine with a mask.")


def _spelled(job_id: str, n: int, squares: Squares) -> str:
    return f"{job_id}:{n + 1}:{spelled(squares)}"


def _read(match: re.Match[str]) -> tuple[str, int, Squares]:
    return match["job"], int(match["n"]) - 1, squares_of(match["squares"])
