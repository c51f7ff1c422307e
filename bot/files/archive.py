"""The pictures on disk: judged, encoded, marked and written in a pool of their own.

Everything blocking runs on the pool's threads; the coroutines only wait for them, so the event loop and the
GPU thread never touch a file.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bot import provenance
from bot.errors import DiskFull, EaselError, JobNotFound, ModerationRefused, StorageError
from bot.files.bundle import bundle
from bot.files.contact import SHEET_PX, contact_sheet, thumbnail
from bot.files.decode import Decoded, decode, read_picture_info
from bot.files.export import Export, pack
from bot.files.inputs import InputShelf
from bot.files.marker import Marker, write_atomically
from bot.files.regions import SHOWN_PX, mask_of, under_grid
from bot.files.sheet import draw_sheet
from bot.generation import GenerationRequest, GenerationResult, InputPictures, InputRef, PictureFile, RawPicture
from bot.prompts.regions import Grid, Squares
from bot.prompts.upscaling import check_upscale
from bot.provenance import PictureInfo, read_info
from bot.safety.classifier import Classifier
from bot.safety.judge import Judge, Verdict

log = logging.getLogger(__name__)
T = TypeVar("T")

MIN_FREE_BYTES = 200_000_000
WORKERS = 2
INPUT_SIDE_PX = 2048
"""Input pictures are no use to a model at more than this; larger ones are made smaller as they are opened."""
GONE = "The file of this picture is gone; it was deleted, or kept too long."
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclass(frozen=True, slots=True)
class InputPicture:
    """A stranger's picture, opened apart, judged and kept. `picture` is what was judged: draw from it, never from the file."""

    picture: RawPicture = field(repr=False)
    verdict: Verdict
    ref: InputRef


