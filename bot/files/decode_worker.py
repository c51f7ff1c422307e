"""Read one stranger's picture from standard input and say in JSON what it holds.

Run by `bot/files/decode.py` as a process of its own, isolated (`python -I decode_worker.py [SIDE]`): whatever a
hostile file does to the decoders happens here, with bounded memory and time and without the bot's secrets. With SIDE
the pixels follow the line of JSON, upright, on white where they are transparent, at most SIDE long and wide.
Imports nothing of Easel.
"""

from __future__ import annotations

import json
import struct
import sys
from io import BytesIO
from typing import Any

MAX_PIXELS = 40_000_000
MEMORY_BYTES = 1 << 30
CPU_S = 6
MAX_TEXT_CHARS = 1_000_000
"""Of all texts that are handed on, together."""
FORMATS = ("PNG", "JPEG", "WEBP")
KEPT = (
    "easel", "parameters", "prompt", "invokeai_metadata", "Description", "Comment", "UserComment", "ImageDescription",
    "Make", "Model",
)  # fmt: skip
_EXIF_IFD, _USER_COMMENT, _MAKER_NOTE = 0x8769, 0x9286, 0x927C
_OURS = b"easel\0"
_EXIF_TEXTS = {"ImageDescription": 270, "Make": 271, "Model": 272}


class Refused(Exception):
    """The picture is not read; the argument is the code `decode.py` has a sentence for."""


def bound() -> None:
    """Limit this process's memory and processor time, where the system can."""
    try:
        import resource
    except ImportError:  # Windows: the parent's time-out has to do
        return
    # At the softer limit of time the system sends SIGXCPU, by which `decode.py` knows what it was.
    limits = {"AS": (MEMORY_BYTES, MEMORY_BYTES), "CPU": (CPU_S, CPU_S + 1), "CORE": (0, 0), "FSIZE": (0, 0)}
    for kind, limit in limits.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), limit)
        except (AttributeError, ValueError, OSError):  # macOS refuses RLIMIT_AS
            continue


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Read a WebP's size from its header: its decoder makes room for the whole canvas as it opens the file."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", data[26:30])
    return width & 0x3FFF, height & 0x3FFF


def user_comment(value: object) -> str:
    """Decode EXIF's UserComment: eight bytes name the character code, the text follows."""
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        return ""
    code, body = value[:8], value[8:]
    if code.startswith(b"UNICODE"):
        # The standard leaves the byte order to the file; whichever half is mostly zero is the high one.
        big = body[0::2].count(0) >= body[1::2].count(0)
        return body.decode("utf-16-be" if big else "utf-16-le", "replace")
    if code.startswith(b"ASCII") or not code.strip(b"\0"):
        return body.decode("utf-8", "replace")
    return value.decode("utf-8", "replace")


def texts(image: Any) -> dict[str, str]:
    """Collect the texts that tell how a picture was made, from PNG chunks, EXIF and JPEG comments."""
    found: dict[str, str] = {}
    try:
        exif = image.getexif()
        inner = exif.get_ifd(_EXIF_IFD)
        found["UserComment"] = user_comment(inner.get(_USER_COMMENT))
        note = inner.get(_MAKER_NOTE)
        if isinstance(note, bytes) and note.startswith(_OURS):
            found["easel"] = note[len(_OURS) :].decode("utf-8", "replace")
        found.update({name: str(exif[tag]) for name, tag in _EXIF_TEXTS.items() if tag in exif})
    except Exception:  # damaged EXIF does not make the picture unsound
        found.clear()
    comment = image.info.get("comment")
    if isinstance(comment, bytes) and not found.get("UserComment"):
        found["UserComment"] = comment.decode("utf-8", "replace")
    for key, value in getattr(image, "text", {}).items():
        text = str(value)
        if type(value) is str:  # tEXt is Latin-1 by the standard, and UTF-8 by some programs
            try:
                text = text.encode("latin-1").decode("utf-8")
            except UnicodeError:
                text = str(value)
        found[str(key)] = text
    kept: dict[str, str] = {}
    left = MAX_TEXT_CHARS
    for key in KEPT:
        text = found.get(key, "").strip("\0")
        if 0 < len(text) <= left:
            kept[key] = text
            left -= len(text)
    return kept


def xmp(image: Any) -> str:
    """Give the XMP packet, empty where there is none or it is too long."""
    packet = image.info.get("xmp") or ""
    text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else str(packet)
    return text if len(text) <= MAX_TEXT_CHARS else ""


def pixels(image: Any, side: int, *, mask: bool = False) -> tuple[int, int, bytes]:
    """Give width, height and RGB bytes of the picture as it is seen; of a mask white where it is transparent."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if mask and image.getchannel("A").getextrema()[0] < 255:
            image = ImageOps.invert(image.getchannel("A")).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    return image.width, image.height, image.tobytes()


def read(data: bytes, side: int | None = None, *, mask: bool = False) -> dict[str, Any]:
    """Decode the picture in `data` fully; give its size, texts and, with `side`, "pixels" as bytes. Raises Refused."""
    from PIL import Image, PngImagePlugin

    Image.MAX_IMAGE_PIXELS = None  # checked here, before anything is decoded
    PngImagePlugin.MAX_TEXT_CHUNK = 4 * MAX_TEXT_CHARS
    PngImagePlugin.MAX_TEXT_MEMORY = 8 * MAX_TEXT_CHARS
    early = webp_size(data)
    if early and early[0] * early[1] > MAX_PIXELS:
        raise Refused("pixels")
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except MemoryError:
        raise Refused("memory") from None
    except Exception:
        known = data[:8] == b"\x89PNG\r\n\x1a\n" or data[:3] == b"\xff\xd8\xff" or early is not None
        raise Refused("broken" if known else "format") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Refused("pixels")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a phone's JPEG with a second view
        raise Refused("animated")
    try:
        image.load()
        answer: dict[str, Any] = {
            "format": image.format, "size": [width, height], "texts": texts(image), "xmp": xmp(image),
        }  # fmt: skip
        if side is not None:
            *answer["shown"], answer["pixels"] = pixels(image, side, mask=mask)
        return answer
    except MemoryError:
        raise Refused("memory") from None
    except Exception:
        raise Refused("broken") from None


def main() -> int:
    """Answer on standard output: {"size": [w, h], "texts": {…}, …} or {"refused": code}, then the pixels."""
    bound()
    body = b""
    try:
        side = int(sys.argv[1]) if len(sys.argv) > 1 else None
        answer = read(sys.stdin.buffer.read(), side, mask="mask" in sys.argv[2:])
        body = answer.pop("pixels", b"")
    except Refused as refusal:
        answer = {"refused": str(refusal)}
    except MemoryError:
        answer = {"refused": "memory"}
    sys.stdout.buffer.write(json.dumps(answer).encode("ascii") + b"\n" + body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
