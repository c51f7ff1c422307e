"""Finished pictures as something to go on from: whether they may be used, under a grid, and the masks of their parts."""

from __future__ import annotations

from bot.errors import JobNotFound, ModerationRefused
from bot.files.archive import Archive
from bot.generation import InputRef, Job, PictureFile
from bot.moderation import AdultPolicy
from bot.prompts.regions import Squares, grid_over


class Regions:
    """Lets members choose a part of a result. Event loop only; the files are drawn and kept in the file pool."""

    def __init__(self, archive: Archive, adult: AdultPolicy) -> None:
        self._archive = archive
        self._adult = adult

    def visible(self, job: Job, *, age_restricted: bool) -> list[PictureFile]:
        """List the pictures of a finished request that may be gone on from: those that may be shown."""
        allowed = self._adult.allows(age_restricted=age_restricted)
        return [file for file in job.files if allowed or not file.flagged]

    def usable(self, job: Job, n: int, *, age_restricted: bool) -> PictureFile:
        """Find picture `n` (from 0) of those. Raises JobNotFound where there is none, ModerationRefused where it may not be shown."""
        if all(file.n != n for file in job.files):
            raise JobNotFound("There is no such picture any more.")
        file = next((file for file in self.visible(job, age_restricted=age_restricted) if file.n == n), None)
        if file is None:
            raise ModerationRefused("That picture was withheld here, so nothing is made of it here.")
        return file

    async def shown(self, file: PictureFile, squares: Squares) -> bytes:
        """Show a picture under its grid, with `squares` tinted: a marked JPEG. Raises JobNotFound where it is gone, StorageError."""
        return await self._archive.under_grid(file, grid_over(file.width, file.height), squares)

    async def mask(self, file: PictureFile, squares: Squares) -> InputRef:
        """Keep the mask that is white on `squares` of a picture, as an input picture. Raises StorageError."""
        return await self._archive.take_mask(grid_over(file.width, file.height), squares)
