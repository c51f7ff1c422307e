"""Shows a result, over as many messages as its files take.

The first message is the request's own and is edited. Which message shows which pictures is recorded before the first
one goes out, and each that stands is noted, so that a crash in between shows none of them twice. Event loop only.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from bot.errors import StorageError
from bot.generation import Job, PictureFile, Post, PostedTo
from bot.scheduling.service import GenerationService
from bot.ui import cards, words
from bot.ui.messenger import Attachment, Messenger, TooLarge, Undeliverable
from bot.ui.parcels import FILES_A_MESSAGE, REQUEST_BYTES, Limits, parcels
from bot.ui.regions import may_redraw

log = logging.getLogger(__name__)
T = TypeVar("T")

SURELY_TAKEN_BYTES = 10 * 1024 * 1024
"""What Discord takes everywhere."""


class Packed:
    """The files of one message as they are sent, and what is to be said of them."""

    def __init__(self) -> None:
        self.shown: list[PictureFile] = []
        self.files: list[Attachment] = []
        self.notes: list[str] = []
        self.halved = False


@dataclass(frozen=True, slots=True)
class _First:
    """What the first message of a result shows and says: its pictures, how many messages there are, what is not shown."""

    files: Sequence[PictureFile]
    file_bytes: int
    messages: int
    kept: int
    hidden: int
    archived: Sequence[PictureFile]
    """The pictures that go along as an archive, too; none where no archive does."""


class Poster:
    """Turns finished pictures into messages."""

    def __init__(self, messenger: Messenger, service: GenerationService) -> None:
        self._messenger = messenger
        self._service = service

    async def show(self, job: Job, shown: Sequence[PictureFile]) -> tuple[PostedTo, int | None]:
        """Show these pictures, each once; where the first message stands and its id.

        What has no message of its own after all waits in `/history`, and the first card says so. Raises Undeliverable
        with a sentence, Unanswered (then all of it may be repeated), JobNotFound or StorageError.
        """
        limits = self._messenger.limits(job)
        archive_bytes = archived_bytes(self._service, job, shown, limits)
        plan = parcels(shown, limits, archive_bytes)
        file_bytes = plan[0].file_bytes
        posts = await self._service.outbox.posts(job.id)
        if not posts and len(plan) > 1:
            posts = await self._service.outbox.plan(job.id, [parcel.pictures for parcel in plan])
        planned = [post.pictures for post in posts] if posts else [plan[0].pictures]
        left_out = len(shown) - sum(map(len, planned))
        hidden = len(job.files) - len(shown)
        files = chosen(shown, planned[0])
        # What was planned before a crash may leave no room for it, where the limits were others.
        archived = shown if archive_bytes and fits_beside(files, archive_bytes, file_bytes) else []
        first = _First(files, file_bytes, len(planned), left_out, hidden, archived)
        where, message_id = await self._show_first(job, first)
        if not posts:
            return where, message_id
        await self._service.outbox.note(job.id, 1, message_id, None, done=True)
        kept = 0
        for post in posts[1:]:
            if not post.done and not await self._show_part(job, post, chosen(shown, post.pictures), file_bytes, posts):
                kept += len(post.pictures)
        if kept:
            await self._show_first(job, replace(first, kept=left_out + kept))
        return where, message_id

    async def erase_more(self, job: Job) -> None:
        """Delete the messages beyond the first."""
        for post in (await self._service.outbox.posts(job.id))[1:]:
            await self._messenger.erase_part(job, post)

    async def _show_first(self, job: Job, first: _First) -> tuple[PostedTo, int | None]:
        name = self._service.catalogue.name_of(job.request.model)
        notes = [] if first.messages == 1 else [f"message 1 of {first.messages}"]
        if first.kept:
            notes.append(f"{words.pictures(first.kept)} could not be posted here, and wait for you in `/history`")
        archive = await pack_archive(self._service, job, first.archived)

        async def send(packed: Packed) -> tuple[PostedTo, int | None]:
            beside = None if packed.halved else archive
            said = [*notes, *packed.notes, *([] if beside else no_archive(job, len(job.files) - first.hidden))]
            view = cards.result(
                job, name, packed.shown, notes=said, hidden=first.hidden, archive=beside.name if beside else None,
                redrawn=may_redraw(job, self._service.catalogue),
            )  # fmt: skip
            return await self._messenger.deliver(job, view, [*packed.files, *([beside] if beside else [])])

        return await self._fitting(job, first.files, first.file_bytes, send)

    async def _show_part(
        self, job: Job, post: Post, files: Sequence[PictureFile], file_bytes: int, posts: Sequence[Post]
    ) -> bool:
        outbox = self._service.outbox
        known = post

        async def noted(message_id: int, channel_id: int) -> None:
            nonlocal known
            known = replace(post, message_id=message_id, channel_id=channel_id)
            await outbox.note(job.id, post.part, message_id, channel_id, done=False)

        async def send(packed: Packed) -> tuple[int, int]:
            view = cards.more(job, packed.shown, notes=[f"message {post.part} of {len(posts)}", *packed.notes])
            return await self._messenger.deliver_part(job, known, view, packed.files, noted)

        try:
            message_id, channel_id = await self._fitting(job, files, file_bytes, send)
        except Undeliverable as error:
            log.warning("message %d of request %s could not be delivered: %s", post.part, job.id, error)
            return False
        await outbox.note(job.id, post.part, message_id, channel_id, done=True)
        return True

    async def _fitting(
        self, job: Job, files: Sequence[PictureFile], file_bytes: int, send: Callable[[Packed], Awaitable[T]]
    ) -> T:
        """Send, and where Discord says that it is too large, once more at half the size."""
        packed = await pack(self._service, files, file_bytes)
        try:
            return await send(packed)
        except TooLarge:
            half = sum(len(file.data) for file in packed.files) // 2 // len(packed.files)
            log.info("the files of request %s are too large for Discord: again at %d bytes each", job.id, half)
            packed = await pack(self._service, files, min(half, SURELY_TAKEN_BYTES))
            packed.halved = True
            return await send(packed)


async def pack(service: GenerationService, files: Sequence[PictureFile], file_bytes: int) -> Packed:
    """Read the files of one message; those of more than `file_bytes` smaller. Raises JobNotFound, StorageError, Undeliverable."""
    packed = Packed()
    for file in files:
        if file.size_bytes <= file_bytes:
            packed.shown.append(file)
            packed.files.append(Attachment(file.file_name, await service.read_picture(file)))
            continue
        try:
            name, data = await service.read_smaller(file, file_bytes)
        except StorageError as error:
            raise Undeliverable(str(error)) from error
        packed.shown.append(replace(file, file_name=name))
        packed.files.append(Attachment(name, data))
        was = f"{words.size_mb(file.size_bytes)} are more than Discord takes here"
        packed.notes.append(f"picture {file.n + 1} is shown as JPEG: its {was}")
    return packed


def archived_bytes(service: GenerationService, job: Job, shown: Sequence[PictureFile], limits: Limits) -> int:
    """Tell how large the archive of a list's pictures is; 0 where none goes along, since it is no list or too large."""
    if not job.request.listed or len(shown) < 2:
        return 0
    size = service.bundle_bytes(shown)
    return size if size <= min(limits.file_bytes, limits.request_bytes // 2) else 0


def fits_beside(files: Sequence[PictureFile], archive_bytes: int, file_bytes: int) -> bool:
    """Whether an archive has room in the message of these files."""
    taken = sum(min(file.size_bytes, file_bytes) for file in files)
    return len(files) < FILES_A_MESSAGE and taken + archive_bytes <= REQUEST_BYTES


async def pack_archive(service: GenerationService, job: Job, files: Sequence[PictureFile]) -> Attachment | None:
    """Make the archive of these pictures; None where there are none. Raises JobNotFound, StorageError."""
    return Attachment(f"easel-{job.id}.zip", await service.bundle(files)) if files else None


def no_archive(job: Job, shown: int) -> list[str]:
    """Say why a list's pictures come without an archive."""
    return (
        ["all of them as one archive would be larger than Discord takes here"]
        if job.request.listed and shown > 1
        else []
    )


def chosen(files: Sequence[PictureFile], numbers: Sequence[int]) -> list[PictureFile]:
    """Choose files by their `n`."""
    return [file for file in files if file.n in numbers]
