"""From pictures to files that say what they are: texts, IPTC mark, the watermark where it is on, and C2PA last. Pool threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path

from PIL import Image

from bot.config import Settings
from bot.errors import StorageError
from bot.files.credentials import JPEG, PNG, TYPES, Credentials, load_credentials
from bot.files.decode_worker import texts, xmp
from bot.files.encode import PREVIEW_SIDE_PX, encode_jpeg, encode_png, encode_preview
from bot.files.watermark import embed
from bot.generation import RawPicture
from bot.provenance import Marks, iptc_xmp

PREVIEW_TITLE = "preview.jpg"
QUALITIES = (95, 90, 85, 75, 60, 40)
"""What a JPEG is tried with until it is small enough; below, the picture is no longer the one that was drawn."""


SMALLEST_SIDE_PX = 64


class Marker:
    """Makes every file that leaves the bot. Safe from any thread."""

    def __init__(self, credentials: Credentials, *, version: str, watermark: bool = False) -> None:
        """`watermark` puts the signer's number into the pixels, too."""
        self.credentials = credentials
        self._watermark = watermark
        self._preview_xmp = iptc_xmp(version)

    def watermarked(self, picture: RawPicture) -> RawPicture:
        """Put the watermark into a picture, where that is on."""
        return embed(picture, self.credentials.identity.mark) if self._watermark else picture

    def png(self, picture: RawPicture, marks: Marks, *, title: str) -> bytes:
        """Encode a picture at its own size with everything it says of itself; `title` is the file's name.

        The same picture and marks give the same pixels and texts; the signature has random bits. Raises StorageError.
        """
        data = encode_png(self.watermarked(picture), marks.chunks, marks.xmp)
        return self.credentials.sign(data, PNG, title=title)

    def preview(self, picture: RawPicture, side_px: int = PREVIEW_SIDE_PX) -> bytes:
        """Encode a rough picture as a small JPEG with the marks, without what made it. Raises StorageError."""
        return self.credentials.sign(encode_preview(picture, self._preview_xmp, side_px), JPEG, title=PREVIEW_TITLE)

    def re_encode(self, path: Path, limit_bytes: int) -> tuple[str, bytes]:
        """Make one of our files anew, as a JPEG of at most `limit_bytes`: its name and bytes.

        Only where no quality fits, the sides are halved. Texts and marks stay, and the manifest says what the file was made from. Blocks on
        the disk. Raises StorageError where even a coarse JPEG is larger, and OSError.
        """
        data = path.read_bytes()
        name = path.with_suffix(".jpg").name
        with Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            image.load()
            kind, said, packet = TYPES[image.format or ""], texts(image), xmp(image)
            for coarser, quality in _coarser(image):
                smaller = encode_jpeg(coarser, said, packet, quality)
                if len(smaller) >= limit_bytes:
                    continue
                signed = self.credentials.sign(smaller, JPEG, title=name, parent=(path.name, kind, data))
                if len(signed) <= limit_bytes:
                    return name, signed
        raise StorageError(f"{path.name} cannot be made smaller than {limit_bytes / 1e6:.3g} MB; draw it smaller.")


def _coarser(image: Image.Image) -> Iterator[tuple[Image.Image, int]]:
    """Give a picture with each of QUALITIES, the finest first, and where no quality does, with half the sides, and so on."""
    while True:
        yield from ((image, quality) for quality in QUALITIES)
        if min(image.size) < 2 * SMALLEST_SIDE_PX:
            return
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def load_marker(settings: Settings, *, version: str, now: datetime) -> Marker:
    """Make the marker that the settings ask for; the first start makes a certificate. Blocks. Raises ConfigError."""
    credentials = load_credentials(settings, version=version, now=now)
    return Marker(credentials, version=version, watermark=settings.watermark)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file to the disk or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
