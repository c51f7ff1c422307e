"""Shows a result, over as many messages as its files take.

The first message is the request's own and is edited. Which message shows which pictures is recorded before the first
one goes out, and each that stands is noted, so that a crash in between shows none of them twice. Event loop only.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from bot.errors import StorageError
from bot.generation import Job, PictureFile, Post, PostedTo
from bot.scheduling.service import GenerationService
from bot.ui import cards, words
from bot.ui.messenger import Attachment, Messenger, TooLarge, Undeliverable
from bot.ui.parcels import parcels

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
        plan = parcels(shown, self._messenger.limits(job))
        file_bytes = plan[0].file_bytes
        posts = await self._service.outbox.posts(job.id)
        if not posts and len(plan) > 1:
            posts = await self._service.outbox.plan(job.id, [parcel.pictures for parcel in plan])
        planned = [post.pictures for post in posts] if posts else [plan[0].pictures]
        left_out = len(shown) - sum(map(len, planned))
        hidden = len(job.files) - len(shown)
        first = chosen(shown, planned[0])
        where, message_id = await self._show_first(job, first, file_bytes, len(planned), left_out, hidden)
        if not posts:
            return where, message_id
        await self._service.outbox.note(job.id, 1, message_id, None, done=True)
        kept = 0
        for post in posts[1:]:
            if not post.done and not await self._show_part(job, post, chosen(shown, post.pictures), file_bytes, posts):
                kept += len(post.pictures)
        if kept:
            await self._show_first(job, first, file_bytes, len(planned), left_out + kept, hidden)
        return where, message_id

    async def erase_more(self, job: Job) -> None:
        """Delete the messages beyond the first."""
        for post in (await self._service.outbox.posts(job.id))[1:]:
            await self._messenger.erase_part(job, post)

    async def _show_first(
        self, job: Job, files: Sequence[PictureFile], file_bytes: int, messages: int, kept: int, hidden: int
    ) -> tuple[PostedTo, int | None]:
        name = self._service.catalogue.name_of(job.request.model)
        notes = [] if messages == 1 else [f"message 1 of {messages}"]
        if kept:
            notes.append(f"{words.pictures(kept)} could not be posted here, and wait for you in `/history`")

        async def send(packed: Packed) -> tuple[PostedTo, int | None]:
            view = cards.result(job, name, packed.shown, notes=[*notes, *packed.notes], hidden=hidden)
            return await self._messenger.deliver(job, view, packed.files)

        return await self._fitting(job, files, file_bytes, send)

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
            return await send(await pack(self._service, files, min(half, SURELY_TAKEN_BYTES)))


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


def chosen(files: Sequence[PictureFile], numbers: Sequence[int]) -> list[PictureFile]:
    """Choose files by their `n`."""
    return [file for file in files if file.n in numbers]
