"""A Pillow image that carries what made it into the files it is saved to."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bot.files.credentials import TYPES, Credentials
from bot.files.encode import XMP_KEYWORD, exif_of
from bot.files.marker import Marker
from bot.generation import RawPicture
from bot.provenance import EASEL_KEY, PARAMETERS_KEY, Marks


class Picture(Image.Image):
    """A Pillow image that writes what made it into the file it is saved to, and signs it."""

    credentials: Credentials

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """Save as Pillow does; PNG, JPEG and WebP get the texts, the IPTC mark and Content Credentials, last.

        Raises StorageError where it cannot be signed.
        """
        suffix = os.path.splitext(str(getattr(fp, "name", fp)))[1]
        name = (format or suffix.lstrip(".")).upper()
        name = "JPEG" if name == "JPG" else name
        kind = TYPES.get(name)
        if kind is None:
            super().save(fp, format, **params)
            return
        self._tell(name, params)
        buffer = BytesIO()
        super().save(buffer, name, **params)
        if isinstance(fp, (str, bytes, os.PathLike)):
            path = Path(os.fsdecode(cast("str", fp)))
            path.write_bytes(self.credentials.sign(buffer.getvalue(), kind, title=path.name))
        else:
            title = Path(str(getattr(fp, "name", f"picture.{name.lower()}"))).name
            fp.write(self.credentials.sign(buffer.getvalue(), kind, title=title))

    def _tell(self, name: str, params: dict[str, Any]) -> None:
        """Add what the picture says of itself to the arguments of Pillow's save, unless the caller has."""
        xmp = self.info.get("xmp")
        texts = {key: text for key in (PARAMETERS_KEY, EASEL_KEY) if isinstance(text := self.info.get(key), str)}
        if name != "PNG":
            params.setdefault("xmp", xmp)
            params.setdefault("exif", exif_of(texts))
        elif "pnginfo" not in params:
            params["pnginfo"] = info = PngInfo()
            for keyword, text in texts.items():
                if keyword == EASEL_KEY or not text.isascii():
                    info.add_itxt(keyword, text)
                else:
                    info.add_text(keyword, text)
            if isinstance(xmp, bytes):
                info.add_itxt(XMP_KEYWORD, xmp.decode("utf-8"))


def to_image(picture: RawPicture, marks: Marks, marker: Marker) -> Image.Image:
    """Make a Pillow image that carries its marks."""
    picture = marker.watermarked(picture)
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)
    image.info.update(marks.chunks)
    image.info["xmp"] = marks.xmp.encode("utf-8")
    image.__class__ = Picture
    image.credentials = marker.credentials  # type: ignore[attr-defined]  # it is a Picture now
    return image
