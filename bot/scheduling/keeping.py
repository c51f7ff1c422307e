"""Keeps the pictures of a list as they come, so that a crash in the middle of it costs those alone that were not finished.

A picture is committed once its file is on disk, while its request runs; whoever draws the request again draws what is missing.
"""

from __future__ import annotations

import asyncio
import logging

from bot.errors import EaselError
from bot.files.archive import Archive
from bot.generation import GenerationResult, Job, PictureFile, Progress
from bot.scheduling.board import Run
from bot.store.jobs import JobStore

log = logging.getLogger(__name__)


class Keeper:
    """Writes finished pictures of lists beside the drawing. Event loop only."""

    def __init__(self, store: JobStore, archive: Archive) -> None:
        self._store = store
        self._archive = archive
        self._tasks: dict[Run, asyncio.Task[None]] = {}

    async def found(self, job: Job) -> dict[int, PictureFile]:
        """Give what an earlier process kept of a list, by number; pictures whose files are gone are drawn again."""
        kept = job.files if job.request.listed else ()
        return {file.n: file for file in await self._archive.present(kept)} if kept else {}

    def take(self, run: Run, news: Progress) -> None:
        """Begin to write what has just been finished."""
        run.unkept.append(news)
        if run not in self._tasks:
            self._tasks[run] = asyncio.create_task(self._keep(run), name=f"keep-{run.job.id}")

    async def settled(self, run: Run) -> None:
        """Wait until what was taken is written, or has failed to be."""
        task = self._tasks.get(run)
        if task is not None:
            await task

    async def cancel_all(self) -> None:
        """End all writing; what was asked of the store is still done."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, run: Run) -> None:
        try:
            while run.unkept:
                news = run.unkept.pop(0)
                result = GenerationResult(news.finished, 0.0, 0.0, news.device, news.dtype)
                files = await self._archive.write(run.job.id, run.job.request, result)
                if not await self._store.keep(run.job.id, files):
                    await self._not_wanted(run.job.id)
                    return
                run.kept.update({file.n: file for file in files})
        except EaselError as error:  # as a full disk: they are written with the others, at the end
            log.warning("pictures of request %s are not kept yet: %s", run.job.id, error)
        except Exception:
            log.exception("pictures of request %s are not kept yet", run.job.id)
        finally:
            del self._tasks[run]

    async def _not_wanted(self, job_id: str) -> None:
        """Remove the files of a request that has ended meanwhile; one that was put in line again keeps them."""
        job = await self._store.get(job_id)
        if job is None or job.status.final:
            await self._archive.delete(job_id)
