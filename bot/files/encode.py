"""Write pictures: PNG and JPEG files that say what made them, and small previews. Pool threads.

Nothing here is signed; `bot/files/marker.py` does that last.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bot.generation import RawPicture
from bot.provenance import EASEL_KEY, PARAMETERS_KEY

COMPRESS_LEVEL = 1
PREVIEW_SIDE_PX = 256
PREVIEW_QUALITY = 80
XMP_KEYWORD = "XML:com.adobe.xmp"
_EXIF_IFD, _USER_COMMENT, _MAKER_NOTE = 0x8769, 0x9286, 0x927C


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


def exif_of(texts: Mapping[str, str]) -> Image.Exif:
    """Put a picture's texts where JPEG and WebP have room for them.

    `parameters` goes into EXIF's UserComment, as other Stable Diffusion programs write and read it, the `easel` record
    into MakerNote.
    """
    inner: dict[int, bytes] = {}
    parameters = texts.get(PARAMETERS_KEY) or texts.get("UserComment")
    if parameters:
        inner[_USER_COMMENT] = b"UNICODE\0" + parameters.encode("utf-16-be", "replace")
    if EASEL_KEY in texts:
        inner[_MAKER_NOTE] = b"easel\0" + texts[EASEL_KEY].encode("utf-8", "replace")
    exif = Image.Exif()
    exif[_EXIF_IFD] = inner
    return exif


def encode_jpeg(image: Image.Image, texts: Mapping[str, str], xmp: str, quality: int) -> bytes:
    """Encode an image as JPEG with its texts and its XMP packet."""
    buffer = BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality, exif=exif_of(texts).tobytes(), xmp=xmp.encode("utf-8"))
    return buffer.getvalue()


def encode_preview(picture: RawPicture, xmp: str, side_px: int = PREVIEW_SIDE_PX) -> bytes:
    """Encode a rough picture as a small JPEG: at most `side_px` on the long side, tiny ones enlarged up to four times."""
    image = _image(picture)
    long_side = max(image.size)
    scale = min(4, side_px // long_side) if long_side < side_px else side_px / long_side
    if scale != 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=PREVIEW_QUALITY, xmp=xmp.encode("utf-8"))
    return buffer.getvalue()