class Archive:
    """Keeps finished pictures as `root/<first two of the job>/<job>/easel-<job>-<n from 1>.png`, those drawn from beside `root`."""

    def __init__(
        self,
        root: Path,
        *,
        classifier: Classifier,
        marker: Marker,
        version: str,
        model_names: Mapping[str, str],
        threshold: float | None = None,
        lora_hashes: Callable[[GenerationRequest], Mapping[str, str]] | None = None,
        free_bytes: Callable[[Path], int] = _free_bytes,
    ) -> None:
        """Take what it works with; `threshold` None is the classifier's published one. Makes `root`.

        `lora_hashes` gives the checksums of a request's LoRAs by name; it may read files.
        """
        self._root = root.resolve()
        self._judge = Judge(classifier, threshold=threshold)
        self._marker = marker
        self._version = version
        self._model_names = model_names
        self._lora_hashes = lora_hashes
        self._free_bytes = free_bytes
        self._root.mkdir(parents=True, exist_ok=True)
        self._inputs = InputShelf(self._root.with_name("inputs"))
        self._written: set[str] = set()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="files")
        # Strangers' pictures wait for a process of up to seconds; finished pictures must not wait behind them.
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="reader")

    async def write(self, job_id: str, request: GenerationRequest, result: GenerationResult) -> tuple[PictureFile, ...]:
        """Judge, encode, mark and write a job's pictures; what it returns is on disk.

        A picture is flagged where its score reaches the threshold, and where the classifier fails or hangs
        (score None). Pictures that compare become one sheet, which is judged by each of them. Repeating it overwrites. Raises DiskFull (what was written goes again) or StorageError.
        """
        folder = self._folder(job_id)
        self._written.add(job_id)
        if request.axes:
            tasks = [self._write_sheet(folder, job_id, request, result)]
        else:
            tasks = [self._judge_and_write(folder, job_id, request, result, picture) for picture in result.pictures]
        done = await asyncio.gather(*tasks, return_exceptions=True)
        files = [file for file in done if isinstance(file, PictureFile)]
        if len(files) == len(tasks):
            if files:
                await self._run(_sync_folder, folder)
            return tuple(sorted(files, key=lambda file: file.n))
        for file in files:  # not the folder: others of the request may lie there
            await self._run(Path(file.path).unlink, True)
        raise _as_storage_error(next(e for e in done if isinstance(e, BaseException)))

    async def preview(self, picture: RawPicture, *, adult_allowed: bool) -> bytes | None:
        """Encode a rough picture as a small marked JPEG; None where it counts as adult and may not be shown there."""
        if not adult_allowed and (await self._run(self._judge.judge, picture)).adult:
            return None
        return await self._run(self._marker.preview, picture)

    async def thumbnail(self, picture: RawPicture, *, adult_allowed: bool) -> RawPicture | None:
        """Make a finished picture small; None where it counts as adult and may not be shown there."""
        if not adult_allowed and (await self._run(self._judge.judge, picture)).adult:
            return None
        return await self._run(thumbnail, picture)

    async def contact(self, thumbnails: Mapping[int, RawPicture | None], request: GenerationRequest) -> bytes | None:
        """Lay out what is finished of a request as one marked JPEG; None where there is nothing to see."""
        if not any(thumbnails.values()):
            return None
        columns = len(request.axes[0].values) if request.axes else None
        sheet = await self._run(contact_sheet, dict(thumbnails), request.count, columns)
        return await self._run(self._marker.preview, sheet, SHEET_PX)

    async def bundle(self, files: Sequence[PictureFile]) -> bytes:
        """Pack finished pictures into one ZIP archive. Raises JobNotFound where one is gone, StorageError."""
        try:
            return await self._run(bundle, tuple(files))
        except FileNotFoundError:
            raise JobNotFound("The files of this request are gone; it was deleted, or kept too long.") from None
        except OSError as error:
            raise StorageError(f"The pictures cannot be read: {error.strerror}.") from error

    async def read_smaller(self, file: PictureFile, limit_bytes: int) -> tuple[str, bytes]:
        """Read a finished picture as a JPEG of at most `limit_bytes`, marks included: a file name and the bytes.

        Raises JobNotFound where it is gone, StorageError where it cannot be made so small.
        """
        try:
            return await self._run(self._marker.re_encode, Path(file.path), limit_bytes)
        except FileNotFoundError:
            raise JobNotFound(GONE) from None
        except OSError as error:
            raise _as_storage_error(error) from error

    async def read(self, file: PictureFile) -> bytes:
        """Read a finished picture. Raises JobNotFound where it is gone."""
        try:
            return await self._run(Path(file.path).read_bytes)
        except FileNotFoundError:
            raise JobNotFound(GONE) from None
        except OSError as error:
            raise StorageError(f"{file.file_name} cannot be read: {error.strerror}.") from error

    async def present(self, files: Sequence[PictureFile]) -> tuple[PictureFile, ...]:
        """Give those of a job's pictures whose files are there."""
        return await self._run(lambda: tuple(file for file in files if Path(file.path).is_file()))

    async def delete(self, job_id: str) -> None:
        """Remove a job's pictures; nothing where there are none."""
        await self._run(_remove, self._folder(job_id))
        self._written.discard(job_id)

    def check_space(self) -> None:
        """Raise DiskFull where less than 200 MB is free. Cheap: one call of the system."""
        try:
            free = self._free_bytes(self._root)
        except OSError as error:
            raise StorageError(f"The folder of the pictures cannot be reached: {error.strerror}.") from error
        if free < MIN_FREE_BYTES:
            raise DiskFull(
                f"The bot's disk is nearly full ({free // 1_000_000} MB left), so it takes no new requests. "
                "Waiting ones are kept; please tell whoever runs it."
            )

    async def read_info(self, data: bytes) -> PictureInfo | None:
        """Read how a stranger's picture was made, apart from this process. Raises AttachmentRefused."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, read_picture_info, data)

    async def take_input(
        self, data: bytes, *, adult_allowed: bool, mask: bool = False, whole: bool = False
    ) -> InputPicture:
        """Open a picture that something is to be drawn from, apart from this process, judge it and keep it.

        `adult_allowed` says whether adult pictures may be used where the request came from; a `mask` is read by what it leaves
        transparent, where it leaves anything so; one to be kept `whole` is refused where it would have to be made smaller. Every
        stranger's picture goes through here on its way to the engine. Raises AttachmentRefused for what is no
        sound picture, RequestError for one too large, ModerationRefused for what counts as adult where it may not be used; a classifier that fails counts
        as one that says so. DiskFull, StorageError.
        """
        opened, verdict = await self._open(data, INPUT_SIDE_PX, adult_allowed=adult_allowed, mask=mask, whole=whole)
        assert opened.picture is not None
        try:
            digest = await self._run(self._inputs.put, opened.picture)
        except OSError as error:
            raise _as_storage_error(error) from error
        return InputPicture(opened.picture, verdict, InputRef(digest, opened.picture.width, opened.picture.height))

    async def open_apart(
        self, data: bytes, *, adult_allowed: bool, side_px: int
    ) -> tuple[RawPicture, PictureInfo | None]:
        """Open and judge a picture as `take_input` does and keep nothing: it, at most `side_px` a side, and what its file says of its making."""
        opened, _ = await self._open(data, side_px, adult_allowed=adult_allowed)
        assert opened.picture is not None
        return opened.picture, read_info(opened.texts, (opened.width, opened.height))

    async def _open(
        self, data: bytes, side_px: int, *, adult_allowed: bool, mask: bool = False, whole: bool = False
    ) -> tuple[Decoded, Verdict]:
        read = functools.partial(decode, data, side_px, mask=mask)
        opened = await asyncio.get_running_loop().run_in_executor(self._readers, read)
        assert opened.picture is not None
        if whole:
            check_upscale(opened.width, opened.height, 1)
        verdict = await self._run(self._judge.judge, opened.picture)
        if verdict.adult and not adult_allowed:
            raise ModerationRefused(
                "The bot cannot tell that this picture is fit for this channel, so nothing is made of it here. "
                "Send another one, or use it in an age-restricted channel where the bot allows that."
            )
        return opened, verdict

    async def widen(self, ref: InputRef, side: str, amount: int) -> tuple[InputRef, InputRef]:
        """Keep an input picture with room around it, and the mask of that room. Raises RequestError, StorageError."""
        try:
            return await self._run(self._inputs.widen, ref.digest, side, amount)
        except OSError as error:
            raise _as_storage_error(error) from error

    async def adopt(self, file: PictureFile) -> InputRef:
        """Keep one of our own finished pictures as one to draw from. Raises JobNotFound where it is gone, StorageError."""
        try:
            return await self._run(self._inputs.adopt, Path(file.path))
        except FileNotFoundError:
            raise JobNotFound(GONE) from None
        except OSError as error:
            raise _as_storage_error(error) from error

    async def under_grid(self, file: PictureFile, grid: Grid, squares: Squares) -> bytes:
        """Show a finished picture under a grid as a marked JPEG. Raises JobNotFound where it is gone, StorageError."""
        try:
            picture = await self._run(under_grid, Path(file.path), grid, squares)
        except FileNotFoundError:
            raise JobNotFound(GONE) from None
        except OSError as error:
            raise StorageError(f"{file.file_name} cannot be read: {error.strerror or error}.") from error
        return await self._run(self._marker.preview, picture, SHOWN_PX)

    async def take_mask(self, grid: Grid, squares: Squares) -> InputRef:
        """Keep the mask of some squares as an input picture. Raises DiskFull, StorageError."""
        try:
            digest = await self._run(lambda: self._inputs.put(mask_of(grid, squares)))
        except OSError as error:
            raise _as_storage_error(error) from error
        return InputRef(digest, grid.width, grid.height)

    async def input_pictures(self, request: GenerationRequest) -> InputPictures:
        """Give the pictures a request is drawn from, in its size. Raises RequestError where one is gone, StorageError."""
        return await self._run(self._inputs.for_request, request) if request.inputs else InputPictures()

    async def export(self, records: bytes, digests: Sequence[str], limit_bytes: int) -> Export:
        """Pack a member's records with the input pictures of these digests, as `bot.files.export.pack`. Raises RequestError, StorageError."""

        def work() -> Export:
            return pack(records, self._inputs.paths(digests), limit_bytes)

        try:
            return await self._run(work)
        except OSError as error:
            raise _as_storage_error(error) from error

    async def drop_inputs(self, digests: Iterable[str]) -> None:
        """Remove input pictures; nothing where they are gone. Raises OSError."""
        await self._run(self._inputs.remove, tuple(digests))

    async def sweep_inputs(self, known: Iterable[str]) -> int:
        """Remove the input pictures that no request in `known` names and that were not just taken in; how many."""
        return await self._run(self._inputs.sweep, set(known))

    def orphans(self, known: Iterable[str]) -> tuple[str, ...]:
        """List the jobs that have a folder, are not in `known` and were not written by this process.

        Blocks on the disk.
        """
        # `known` was read a moment ago; a job committed and drawn since then is none of its business.
        ids = set(known) | self._written
        found = [folder.name for shelf in self._root.iterdir() if shelf.is_dir() for folder in shelf.iterdir()]
        return tuple(sorted(name for name in found if name not in ids and _JOB_ID.fullmatch(name)))

    async def sweep(self, known: Iterable[str]) -> int:
        """Remove the folders that a crash left behind, of jobs that are not in `known`; how many went."""
        gone = await self._run(self.orphans, set(known))
        for job_id in gone:
            await self.delete(job_id)
        return len(gone)

    def close(self) -> None:
        """Finish what is being written and end the threads."""
        self._pool.shutdown(wait=True)
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args))

    def _folder(self, job_id: str) -> Path:
        if not _JOB_ID.fullmatch(job_id):
            raise StorageError("A request's id may hold letters, digits, - and _ only.")
        return self._root / job_id[:2] / job_id

    async def _judge_and_write(
        self, folder: Path, job_id: str, request: GenerationRequest, result: GenerationResult, picture: RawPicture
    ) -> PictureFile:
        def work() -> PictureFile:
            return self._write_one(folder, job_id, request, result, picture, self._judge.judge(picture))

        return await self._run(work)

    async def _write_sheet(
        self, folder: Path, job_id: str, request: GenerationRequest, result: GenerationResult
    ) -> PictureFile:
        verdicts = await asyncio.gather(*(self._run(self._judge.judge, picture) for picture in result.pictures))
        scores = [verdict.score for verdict in verdicts if verdict.score is not None]
        score = max(scores) if len(scores) == len(verdicts) else None
        verdict = Verdict(score, any(one.adult for one in verdicts))

        def work() -> PictureFile:
            return self._write_one(folder, job_id, request, result, draw_sheet(request, result.pictures), verdict)

        return await self._run(work)

    def _write_one(
        self, folder: Path, job_id: str, request: GenerationRequest, result: GenerationResult, picture: RawPicture,
        verdict: Verdict,
    ) -> PictureFile:  # fmt: skip
        name = self._model_names.get(request.model, request.model)
        marks = provenance.marks(
            request, picture.n, job_id=job_id, model_name=name, device=result.device, dtype=result.dtype,
            version=self._version, lora_hashes=self._lora_hashes(request) if self._lora_hashes else None,
        )  # fmt: skip
        file_name = f"easel-{job_id}-{picture.n + 1}.png"
        data = self._marker.png(picture, marks, title=file_name)
        path = folder / file_name
        write_atomically(path, data)
        return PictureFile(
            n=picture.n, path=str(path), file_name=file_name, seed=picture.seed, width=picture.width,
            height=picture.height, size_bytes=len(data), nsfw_score=verdict.score, flagged=verdict.adult,
        )  # fmt: skip


def _sync_folder(folder: Path) -> None:
    # A rename lasts only once its folder is on disk; Windows has no such call and needs none.
    if os.name == "nt":
        return
    for place in (folder, folder.parent, folder.parent.parent):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise StorageError("A request's pictures could not be removed; the data folder's permissions forbid it.")


def _as_storage_error(error: BaseException) -> BaseException:
    if isinstance(error, OSError):
        if error.errno in _NO_ROOM:
            return DiskFull("The bot's disk is full, so the pictures could not be kept; please tell whoever runs it.")
        if isinstance(error, FileNotFoundError):  # the folder went with its request, which was cancelled or deleted
            log.info("the pictures' folder is gone: %s", error)
        else:
            log.error("writing pictures failed", exc_info=error)
        return StorageError(f"The pictures could not be written: {error.strerror or 'the disk refused'}.")
    if isinstance(error, Exception) and not isinstance(error, EaselError):
        log.error("encoding pictures failed", exc_info=error)
        return StorageError("The pictures could not be turned into files; the log says why.")
    return error
