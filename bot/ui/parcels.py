"""How a result's files are spread over messages, within what Discord takes in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.generation import PictureFile

FILES_A_MESSAGE = 10
REQUEST_BYTES = 25 * 1024 * 1024 - 256 * 1024
"""Discord takes 25 MiB a request; the rest is for the card and the form around the files."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be sent: bytes a file, bytes and files a message, and how many messages (None: any number)."""

    file_bytes: int
    request_bytes: int = REQUEST_BYTES
    files: int = FILES_A_MESSAGE
    messages: int | None = None


@dataclass(frozen=True, slots=True)
class Parcel:
    """The pictures of one message, by `n`, and the most bytes one of its files may have."""

    pictures: tuple[int, ...]
    file_bytes: int


def parcels(files: Sequence[PictureFile], limits: Limits, reserved_bytes: int = 0) -> list[Parcel]:
    """Spread files over messages, in order. A file over its limit counts as re-encoded to it.

    `reserved_bytes`, where there are any, are kept free in the first message for one more file.

    Where there may be only so many messages, files are made smaller until they fit; pictures for which there is no
    message even so are left out.
    """
    file_bytes = min(limits.file_bytes, limits.request_bytes)
    while True:
        found = _spread(files, file_bytes, limits, reserved_bytes)
        if limits.messages is None or len(found) <= limits.messages:
            return found
        places = limits.messages * limits.files - (reserved_bytes > 0)
        if len(files) > places:
            files = files[:places]
        else:
            file_bytes = file_bytes * 2 // 3


def _spread(files: Sequence[PictureFile], file_bytes: int, limits: Limits, reserved_bytes: int) -> list[Parcel]:
    found: list[list[int]] = []
    room = places = 0
    for file in files:
        size = min(file.size_bytes, file_bytes)
        if not found or size > room or len(found[-1]) >= places:
            room = limits.request_bytes - (0 if found else reserved_bytes)
            places = limits.files - (not found and reserved_bytes > 0)
            found.append([])
        found[-1].append(file.n)
        room -= size
    return [Parcel(tuple(numbers), file_bytes) for numbers in found]
