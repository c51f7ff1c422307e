"""What a member is given of all that is kept of them: their records, and the pictures they drew from, as one file. Blocks: pool threads."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from bot.errors import RequestError

RECORDS = "easel-my-data"
INPUTS = "inputs"
MAX_EXPORT_BYTES = 25 * 1024 * 1024
"""What one message may carry in all; a larger file is nothing to hold in memory for each who asks."""
_END_BYTES = 22
_ENTRY_BYTES = 30 + 46
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Export:
    """A file for a member: JSON, or a ZIP archive of it and of pictures; `left_out` is how many pictures had no room."""

    name: str
    data: bytes = field(repr=False)
    pictures: int = 0
    left_out: int = 0


def input_name(digest: str) -> str:
    """Name an input picture as it lies in an export."""
    return f"{INPUTS}/{digest}.png"


def pack(records: bytes, pictures: Sequence[Path], limit_bytes: int) -> Export:
    """Pack a member's records (JSON) and their input pictures, the first ones first, into at most `limit_bytes`.

    Records alone stay JSON. Raises RequestError where not even they fit, OSError.
    """
    limit_bytes = min(limit_bytes, MAX_EXPORT_BYTES)
    if not pictures and len(records) <= limit_bytes:
        return Export(f"{RECORDS}.json", records)
    buffer = BytesIO()
    packed = left_out = 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(f"{RECORDS}.json", _EPOCH), records, zipfile.ZIP_DEFLATED)
        taken = buffer.tell() + _END_BYTES + 46 + len(f"{RECORDS}.json")
        if taken > limit_bytes:
            raise RequestError("There is more about you than fits into a message; ask whoever runs the bot for it.")
        for path in pictures:
            name = input_name(path.stem)
            try:
                size = path.stat().st_size + _ENTRY_BYTES + 2 * len(name)
                if taken + size > limit_bytes:
                    left_out += 1
                    continue
                data = path.read_bytes()
            except FileNotFoundError:
                continue  # it went meanwhile
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
            taken, packed = taken + size, packed + 1
    return Export(f"{RECORDS}.zip", buffer.getvalue(), packed, left_out)
