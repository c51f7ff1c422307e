"""Write pictures: PNG files that say what made them, and small JPEG previews. Pool threads."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bot.generation import RawPicture

COMPRESS_LEVEL = 1
PREVIEW_SIDE_PX = 256
PREVIEW_QUALITY = 80
XMP_KEYWORD = "XML:com.adobe.xmp"


def _image(picture: RawPicture) -> Image.Image:
    return Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)


def encode_png(picture: RawPicture, chunks: Mapping[str, str], xmp: str) -> bytes:
    """Encode `picture` as PNG at its own size.

    `chunks` (keyword → text) go in as tEXt where Latin-1 holds them, as other Stable Diffusion programs write
    and read them, else as iTXt; JSON always as iTXt. `xmp` is the XMP packet. The same input gives the same bytes.
    """
    info = PngInfo()
    for keyword, text in chunks.items():
        if _latin1(text) and not text.startswith("{"):
            info.add_text(keyword, text)
        else:
            info.add_itxt(keyword, text)
    info.add_itxt(XMP_KEYWORD, xmp)
    buffer = BytesIO()
    _image(picture).save(buffer, "PNG", pnginfo=info, compress_level=COMPRESS_LEVEL)
    return buffer.getvalue()


def _latin1(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def encode_preview(picture: RawPicture) -> bytes:
    """Encode a rough picture as a small JPEG: at most 256 px on the long side, tiny ones enlarged up to four times."""
    image = _image(picture)
    long_side = max(image.size)
    scale = min(4, PREVIEW_SIDE_PX // long_side) if long_side < PREVIEW_SIDE_PX else PREVIEW_SIDE_PX / long_side
    if scale != 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=PREVIEW_QUALITY)
    return buffer.getvalue()
