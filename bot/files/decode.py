"""Read pictures that strangers sent: in a process of its own, bounded in time and memory."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from bot.errors import AttachmentRefused
from bot.files.decode_worker import MAX_PIXELS
from bot.generation import RawPicture
from bot.provenance import PictureInfo, read_info

log = logging.getLogger(__name__)

MAX_PICTURE_BYTES = 25 * 1024 * 1024
MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""The texts' limit in the worker, each character escaped."""
TIMEOUT_S = 10.0
_STDERR_BYTES = 64 * 1024
_CPU_LIMIT = -getattr(signal, "SIGXCPU", 0) or None
WORKER = Path(__file__).with_name("decode_worker.py")

_SENTENCES = {
    "format": "That file is not a PNG, JPEG or WebP picture; those three are read.",
    "broken": "That picture is damaged or cut off; send the original file again.",
    "pixels": f"That picture has more than {MAX_PIXELS // 1_000_000} megapixels; send a smaller one.",
    "animated": "That picture is animated; send a still PNG, JPEG or WebP.",
    "memory": "That picture takes too much memory to open; send a smaller one.",
    "slow": "That picture takes too long to open; send a simpler or smaller one.",
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A stranger's picture, opened apart: Pillow's name of its format, its texts, its XMP, and where asked its pixels.

    `width` and `height` are the file's; `picture` may be smaller.
    """

    format: str
    width: int
    height: int
    texts: dict[str, str]
    xmp: str
    picture: RawPicture | None = field(default=None, repr=False)


def read_picture_info(data: bytes) -> PictureInfo | None:
    """Read how the picture in `data` was made; None where it does not say. Blocks and raises as `decode` does."""
    decoded = decode(data)
    return read_info(decoded.texts, (decoded.width, decoded.height))


def decode(data: bytes, side_px: int | None = None, *, mask: bool = False) -> Decoded:
    """Open a stranger's picture in a process of its own; with `side_px` its pixels too, at most so long and wide.

    The pixels are as people see them: upright, and on white where they are transparent; of a `mask` that leaves something
    transparent they are white there and black elsewhere. Blocks for up to about ten
    seconds: call it on a pool's thread. Raises AttachmentRefused for what is not one sound still PNG, JPEG or WebP of at
    most 40 megapixels and 25 MiB.
    """
    if not data:
        raise AttachmentRefused("That file is empty; send a PNG, JPEG or WebP picture.")
    if len(data) > MAX_PICTURE_BYTES:
        raise AttachmentRefused(f"That file is larger than {MAX_PICTURE_BYTES >> 20} MiB; send a smaller picture.")
    answer, body = _ask(data, side_px, mask=mask)
    size, texts = _size(answer.get("size")), answer.get("texts")
    if size is None or not isinstance(texts, dict):
        refused = answer.get("refused")
        raise AttachmentRefused(_SENTENCES.get(refused if isinstance(refused, str) else "", _SENTENCES["broken"]))
    picture = None
    if side_px is not None:
        shown = _size(answer.get("shown"))
        if shown is None or len(body) != shown[0] * shown[1] * 3:
            raise AttachmentRefused(_SENTENCES["broken"])
        picture = RawPicture(0, 0, *shown, body)
    said = {str(key): str(text) for key, text in cast("dict[str, Any]", texts).items()}
    return Decoded(str(answer.get("format")), *size, said, str(answer.get("xmp", "")), picture)


def _size(value: object) -> tuple[int, int] | None:
    """Read the size in an answer: a decoder that was taken over may answer anything."""
    if not isinstance(value, list):
        return None
    sides = cast("list[Any]", value)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides) or sides[0] * sides[1] > MAX_PIXELS:
        return None
    return sides[0], sides[1]


def _ask(data: bytes, side_px: int | None = None, *, mask: bool = False) -> tuple[dict[str, Any], bytes]:
    # Only what Windows needs to start a program: a decoder that is taken over finds no token in its environment.
    environment = {key: os.environ[key] for key in ("SYSTEMROOT", "PATH") if key in os.environ}
    asked = [] if side_px is None else [str(side_px), *(["mask"] if mask else [])]
    try:
        reader = subprocess.Popen(
            [sys.executable, "-I", str(WORKER), *asked], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=environment,
        )  # fmt: skip
    except OSError as error:
        log.error("the picture reader did not start: %s", error)
        raise AttachmentRefused("The bot cannot open pictures right now; try again in a moment.") from None
    most = MAX_ANSWER_BYTES + 3 * (side_px or 0) ** 2
    with reader:
        out_of_time = threading.Event()

        def stop() -> None:
            out_of_time.set()
            reader.kill()

        clock = threading.Timer(TIMEOUT_S, stop)
        feeder = threading.Thread(target=_feed, args=(reader, data), name="reader-feed", daemon=True)
        clock.start()
        feeder.start()
        try:
            assert reader.stdout is not None
            said = reader.stdout.read(most + 1)
            if len(said) > most:
                reader.kill()
            reader.wait()
        finally:
            clock.cancel()
            reader.kill()
            feeder.join()
        if out_of_time.is_set() or reader.returncode == _CPU_LIMIT:
            return {"refused": "slow"}, b""
        line, _, body = said.partition(b"\n")
        return _answer(line, reader), body


def _feed(reader: subprocess.Popen[bytes], data: bytes) -> None:
    assert reader.stdin is not None
    # A reader that has seen enough, or was ended, takes no more.
    with contextlib.suppress(OSError):
        reader.stdin.write(data)
    with contextlib.suppress(OSError):
        reader.stdin.close()


def _answer(text: bytes, reader: subprocess.Popen[bytes]) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        # Killed by a limit, or a decoder crashed; either way the file is to blame.
        said = b"" if reader.stderr is None else reader.stderr.read(_STDERR_BYTES)
        log.warning("the picture reader ended with %s: %s", reader.returncode, said[-300:].decode(errors="replace"))
        return {"refused": "broken"}
    return cast("dict[str, Any]", answer) if isinstance(answer, dict) else {"refused": "broken"}
