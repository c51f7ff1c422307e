"""Several picture files as one ZIP archive. Nothing is compressed: PNG files hardly get smaller."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from bot.generation import PictureFile

_END_BYTES = 22
_ENTRY_BYTES = 30 + 46
_EPOCH = (1980, 1, 1, 0, 0, 0)


def entry_name(file: PictureFile) -> str:
    """Name a picture inside the archive: 0001.png for the first."""
    return f"{file.n + 1:04d}{Path(file.path).suffix}"


def bundle_bytes(files: Sequence[PictureFile]) -> int:
    """Tell how large the archive of these files is, exactly. Pure."""
    return _END_BYTES + sum(file.size_bytes + _ENTRY_BYTES + 2 * len(entry_name(file)) for file in files)


def bundle(files: Sequence[PictureFile]) -> bytes:
    """Pack files as they lie on the disk; the same files give the same bytes. Blocks: pool threads. Raises OSError."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.writestr(zipfile.ZipInfo(entry_name(file), _EPOCH), Path(file.path).read_bytes())
    return buffer.getvalue()
